"""``pft-evaluate task=third_order``, from its configuration to its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from pft_lightning.errors import ConfigError
from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation import third_order_errors as third
from pft_lightning.evaluation.materials import Evaluated
from pft_lightning.evaluation.third_order_runner import evaluate_third_order
from pft_lightning.plots.third_order_report import write_third_order_report
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.start import begin
from pft_lightning.runs.tables import print_failures


def compute_third_order(
    config: DictConfig, fabric: Fabric, folder: RunFolder
) -> Evaluated:
    """Compare third-order force constants with DFT, report and print.

    Args:
        config: of ``pft-evaluate``, as checked.
        fabric: with the device, and the processes that share the materials.
        folder: to write.

    Raises:
        ConfigError: upstream frames, which say nothing of third order.
        PFTError: a potential or path that cannot be used.
    """
    if config.upstream:
        raise ConfigError(
            "upstream is given, and task=third_order compares third-order force "
            "constants alone. Leave it out, or leave out the task."
        )
    start = begin(config, fabric, folder)
    found = evaluate_third_order(
        start.potentials,
        start.values["phonons"],
        folder.path,
        engine=config.engine,
        **start.common,
    )
    if fabric.is_global_zero:
        _print(found, write_third_order_report(folder.path))
    return found


def _print(found: Evaluated, report: Path) -> None:
    """Print errors, one line for each material and potential."""
    table = Table(
        title="Third-order force constants: mean absolute errors, meV/Å³ (mean of DFT)"
    )
    for name in ("material", "model", "all elements", "large blocks", "on site"):
        table.add_column(name)
    table.add_column("second order, eV/Å²")
    for row in found.rows:
        if row[schema.STATUS] == schema.OK:
            pairs = (
                (third.THIRD_MAE, third.THIRD_MEAN),
                (third.LARGE_MAE, third.LARGE_MEAN),
                (third.ON_SITE_MAE, third.ON_SITE_MEAN),
            )
            cells = [_with_mean(row[error], row[mean]) for error, mean in pairs]
            second = row[schema.FORCE_CONSTANTS_MAE]
            shown = "" if second is None else f"{second:.4g}"
            name, label = str(row[schema.NAME]), str(row[schema.MODEL])
            table.add_row(name, label, *cells, shown)
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    print_failures(console, found.summary)
    console.print(f"Evaluation: {found.folder}", highlight=False, soft_wrap=True)
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)


def _with_mean(error: Any, mean: Any) -> str:
    return "" if error is None else f"{error:.2f} ({mean:.2f})"
