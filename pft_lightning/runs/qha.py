"""``pft-evaluate task=qha``, from its configuration to its files."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Final

from lightning.fabric import Fabric
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.materials import Evaluated
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.evaluation.qha import columns
from pft_lightning.evaluation.qha.options import QhaOptions
from pft_lightning.evaluation.qha.runner import evaluate_qha
from pft_lightning.plots.qha_report import write_qha_report
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.start import begin
from pft_lightning.runs.tables import print_failures


_MAX_LINES: Final = 20
_SHOWN: Final = {
    columns.EXPANSION: "α (1e-6/K)",
    columns.BULK: "B (GPa)",
    columns.HEAT_CAPACITY_P: "C_P (J/K/mol)",
    columns.GRUNEISEN: "γ, modes",
    columns.GRUNEISEN_QHA: "γ, volumes",
}


def compute_qha(config: DictConfig, fabric: Fabric, folder: RunFolder) -> Evaluated:
    """Compute thermal expansions, compare, report and print what they come to.

    Args:
        config: of ``pft-evaluate``, as checked.
        fabric: with the device, and the processes that share the crystals.
        folder: to write.

    Raises:
        PFTError: a potential, path or reference that cannot be used.
    """
    start = begin(config, fabric, folder)
    given = start.values["qha"]
    supercell = {
        field.name: given.pop(field.name) for field in fields(SupercellOptions)
    }
    found = evaluate_qha(
        start.potentials,
        start.values["structures"],
        folder.path,
        supercell=SupercellOptions(**supercell),
        qha=QhaOptions(**given),
        reference=start.values["reference"],
        protocol=Protocol(**start.values["protocol"]),
        engine=config.engine,
        **start.common,
    )
    if fabric.is_global_zero:
        _print(found, write_qha_report(folder.path))
    return found


def _print(found: Evaluated, report: Path) -> None:
    """Print what the first crystals do at the temperature of the protocol."""
    temperature = found.summary["protocol"]["temperature"]
    table = Table(title=f"Quasi-harmonic approximation at {temperature:g} K")
    table.add_column("material")
    table.add_column("model")
    for text in _SHOWN.values():
        table.add_column(text, justify="right")
    done = [row for row in found.rows if row[schema.STATUS] == schema.OK]
    for row in done[:_MAX_LINES]:
        cells = (_with_reference(row, name) for name in _SHOWN)
        table.add_row(str(row[schema.NAME]), str(row[schema.MODEL]), *cells)
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    if len(done) > _MAX_LINES:
        more = len(done) - _MAX_LINES
        console.print(f"  and {more} more in {schema.ROWS_FILE}", highlight=False)
    print_failures(console, found.summary)
    console.print(f"Evaluation: {found.folder}", highlight=False, soft_wrap=True)
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)


def _with_reference(row: schema.Row, name: str) -> str:
    if row.get(name) is None:
        return ""
    beside = row.get(schema.reference_of(name))
    return f"{row[name]:.4g}" + ("" if beside is None else f" ({beside:.4g})")
