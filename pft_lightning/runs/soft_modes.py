"""``pft-evaluate task=soft_modes``, from its configuration to its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from lightning.fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.errors import ConfigError
from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.materials import Evaluated
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.evaluation.soft_modes import columns
from pft_lightning.evaluation.soft_modes.options import SoftModeOptions
from pft_lightning.evaluation.soft_modes.runner import evaluate_soft_modes
from pft_lightning.plots.soft_modes_report import write_soft_modes_report
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.start import begin
from pft_lightning.runs.tables import print_failures


_MAX_LINES: Final = 20
_STABLE: Final = {True: "yes", False: "no", None: "unknown"}


def check_soft_modes(config: DictConfig) -> None:
    """Refuse what has no meaning for soft modes, and crystals given twice or never.

    Args:
        config: of ``pft-evaluate``, as checked.

    Raises:
        ConfigError: says what to leave out or to add.
    """
    if OmegaConf.is_missing(config, "phonons"):
        config.phonons = None
    if (config.phonons is None) == (config.structures is None):
        raise ConfigError(
            "task=soft_modes needs either phonons=PATH, of DFT phonons whose imaginary "
            "modes are compared, or structures=PATH, of crystals alone."
        )
    if config.upstream is not None:
        raise ConfigError(
            f"upstream={config.upstream}: task=soft_modes measures no forgetting. "
            "Leave it out, or leave out the task."
        )


def compute_soft_modes(
    config: DictConfig, fabric: Fabric, folder: RunFolder
) -> Evaluated:
    """Follow soft modes, compare imaginary ones, report and print what they come to.

    Args:
        config: of ``pft-evaluate``, as checked.
        fabric: with the device, and the processes that share the crystals.
        folder: to write.

    Raises:
        PFTError: a potential, path or reference that cannot be used.
    """
    start = begin(config, fabric, folder)
    supercell, soft_modes = split_options(start.values["soft_modes"])
    found = evaluate_soft_modes(
        start.potentials,
        folder.path,
        phonons=start.values["phonons"],
        structures=start.values["structures"],
        supercell=supercell,
        soft_modes=soft_modes,
        phases=start.values["reference"],
        protocol=Protocol(**start.values["protocol"]),
        engine=config.engine,
        **start.common,
    )
    if fabric.is_global_zero:
        _print(found, write_soft_modes_report(folder.path))
    return found


def split_options(
    values: Mapping[str, Any],
) -> tuple[SupercellOptions, SoftModeOptions]:
    """Options of the supercell and of its soft modes, of one block of both."""
    names = {field.name for field in fields(SupercellOptions)}
    supercell = {name: value for name, value in values.items() if name in names}
    others = {name: value for name, value in values.items() if name not in names}
    return SupercellOptions(**supercell), SoftModeOptions(**others)


def _print(found: Evaluated, report: Path) -> None:
    """Print where soft modes end, and how many are those of DFT."""
    console = Console(width=None if Console().is_terminal else 120)
    table = Table(title="Soft modes: where the lowest well ends")
    for name in ("material", "model", "lowest (THz)", "from", "to", "meV/atom"):
        table.add_column(name)
    table.add_column("stable")
    done = [row for row in found.rows if row[schema.STATUS] == schema.OK]
    for row in done[:_MAX_LINES]:
        table.add_row(
            str(row[schema.NAME]),
            str(row[schema.MODEL]),
            f"{row[columns.LOWEST]:.3f}",
            str(row[columns.PARENT_GROUP]),
            str(row[columns.END_GROUP]),
            f"{row[columns.END_ENERGY]:.3f}",
            _STABLE[row.get(columns.END_STABLE)],
        )
    console.print(table)
    if len(done) > _MAX_LINES:
        more = len(done) - _MAX_LINES
        console.print(f"  and {more} more in {schema.ROWS_FILE}", highlight=False)
    for label, one in found.summary["models"].items():
        for threshold, counts in one[columns.IMAGINARY].items():
            precision, recall = map(_share, (counts["precision"], counts["recall"]))
            console.print(
                f"{label}: imaginary modes below -{threshold} THz: precision "
                f"{precision}, recall {recall} ({counts['reference']} of DFT)",
                highlight=False,
            )
    print_failures(console, found.summary)
    console.print(f"Evaluation: {found.folder}", highlight=False, soft_wrap=True)
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
