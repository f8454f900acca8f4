"""Options of torch's and Lightning's classes that configurations name.

Those of our own classes are in their signatures (``blocks``). Arguments that are not
listed here are compared with the signature of the class.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from pft_lightning.option_types import (
    Accelerator,
    Added,
    AtLeastZero,
    Count,
    Devices,
    Natural,
    Nodes,
    Options,
    Path,
    Positive,
    Unit,
    Words,
)


def _interval(steps: float | None) -> float | None:
    if isinstance(steps, float) and steps > 1:
        raise ValueError(steps)
    return steps


class _Arguments(Options):
    model_config = ConfigDict(extra="allow")


class AdamW(_Arguments):
    """AdamW (arXiv:1711.05101)."""

    lr: Annotated[Positive | Literal["auto"], Words("a number above 0, or auto")] = (
        "auto"
    )
    """Learning rate; auto is that of the adaptation (1e-4 for all weights)."""
    weight_decay: AtLeastZero = 1e-3
    """Share of a weight that each step takes away, times the learning rate."""


class _Optimizer(_Arguments):
    lr: Annotated[Positive, Added()] = 1e-4
    """Learning rate."""
    weight_decay: Annotated[AtLeastZero, Added()] = 0.0
    """Strength of the decay of weights."""


class ConstantLR(_Arguments):
    """The learning rate stays as it is."""

    factor: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Factor of the learning rate, for the first five validations."""


class Plateau(_Arguments):
    """The learning rate falls where the validation Hessian error stops falling."""

    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Factor of the learning rate, each time."""
    patience: Annotated[int, Field(ge=0), Unit("validations")] = 5
    """How long no improvement is waited for."""


class Trainer(_Arguments):
    """Lightning's trainer; its other arguments are added with + in front."""

    accelerator: Accelerator = "auto"
    """What the training runs on."""
    devices: Devices = 1
    """Processes on this machine, one for each device."""
    strategy: str | dict[str, Any] = "auto"
    """How processes share the work: auto, ddp."""
    max_steps: Annotated[
        int, Field(ge=-1), Words("a number of steps of the optimiser, or -1 (no limit)")
    ] = -1
    """Steps until the end."""
    max_epochs: Annotated[
        int | None, Field(ge=-1), Words("a number of epochs, -1 (no limit), or null")
    ] = None
    """Passes over the phonon data; null: 200, or no limit where max_steps is set."""
    gradient_clip_val: AtLeastZero | None = 100.0
    """Largest norm of the gradient of all weights."""
    deterministic: bool = False
    """Sums in the same order on a GPU too, so that a resumed run ends with the same
    bits; slower there."""
    log_every_n_steps: Natural = 10
    """Steps between two lines of the loggers."""
    check_val_every_n_epoch: Count | None = 1
    """Epochs between two validations; null counts steps, see val_check_interval."""
    val_check_interval: Annotated[
        int | float | None,
        Field(gt=0),
        AfterValidator(_interval),
        Words("a number of steps of at least 1, a share of an epoch, or null"),
    ] = None
    """Steps, or share of an epoch, between two validations."""
    num_sanity_val_steps: Annotated[int, Field(ge=-1)] = 0
    """Batches that Lightning validates first; the run validates by itself anyway."""
    inference_mode: bool = False
    """Has to be false: a validation takes derivatives."""
    use_distributed_sampler: bool = False
    """Has to be false: batches are shared among processes already."""
    num_nodes: Annotated[Nodes, Added()] = 1
    """Machines."""
    accumulate_grad_batches: Annotated[Count, Added()] = 1
    """Batches of one step."""
    min_steps: Annotated[Natural | None, Added()] = None
    """Least number of steps."""
    min_epochs: Annotated[Natural | None, Added()] = None
    """Least number of epochs."""
    enable_progress_bar: Annotated[bool | None, Added()] = None
    """Whether the progress is shown."""
    enable_model_summary: Annotated[bool | None, Added()] = None
    """Whether the parts of the model are listed."""
    detect_anomaly: Annotated[bool, Added()] = False
    """Look for the operation that gave NaN; slow."""


class ModelCheckpoint(_Arguments):
    """The weights that were best by a validation metric."""

    dirpath: Path = "${paths.run}/checkpoints"
    """Folder of the checkpoint."""
    filename: str = "best"
    """Name of the checkpoint, without .ckpt."""
    save_on_train_epoch_end: bool = False
    """False: after validations only."""
    monitor: str | None = "phonon/hvp_mae"
    """Metric that decides."""
    mode: Annotated[Literal["min", "max"], Added()] = "min"
    """Whether less of it is better, or more."""
    enable_version_counter: bool = False
    """False: one file, which is replaced."""


class EarlyStopping(_Arguments):
    """The training ends where a validation metric stops falling."""

    monitor: str | None = "phonon/hvp_mae"
    """Metric that decides."""
    mode: Annotated[Literal["min", "max"], Added()] = "min"
    """Whether less of it is better, or more."""
    patience: Annotated[int, Field(ge=0), Unit("validations")] = 10
    """How long no improvement is waited for."""


class LearningRateMonitor(_Arguments):
    """Learning rates of the steps, for the loggers."""

    logging_interval: Literal["step", "epoch"] | None = "step"
    """When the learning rate is logged."""


class CSVLogger(_Arguments):
    """Metrics in a CSV file."""

    save_dir: Path = "${paths.run}"
    """Folder of the logs."""
    name: str | None = None
    """Folder below ``save_dir``."""
    version: str = "logs"
    """Folder below ``name``."""


class WandbLogger(_Arguments):
    """Metrics, figures and the configuration on Weights & Biases."""

    project: str = "pft_lightning"
    """Project that the run belongs to."""
    name: str | None = None
    """Name of the run; null lets W&B find one."""
    offline: bool = False
    """Keep the run here, for wandb sync."""
    save_dir: Path = "${paths.run}"
    """Folder of W&B's own files."""
    log_model: bool | str = False
    """Whether checkpoints are uploaded."""


_CALLBACKS, _LOGGERS = "lightning.pytorch.callbacks", "lightning.pytorch.loggers"

# ``_target_`` -> its arguments.
LIBRARIES: dict[str, type[Options]] = {
    "torch.optim.AdamW": AdamW,
    "torch.optim.Adam": _Optimizer,
    "torch.optim.SGD": _Optimizer,
    "torch.optim.lr_scheduler.ConstantLR": ConstantLR,
    "torch.optim.lr_scheduler.ReduceLROnPlateau": Plateau,
    "lightning.Trainer": Trainer,
    f"{_CALLBACKS}.ModelCheckpoint": ModelCheckpoint,
    f"{_CALLBACKS}.EarlyStopping": EarlyStopping,
    f"{_CALLBACKS}.LearningRateMonitor": LearningRateMonitor,
    f"{_LOGGERS}.CSVLogger": CSVLogger,
    f"{_LOGGERS}.WandbLogger": WandbLogger,
}
