"""Every option of the four commands: type, range and unit, in one place.

Defaults are in ``conf``; ``cli.options`` compares a configuration with what is here,
and with ``schema_targets`` for what ``_target_`` names.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pft_lightning.evaluation.force_constants import Method
from pft_lightning.losses.terms import LossKind, Reduction
from pft_lightning.options.types import (
    Accelerator,
    Angstrom,
    AtLeastZero,
    Backend,
    Checkpoint,
    Count,
    Cutoff,
    Device,
    Devices,
    Dtype,
    EVPerAngstrom,
    EVPerAtom,
    EVPerCubicAngstrom,
    Matrix,
    NAtoms,
    Natural,
    Nodes,
    Options,
    Path,
    Paths,
    Positive,
    Processes,
    ReadOptions,
    Seed,
    Words,
)
from pft_lightning.types import Engine


class Model(Options):
    """The potential to be trained."""

    backend: Backend
    checkpoint: Checkpoint
    dtype: Dtype
    head: str | None
    trust: bool = False


class EvaluatedModel(Options):
    """The potential to be evaluated, unless ``calculator`` is."""

    backend: Backend
    checkpoint: Checkpoint | None
    dtype: Dtype
    head: str | None
    trust: bool = False


class ExportedModel(Options):
    """A file in place of a run."""

    backend: Backend
    checkpoint: Checkpoint | None
    dtype: Dtype | None
    head: str | None
    trust: bool = False


class Folder(Options):
    """Where a command writes."""

    run: Path


class PhononWeights(Options):
    """Weights of the losses of phonon structures."""

    energy: AtLeastZero
    forces: AtLeastZero
    stress: AtLeastZero
    hvp: AtLeastZero


class UpstreamWeights(Options):
    """Weights of the losses of upstream frames."""

    energy: AtLeastZero
    forces: AtLeastZero
    stress: AtLeastZero


class Kinds(Options):
    """How an error becomes a loss."""

    energy: LossKind
    forces: LossKind
    stress: LossKind
    hvp: LossKind


class Loss(Options):
    """The losses of a training."""

    phonon: PhononWeights
    upstream: UpstreamWeights
    kind: Kinds
    huber_delta: Positive
    reduction: Reduction
    hvp_schedule: Literal["constant", "linear"]
    hvp_warmup_steps: Natural
    hvp_every_n_phonon_steps: Count


class Train(Options):
    """``pft-train``."""

    mace_config: Annotated[str | None, Words("a YAML file of mace_run_train, or null")]
    mace: dict[str, Any]
    seed: Seed
    resume: bool
    trust_config: bool
    engine: Engine | None
    export: Literal["best", "last"]
    paths: Folder
    model: Model
    adaptation: dict[str, Any]
    data: dict[str, Any]
    probe: dict[str, Any]
    loss: Loss
    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None
    trainer: dict[str, Any]
    callbacks: dict[str, dict[str, Any] | None]
    logger: dict[str, Any] | None


class _TrainedModel(Model):
    checkpoint: str | None  # type: ignore[assignment]  # none where MACE built it


class _TrainedLoss(Loss):
    upstream: UpstreamWeights | None  # type: ignore[assignment]


class TrainedRun(Options):
    """What ``pft-export`` needs of the configuration of a run."""

    seed: Seed
    engine: Engine | None
    model: _TrainedModel
    adaptation: dict[str, Any]
    loss: _TrainedLoss


class Protocol(Options):
    """What is computed of each material; ``evaluation.protocols`` has more words."""

    name: Annotated[str, Field(min_length=1)]
    relax: bool
    method: Method
    displacement: Angstrom
    fmax: EVPerAngstrom
    max_steps: Count
    volume_limits: Annotated[
        list[Positive],
        Field(min_length=2, max_length=2),
        Words("two numbers above 0, the smaller one first"),
    ]
    mesh: Annotated[
        # Beyond these, the points of the mesh fill the memory of any machine.
        Annotated[float, Field(gt=0, le=1000)]
        | Annotated[
            list[Annotated[int, Field(ge=1, le=500)]],
            Field(min_length=3, max_length=3),
        ],
        Words(
            "a length in Å of at most 1000, or three whole numbers up to 500 in a list"
        ),
    ]
    is_gamma_center: bool
    temperatures: Annotated[
        list[AtLeastZero],
        Field(min_length=3, max_length=3),
        Words("[first, last, step] in K"),
    ]
    temperature: Annotated[Positive, Field(description="K")]
    cutoff_frequency: Annotated[AtLeastZero, Field(description="THz")]
    dos_pitch: Annotated[float, Field(ge=1e-4, le=100, description="THz")]
    dos_smearing: Annotated[float, Field(gt=0, le=100, description="THz")]
    band_points: Annotated[int, Field(ge=0, le=100_000)]
    instability_threshold: Annotated[AtLeastZero, Field(description="THz")]
    non_analytical: bool


class Compared(Options):
    """``compare.LABEL``."""

    model: Backend = None
    checkpoint: str | None = None
    calculator: str | None = None
    dtype: Dtype | None = None
    head: str | None = None
    trust: bool = False


class Keys(Options):
    """Names of the targets in upstream files."""

    energy: str | None
    forces: str | None
    stress: str | None


class Limits(Options):
    """Largest targets of upstream frames; a frame beyond is a broken one."""

    max_force: EVPerAngstrom
    max_stress: EVPerCubicAngstrom
    max_energy: EVPerAtom


class Evaluate(Options):
    """``pft-evaluate``."""

    model: EvaluatedModel
    protocol: Protocol
    compare: Annotated[
        dict[str, Compared],
        Words("potentials by label, e.g. compare.base.checkpoint=base.model"),
    ]
    label: Annotated[str, Field(min_length=1)]
    calculator: Annotated[str | None, Words("module:factory, or null")]
    phonons: Paths
    upstream: Paths | None
    upstream_keys: Keys
    upstream_limits: Limits
    max_atoms: NAtoms
    engine: Engine | None
    options: ReadOptions
    accelerator: Accelerator
    devices: Devices
    num_nodes: Nodes
    progress: bool
    paths: Folder


class PrepareModel(Options):
    """The potential that labels, relaxes or teaches."""

    checkpoint: Checkpoint | None
    backend: Backend
    head: str | None
    device: Device
    trust: bool = False


class Rattle(Options):
    """``task=rattle``; ``RattleOptions`` has more words."""

    n_rattled: Natural
    displacement: Annotated[
        list[AtLeastZero],
        Field(min_length=2, max_length=2),
        Words("[smallest, largest] in Å"),
    ]
    volume: Annotated[
        list[Positive], Field(min_length=2, max_length=2), Words("[smallest, largest]")
    ]
    shear: AtLeastZero
    n_path: Natural
    min_distance: AtLeastZero
    min_atoms: NAtoms
    seed: Seed


class Distill(Options):
    """``task=distill``."""

    supercell_matrix: Matrix
    max_atoms: NAtoms
    relax: bool
    fmax: EVPerAngstrom


class Prepare(Options):
    """``pft-prepare``."""

    task: Literal["store", "rattle", "pseudolabel", "distill"]
    out: Annotated[
        str,
        Field(min_length=1),
        Words(
            "the file or folder to write: NAME.store, structures as NAME.xyz or a "
            "folder"
        ),
    ]
    phonons: Paths
    cutoff: Cutoff
    n_workers: Processes
    options: ReadOptions
    structures: Paths | None
    model: PrepareModel
    rattle: Rattle
    distill: Distill


class Export(Options):
    """``pft-export``."""

    run: Annotated[str | None, Words("the folder of a pft-train run, or null")]
    checkpoint: Annotated[str, Field(min_length=1), Words("best, last, or a file")]
    weights: Literal["ema", "raw"] | None
    trust_config: bool
    model: ExportedModel
    out: Annotated[
        str, Field(min_length=1), Words("the file to write, e.g. out=better.model")
    ]
