"""Arguments of what ``_target_`` names: type, range and unit.

Others than those listed are compared with the signature of the class.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from pft_lightning.options.types import (
    Accelerator,
    AtLeastZero,
    Count,
    Devices,
    EVPerAngstrom,
    EVPerAtom,
    EVPerCubicAngstrom,
    NAtoms,
    Natural,
    Nodes,
    Options,
    Path,
    Paths,
    Patterns,
    Positive,
    Processes,
    ReadOptions,
    Seed,
    Words,
)
from pft_lightning.types import Engine


def _interval(steps: float | None) -> float | None:
    if isinstance(steps, float) and steps > 1:
        raise ValueError(steps)
    return steps


class Arguments(Options):
    """Arguments of a class, or some of them."""

    model_config = ConfigDict(extra="allow")


class DataModule(Arguments):
    """``data`` of ``pft-train``."""

    phonons: dict[str, Any]
    upstream: dict[str, Any] | None
    mode: Literal["alternate", "joint"]
    upstream_per_phonon: Natural
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    num_workers: Processes
    cache_dir: Annotated[str | None, Field(min_length=1), Words("a folder, or null")]
    seed: Seed


class Batches(Arguments):
    """How many structures make a batch."""

    batch_size: Annotated[int, Field(ge=1, description="structures")]
    max_atoms: NAtoms | None
    max_edges: Annotated[int | None, Field(ge=1, description="edges")]


class Phonons(Batches):
    """``data.phonons``."""

    train: Paths | None  # null beside mace_config only
    val: Paths | None
    options: dict[str, Any]


class Upstream(Batches):
    """``data.upstream``."""

    train: Paths | None
    val: Paths | None
    energy_key: str | None
    forces_key: str | None
    stress_key: str | None
    max_force: EVPerAngstrom
    max_stress: EVPerCubicAngstrom
    max_energy: EVPerAtom


class LoRA(Arguments):
    """``adaptation=lora``."""

    rank: Annotated[int, Field(ge=1, le=100_000)]
    alpha: Positive | None
    targets: Patterns | None
    seed: Seed


class Delta(Arguments):
    """``adaptation=delta``."""

    decay: AtLeastZero
    form: Literal["decoupled", "l2_sp"]
    targets: Patterns


class Freeze(Arguments):
    """``adaptation=freeze``."""

    freeze: Patterns | None
    train: Patterns | None


class MultiHead(Arguments):
    """``adaptation=multihead``."""

    new_head: Annotated[str, Field(min_length=1)]
    phonon_head: str | None
    upstream_head: str | None
    atomic_energies: Annotated[
        dict[str, float], Words("energies in eV by element, e.g. {Si: -0.8}")
    ]
    targets: Patterns


class Scratch(Arguments):
    """``adaptation=scratch``."""

    seed: Seed


class Probe(Arguments):
    """Every ``probe``."""

    n_probes: Annotated[int, Field(ge=1, le=10_000, description="tangents")]


class SmallCells(Probe):
    """Probes in commensurate cells."""

    share: Annotated[float, Field(ge=0, le=1)]


class Sparse(Probe):
    """``probe=sparse``."""

    n_displaced: NAtoms


class AdamW(Arguments):
    """``optimizer=adamw``, and other optimisers with a learning rate."""

    lr: Positive = 1e-4
    weight_decay: AtLeastZero = 0.0


class ConstantLR(Arguments):
    """``scheduler=constant``."""

    factor: Annotated[float, Field(ge=0, le=1)]


class CosineLR(Arguments):
    """``scheduler=cosine``."""

    T_max: int
    eta_min: AtLeastZero


class Plateau(Arguments):
    """``scheduler=plateau``."""

    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: Annotated[int, Field(ge=0, description="validations")]


class Trainer(Arguments):
    """``trainer``: what is set, and what is often added to it."""

    accelerator: Accelerator
    devices: Devices
    strategy: str | dict[str, Any]
    max_steps: Annotated[int, Field(ge=-1), Words("a number of steps, or -1")]
    max_epochs: Annotated[
        int | None, Field(ge=-1), Words("a number of epochs, -1 (no limit), or null")
    ]
    gradient_clip_val: AtLeastZero | None
    log_every_n_steps: Natural
    check_val_every_n_epoch: Count | None
    val_check_interval: Annotated[
        int | float | None,
        Field(gt=0),
        AfterValidator(_interval),
        Words("a number of steps of at least 1, a share of an epoch, or null"),
    ]
    num_sanity_val_steps: Annotated[int, Field(ge=-1)]
    inference_mode: bool
    use_distributed_sampler: bool
    num_nodes: Nodes = 1
    accumulate_grad_batches: Count = 1
    min_steps: Natural | None = None
    min_epochs: Natural | None = None
    enable_progress_bar: bool | None = None
    enable_model_summary: bool | None = None
    detect_anomaly: bool = False


class RampedEMA(Arguments):
    """``callbacks.ema``."""

    decay: Annotated[float, Field(ge=0, lt=1)]


class Monitored(Arguments):
    """Callbacks that watch a metric."""

    monitor: str | None = None
    mode: Literal["min", "max"] = "min"
    patience: Annotated[int, Field(ge=0, description="validations")] = 0


class LastCheckpoint(Arguments):
    """``callbacks.last``."""

    path: Path
    every_n_steps: Annotated[int, Field(ge=1, description="steps")]


class Throughput(Arguments):
    """``callbacks.throughput``."""

    window_size: Annotated[int, Field(ge=2, description="batches")]


class PhononValidation(Arguments):
    """``callbacks.phonon_validation``."""

    phonons: Paths | None
    n: Annotated[int | None, Field(ge=1, description="materials")]
    names: Annotated[list[str] | None, Words("names of materials in a list, or null")]
    every_n_validations: Count
    mesh: Annotated[
        float | list[int] | None, Words("a length in Å, or three whole numbers")
    ]
    options: dict[str, Any]
    max_atoms: NAtoms
    engine: Engine | None
    n_figures: Natural


_ADAPTATION, _DATA = "pft_lightning.adaptation", "pft_lightning.data.datamodule"
_PROBES, _WAVES = "pft_lightning.physics.probes", "pft_lightning.physics.wave_probes"

# ``_target_`` -> its arguments. What others take, they check themselves.
TARGETS: dict[str, type[Options]] = {
    "pft_lightning.data.readers.options.PhononReadOptions": ReadOptions,
    f"{_DATA}.PhononDataModule": DataModule,
    f"{_DATA}.PhononSource": Phonons,
    f"{_DATA}.UpstreamSource": Upstream,
    f"{_ADAPTATION}.LoRA": LoRA,
    f"{_ADAPTATION}.Delta": Delta,
    f"{_ADAPTATION}.Freeze": Freeze,
    f"{_ADAPTATION}.MultiHead": MultiHead,
    f"{_ADAPTATION}.Scratch": Scratch,
    f"{_PROBES}.ColumnProbe": Probe,
    f"{_PROBES}.IrreducibleProbe": Probe,
    f"{_PROBES}.RademacherProbe": Probe,
    f"{_PROBES}.GaussianProbe": Probe,
    f"{_PROBES}.SparseProbe": Sparse,
    f"{_WAVES}.CommensurateProbe": SmallCells,
    f"{_WAVES}.CommensurateRademacherProbe": SmallCells,
    f"{_WAVES}.ModeProbe": Probe,
    "torch.optim.AdamW": AdamW,
    "torch.optim.Adam": AdamW,
    "torch.optim.SGD": AdamW,
    "torch.optim.lr_scheduler.ConstantLR": ConstantLR,
    "torch.optim.lr_scheduler.CosineAnnealingLR": CosineLR,
    "torch.optim.lr_scheduler.ReduceLROnPlateau": Plateau,
    "lightning.Trainer": Trainer,
    "pft_lightning.callbacks.RampedEMA": RampedEMA,
    "pft_lightning.callbacks.LastCheckpoint": LastCheckpoint,
    "pft_lightning.callbacks.Throughput": Throughput,
    "pft_lightning.callbacks.PhononValidation": PhononValidation,
    "lightning.pytorch.callbacks.ModelCheckpoint": Monitored,
    "lightning.pytorch.callbacks.EarlyStopping": Monitored,
}
