"""Tables that the commands print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pft_lightning.adaptation import TrainableSet


_UNITS = {
    "phonon/hvp_mae": "eV/Å²",
    "phonon/forces_mae": "eV/Å",
    "phonon/stress_mae": "eV/Å³",
    "upstream/energy_mae": "eV/atom",
    "upstream/forces_mae": "eV/Å",
    "upstream/stress_mae": "eV/Å³",
}


def print_trainable(trainable: TrainableSet, names: Path) -> None:
    """Print what is trained: numbers and shares, by kind of weight.

    Args:
        trainable: Of the module.
        names: File with all names.
    """
    table = Table(title="What is trained")
    for column in ("kind of weight", "numbers in it", "reached", "share"):
        table.add_column(
            column, justify="left" if column == "kind of weight" else "right"
        )
    for row in trainable.coverage:
        values = (f"{row.n_weights}", f"{row.n_reached}", f"{100 * row.share:.1f} %")
        table.add_row(row.kind, *values)
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    shown = list(trainable.parameters)[:5]
    more = ", ..." if len(trainable.parameters) > 5 else ""
    console.print(
        f"{trainable.n_trainable} numbers in {len(trainable.parameters)} tensors are "
        f"trained, {100 * trainable.share:.2f} % of the {trainable.n_weights} of the "
        f"model: {', '.join(shown)}{more} (all names: {names})",
        highlight=False,
        soft_wrap=True,
    )


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
