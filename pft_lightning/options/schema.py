"""The options of the four commands, beside those that classes take (``blocks``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from pft_lightning.backends.registry import backend_names
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.records import MAX_ENERGY, MAX_FORCE, MAX_STRESS
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.evaluation.crystals import compute_crystals
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.option_types import (
    Accelerator,
    Added,
    Checkpoint,
    Cutoff,
    Device,
    Devices,
    Dtype,
    EVPerAngstrom,
    EVPerAtom,
    EVPerCubicAngstrom,
    NAtoms,
    Natural,
    Nodes,
    Options,
    Path,
    Paths,
    Processes,
    Seed,
    Shares,
    Text,
    Words,
)
from pft_lightning.options.blocks import block_of
from pft_lightning.options.conductivity import ConductivityBlock
from pft_lightning.options.loss import Loss, TrainedLoss
from pft_lightning.options.measured import MeasuredBlock
from pft_lightning.options.qha import QhaBlock
from pft_lightning.options.soft_modes import SoftModeBlock
from pft_lightning.preparation.distill import distill
from pft_lightning.preparation.rattle import RattleOptions
from pft_lightning.types import Engine


def _backend(name: str | None) -> str | None:
    # "auto" is the group of options that leaves it to the file.
    if name not in (None, "auto", *backend_names()):
        raise ValueError(name)
    return name


Backend = Annotated[
    str | None,
    AfterValidator(_backend),
    Words(f"one of {', '.join(backend_names())}, or null"),
]

if TYPE_CHECKING:

    class ReadOptions(Options):
        """Made of ``PhononReadOptions``."""

    class ProtocolOptions(Options):
        """Made of ``Protocol``."""

    class Rattle(Options):
        """Made of ``RattleOptions``."""

    class Distill(Options):
        """Made of ``SupercellOptions`` and ``distill``."""

    class CrystalOptions(Options):
        """Made of ``SupercellOptions`` and ``compute_crystals``."""

else:
    ReadOptions = block_of(PhononReadOptions, closed=True)
    ProtocolOptions = block_of(Protocol, closed=True)
    Rattle = block_of(RattleOptions, closed=True)
    Distill = block_of(SupercellOptions, distill, closed=True)
    CrystalOptions = block_of(SupercellOptions, compute_crystals, closed=True)


class Model(Options):
    """The potential to be trained."""

    backend: Backend = None
    """Framework of the file; null finds it from the content."""
    checkpoint: Checkpoint
    """File of the potential, or the name of a foundation model (small, 7net-0)."""
    dtype: Dtype = "float32"
    """Precision; float64 is slower and needs twice the memory."""
    trust: bool = False
    """True runs whatever code the file refers to."""
    head: str | None = None
    """Of a model with several output heads or modalities, which one."""


class EvaluatedModel(Model):
    """The potential to be evaluated, unless ``calculator`` is."""

    checkpoint: Checkpoint | None  # type: ignore[assignment]
    """File of the potential, or the name of a foundation model (small, 7net-0)."""


class ExportedModel(Model):
    """A file in place of a run."""

    checkpoint: Checkpoint | None  # type: ignore[assignment]
    """File to write in another form, or the name of a foundation model."""
    dtype: Dtype | None  # type: ignore[assignment]
    """Precision to convert to; null: as stored."""


class Replay(Options):
    """Frames that a run makes and its base model labels, against forgetting."""

    n_frames: Natural = 0
    """Frames of crystals like those of data.phonons.train, with other elements of the
    model in the places of some or all of theirs, labelled by the base model. Four
    fifths join data.upstream.train; the others are data.upstream.val unless that is
    given."""


class Folder(Options):
    """Where a command writes."""

    run: Path = "${hydra:runtime.output_dir}"
    """Everything that is written goes below this folder; set by hydra.run.dir."""


class Functionals(Options):
    """Exchange-correlation functionals, where files and names do not say them."""

    model: str | None = None
    """Of the labels of the (base) model: PBE, r2SCAN; null: what file and name say."""
    phonons: str | None = None
    """Of DFT's force constants: PBEsol and the like; null: what files and names say."""


class Train(Options):
    """``pft-train``."""

    mace_config: Annotated[
        str | None, Words("a YAML file of mace_run_train, or null")
    ] = None
    """Train as this file says, with phonons beside it."""
    mace: dict[str, Any] = Field(default_factory=dict)
    """Options of MACE that win over that file: +mace.swa_lr=1e-4."""
    seed: Seed = 0
    """Seed of sampling, probes and splits; the same seed gives the same run."""
    trust_config: bool = False
    """True makes whatever _target_ names, which can run any code."""
    resume: bool = False
    """Continue the run in hydra.run.dir from its last checkpoint."""
    engine: Engine | None = None
    """How Hessian-vector products are taken; null: the faster one on the device."""
    cuda_graphs: bool = False
    """True records the steps of a GPU for some sizes of batches and repeats them."""
    export: Literal["best", "last"] = "best"
    """Weights written at the end; the best are those of callbacks.best.monitor."""
    paths: Folder
    functional: Functionals
    model: Model
    adaptation: dict[str, Any]
    data: dict[str, Any]
    replay: Replay
    probe: dict[str, Any]
    loss: Loss
    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None
    trainer: dict[str, Any]
    callbacks: dict[str, dict[str, Any] | None]
    logger: dict[str, Any] | None


class _TrainedModel(Model):
    checkpoint: str | None  # type: ignore[assignment]  # none where MACE built it
    trust: Annotated[bool, Added()] = False  # older runs have none


class TrainedRun(Options):
    """What ``pft-export`` needs of the configuration of a run."""

    seed: Seed
    engine: Engine | None
    model: _TrainedModel
    adaptation: dict[str, Any]
    loss: TrainedLoss


class Compared(Options):
    """``compare.LABEL``: another potential beside the first."""

    model: Annotated[Backend, Added()] = None
    """Framework of the file; null finds it from the content."""
    checkpoint: Annotated[str | None, Added()] = None
    """File of the potential."""
    calculator: Annotated[str | None, Added()] = None
    """In place of a file: module:factory, which makes an ASE calculator."""
    dtype: Annotated[Dtype | None, Added()] = None
    """Precision; null is float64."""
    head: Annotated[str | None, Added()] = None
    """Of a model with several output heads or modalities, which one."""
    trust: Annotated[bool, Added()] = False
    """True runs whatever code the file refers to."""


class Keys(Options):
    """Names of the targets in upstream files; null takes the usual ones."""

    energy: str | None = None
    """Name of the energy."""
    forces: str | None = None
    """Name of the forces."""
    stress: str | None = None
    """Name of the stress."""


class Limits(Options):
    """Largest targets of upstream frames; a frame beyond is left out, as broken."""

    max_force: EVPerAngstrom = MAX_FORCE
    """Largest component of a force."""
    max_stress: EVPerCubicAngstrom = MAX_STRESS
    """Largest component of the stress."""
    max_energy: EVPerAtom = MAX_ENERGY
    """Largest energy."""


class Origin(Options):
    """Where fine-tuned weights come from."""

    run: Annotated[str | None, Words("the folder of a pft-train run, or null")] = None
    """Folder of a pft-train run."""
    checkpoint: Annotated[Text | None, Words("best, last, a file, or null")] = None
    """Checkpoint of the run: best, last, or a file; null: as the run's option export
    says."""
    weights: Literal["ema", "raw"] | None = None
    """Weights of the run; null: the moving average where the run kept one."""
    trust_config: bool = False
    """True makes whatever _target_ of the run names, which can run any code."""
    base: Checkpoint | None = None
    """Base model of model.checkpoint, to mix the two; a run knows its own."""


class _Evaluation(Options):
    task: Literal[
        "compare",
        "trade_off",
        "force_constants",
        "conductivity",
        "elastic",
        "soft_modes",
        "qha",
        "measured",
        "third_order",
    ] = "compare"
    """Compare with DFT phonons, alone or along mixes; or what the name says."""
    model: EvaluatedModel
    protocol: ProtocolOptions
    compare: Annotated[
        dict[str, Compared],
        Words("potentials by label, e.g. compare.base.checkpoint=base.model"),
    ]
    """Other potentials by label: compare.base.checkpoint=base.model."""
    label: Text = "model"
    """Name of the potential in tables and files."""
    calculator: Annotated[str | None, Words("module:factory, or null")] = None
    """An ASE calculator in place of model.checkpoint: module:factory."""
    phonons: Paths
    """DFT phonons: file, folder, glob, store or list of them."""
    functional: Functionals
    structures: Paths | None = None
    """task=force_constants, conductivity, elastic, soft_modes, qha, measured: crystals;
    file, folder, glob or list of what ASE, phonopy or phono3py reads."""
    force_constants: CrystalOptions
    conductivity: ConductivityBlock
    soft_modes: SoftModeBlock
    qha: QhaBlock
    measured: MeasuredBlock
    reference: Path | None = None
    """task=conductivity: table of conductivities of DFT, mode by mode, to compare;
    task=elastic: table of bulk and shear moduli (JSON); task=soft_modes: crystals that
    modes should end in, files with the names of the materials, or one file; task=qha:
    folder of the files of phonopy-qha, or of phonopy files at several volumes, or of
    one such folder for each material."""
    upstream: Paths | None = None
    """Frames with energies, forces and stresses, to measure forgetting."""
    upstream_keys: Keys
    upstream_limits: Limits
    max_atoms: NAtoms = 256
    """Most atoms of one pass: what bounds memory."""
    engine: Engine | None = None
    """How Hessian-vector products are taken; null: the faster one on the device."""
    options: ReadOptions
    accelerator: Accelerator = "auto"
    """What the evaluation runs on."""
    devices: Devices = 1
    """Processes that share the materials, as in Lightning (torchrun, SLURM)."""
    num_nodes: Nodes = 1
    """Machines that share them."""
    progress: bool = True
    """Whether a progress bar is shown."""
    paths: Folder
    logger: dict[str, Any] | None


class Evaluate(Origin, _Evaluation):  # in the reference, the first come last
    """``pft-evaluate``."""

    run: Annotated[str | None, Words("the folder of a pft-train run, or null")] = None
    """task=trade_off: folder of a pft-train run, whose weights are mixed with its base
    model."""
    mix: Shares | None = None
    """task=trade_off: how far the weights go from the base model, 0, to the fine-tuned
    ones, 1. Both ends are always evaluated; null is [0.25, 0.5, 0.75]."""


class PrepareModel(Options):
    """The potential that labels, relaxes or teaches."""

    checkpoint: Checkpoint | None = None
    """File of the potential, or the name of a foundation model."""
    backend: Backend = None
    """Framework of the file; null finds it from the content."""
    head: str | None = None
    """Of a model with several output heads or modalities, which one."""
    trust: bool = False
    """True runs whatever code the file refers to."""
    device: Device = "cpu"
    """What the potential runs on."""


class Prepare(Options):
    """``pft-prepare``."""

    task: Literal["store", "rattle", "pseudolabel", "distill", "soft_modes"] = "store"
    """Make a store, structures for DFT (rattled, or along soft modes), labels of a
    model, or its force constants."""
    out: Annotated[
        Text,
        Words(
            "the file or folder to write: NAME.store, structures as NAME.xyz or a "
            "folder"
        ),
    ]
    """What to write."""
    phonons: Paths
    """task=store: file, folder, glob or list of them."""
    cutoff: Cutoff = 6.0
    """Cutoff of the cached graphs; at least that of the models to be trained."""
    n_workers: Processes = 0
    """Processes that read."""
    options: ReadOptions
    structures: Paths | None = None
    """Other tasks: file, glob or list of what ASE or phonopy reads."""
    model: PrepareModel
    rattle: Rattle
    distill: Distill
    soft_modes: SoftModeBlock


class Export(Origin):
    """``pft-export``."""

    mix: Shares | None = None
    """How far the weights go from the base model, 0, to the fine-tuned ones, 1; of a
    list each gets a file of its own. Null: all the way."""
    model: ExportedModel
    out: Annotated[Text, Words("the file to write, e.g. out=better.model")]
    """File to write: MACE .model or .safetensors, NequIP .ckpt or .nequip.zip, SevenNet
    .pth, Nequix .pt or .nqx."""
