"""``pft-evaluate task=measured``, from its configuration to its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from pft_lightning.data.settings import MeasuredReading
from pft_lightning.errors import ConfigError
from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.folder import mae_of
from pft_lightning.evaluation.materials import Evaluated
from pft_lightning.evaluation.measured.columns import (
    QUANTITIES,
    VALUES_FILE,
    over_uncertainty_of,
)
from pft_lightning.evaluation.measured.runner import evaluate_measured
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.evaluation.summary import mean_and_median
from pft_lightning.losses.properties import UNITS
from pft_lightning.plots.measured_report import write_measured_report
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.start import begin
from pft_lightning.runs.tables import mean_and_median_text, print_failures


TASK = "measured"


def check_measured(config: DictConfig) -> None:
    """Refuse measured values without their task, and the task without them.

    Args:
        config: of ``pft-evaluate``, as checked.

    Raises:
        ConfigError: says what to leave out or to add.
    """
    files = config.measured.files
    if config.task != TASK:
        if files is not None:
            raise ConfigError(
                f"measured.files={files}: only task=measured compares with measured "
                "values; add it, or leave them out."
            )
        return
    if files is None:
        raise ConfigError(
            "task=measured needs measured.files=PATH: tables of measured values "
            "(.csv), or band.yaml, mesh.yaml, thermal_properties.yaml and "
            "total_dos.dat of phonopy."
        )
    if config.reference is not None:
        raise ConfigError(
            f"reference={config.reference}: task=measured compares with "
            "measured.files alone. Leave it out."
        )


def compute_measured(
    config: DictConfig, fabric: Fabric, folder: RunFolder
) -> Evaluated:
    """Compare with measured values, report and print what they come to.

    Args:
        config: of ``pft-evaluate``, as checked.
        fabric: with the device, and the processes that share the crystals.
        folder: to write.

    Raises:
        PFTError: a potential, path or value that cannot be used.
    """
    start = begin(config, fabric, folder)
    given: dict[str, Any] = start.values["measured"]
    files = given.pop("files")
    found = evaluate_measured(
        start.potentials,
        files,
        start.values["structures"],
        folder.path,
        reading=MeasuredReading(**given),
        protocol=Protocol(**start.values["protocol"]),
        engine=config.engine,
        **start.common,
    )
    if fabric.is_global_zero:
        _print(found, write_measured_report(folder.path))
    return found


def _print(found: Evaluated, report: Path) -> None:
    """Print the errors of each quantity, one column for each model."""
    models = found.summary["models"]
    table = Table(title="Errors against measured values: mean (median)")
    for name in ("quantity", "unit"):
        table.add_column(name)
    table.add_column("values", justify="right")
    for label in models:
        table.add_column(label, justify="right")
    lines: list[tuple[str, str, str]]
    lines = [(name, mae_of(name), UNITS[name]) for name in QUANTITIES]
    lines += [
        (f"{name} / uncertainty", over_uncertainty_of(name), "") for name in QUANTITIES
    ]
    unit = schema.UNITS[schema.SPECTRUM_W1]
    lines.append(("spectrum distance W1", schema.SPECTRUM_W1, unit))
    for text, column, unit in lines:
        totals = [one.get(column, mean_and_median([])) for one in models.values()]
        count = max(total["n"] for total in totals)
        if count:
            cells = [mean_and_median_text(total) for total in totals]
            table.add_row(text, unit, str(count), *cells)
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    print_failures(console, found.summary)
    for what, path in (
        ("Evaluation", found.folder),
        ("All values", found.folder / VALUES_FILE),
        ("Report", report),
    ):
        console.print(f"{what}: {path}", highlight=False, soft_wrap=True)
