"""Kinds of runs, by the option that asks for one.

Importing this module imports no framework. A new kind adds one ``RunKind``, whose
classes are a ``TrainingRun`` and a ``RunRecord``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

from omegaconf import DictConfig

from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.run import RunRecord, TrainingRun


@dataclass(frozen=True, slots=True)
class RunKind:
    """One row of the table.

    Attributes:
        run: ``module:Class`` of the training, imported on first use.
        record: ``module:Class`` of the run in a folder.
        supplies: options without a default that it decides itself.
        block: of the configuration, with options of its own; empty for none.
        recipe: names of those options that a model card shows.
    """

    run: str
    record: str
    supplies: tuple[str, ...] = ()
    block: str = ""
    recipe: tuple[str, ...] = ()


NATIVE = RunKind(
    run="pft_lightning.runs.native:NativeRun",
    record="pft_lightning.runs.native:NativeRecord",
)

# Option of ``pft-train`` that, where it is given, asks for another kind.
KINDS: dict[str, RunKind] = {
    "mace_config": RunKind(
        run="pft_lightning.integrations.mace.run:MACERun",
        record="pft_lightning.integrations.mace.record:MACERecord",
        supplies=("model.checkpoint", "data.phonons.train"),
        block="mace",
        recipe=(
            "loss", "energy_weight", "forces_weight", "stress_weight", "batch_size",
            "lr", "optimizer", "weight_decay", "scheduler", "ema_decay",
            "max_num_epochs", "swa",
        ),
    ),
}  # fmt: skip


def find_kind(config: DictConfig) -> RunKind:
    """The kind of run that a configuration asks for."""
    asked = (kind for option, kind in KINDS.items() if config.get(option))
    return next(asked, NATIVE)


def start_run(
    config: DictConfig, overrides: Sequence[str], folder: Path, rank: int
) -> TrainingRun:
    """Complete a configuration and prepare what it describes.

    Args:
        config: as composed and checked.
        overrides: of the command line.
        folder: of the run.
        rank: of this process.

    Raises:
        BackendUnavailableError: a library is not installed; it says how to.
        PFTError: the run cannot be what the configuration says.
    """
    kind = find_kind(config)
    run: TrainingRun = resolve_name(kind.run)(config, overrides, folder, rank)
    return run


def open_record(config: DictConfig, folder: RunFolder) -> RunRecord:
    """The run that a folder holds.

    Args:
        config: of the run, as read and checked.
        folder: of the run.

    Raises:
        BackendUnavailableError: a library is not installed; it says how to.
    """
    kind = find_kind(config)
    record: RunRecord = resolve_name(kind.record)(config, folder)
    return record
