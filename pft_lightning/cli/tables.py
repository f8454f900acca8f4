"""Tables that the commands print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


_UNITS = {
    "phonon/hvp_mae": "eV/Å²",
    "phonon/forces_mae": "eV/Å",
    "phonon/stress_mae": "eV/Å³",
    "upstream/energy_mae": "eV/atom",
    "upstream/forces_mae": "eV/Å",
    "upstream/stress_mae": "eV/Å³",
}


def print_before_after(
    metrics: Mapping[str, Mapping[str, Any]],
    counts: Mapping[str, int],
    result: Path,
) -> None:
    """Print what the run changed on the validation sets.

    Args:
        metrics: Per metric its value ``before`` and ``after``.
        counts: Structures per set.
        result: File with the fine-tuned potential.
    """
    table = Table(title="Validation errors")
    for column in ("metric", "unit", "before", "after", "change"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, values in metrics.items():
        before, after = values["before"], values["after"]
        # Forces that vanish by symmetry leave rounding, whose change means nothing.
        rounding = before is None or max(before, after) < 1e-5
        change = "" if rounding else f"{100 * (after / before - 1):+.1f} %"
        table.add_row(
            name,
            _UNITS.get(name, ""),
            "" if before is None else f"{before:.4g}",
            f"{after:.4g}",
            change,
        )
    # A pipe has no width; rich would fold the table at 80 columns.
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    console.print(
        ", ".join(f"{name}: {number}" for name, number in counts.items()),
        highlight=False,
    )
    console.print(f"Fine-tuned potential: {result}", highlight=False, soft_wrap=True)
