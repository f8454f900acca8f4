"""``pft-evaluate task=elastic``, from its configuration to its files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lightning.fabric import Fabric
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.elastic_runner import (
    MAX_STRESS,
    MODULI,
    evaluate_elastic,
)
from pft_lightning.evaluation.materials import Evaluated
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.plots.elastic_report import write_elastic_report
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.start import begin
from pft_lightning.runs.tables import mean_and_median_text, print_failures


_MAX_LINES: Final = 20


def compute_elastic(config: DictConfig, fabric: Fabric, folder: RunFolder) -> Evaluated:
    """Compute elastic constants, compare moduli, report and print what they come to.

    Args:
        config: of ``pft-evaluate``, as checked.
        fabric: with the device, and the processes that share the crystals.
        folder: to write.

    Raises:
        PFTError: a potential, path or reference that cannot be used.
    """
    start = begin(config, fabric, folder)
    found = evaluate_elastic(
        start.potentials,
        start.values["structures"],
        folder.path,
        reference=start.values["reference"],
        protocol=Protocol(**start.values["protocol"]),
        engine=config.engine,
        **start.common,
    )
    if fabric.is_global_zero:
        _print(found, write_elastic_report(folder.path))
    return found


def _print(found: Evaluated, report: Path) -> None:
    """Print errors of moduli, one column for each model, and the first crystals."""
    models = found.summary["models"]
    table = Table(title="Errors of moduli in GPa: mean (median) over stable materials")
    table.add_column("modulus")
    for label in models:
        table.add_column(label, justify="right")
    for name in MODULI:
        errors = [mean_and_median_text(one[name]) for one in models.values()]
        table.add_row(name, *errors)
    unstable = [str(one["unstable"]) for one in models.values()]
    table.add_row("unstable materials", *unstable)
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    done = [row for row in found.rows if row[schema.STATUS] == schema.OK]
    for row in done[:_MAX_LINES]:
        values = ", ".join(f"{name} {row[name]:.4g} GPa" for name in MODULI)
        left = f"stress left {row[MAX_STRESS]:.2g} GPa"
        console.print(
            f"  {row[schema.NAME]} ({row[schema.MODEL]}): {values}, {left}",
            highlight=False,
            soft_wrap=True,
        )
    if len(done) > _MAX_LINES:
        more = len(done) - _MAX_LINES
        console.print(f"  and {more} more in {schema.ROWS_FILE}", highlight=False)
    print_failures(console, found.summary)
    console.print(f"Evaluation: {found.folder}", highlight=False, soft_wrap=True)
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)
