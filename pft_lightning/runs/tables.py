"""Tables that the commands print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pft_lightning.adaptation import TrainableSet


# Metric -> what the table calls it, unit.
_EVALUATION = {
    "force_constants_mae": ("force constants MAE", "eV/Å²"),
    "commensurate_frequency_mae": ("frequency MAE, commensurate", "THz"),
    "mesh_frequency_mae": ("frequency MAE, dense mesh", "THz"),
    "max_frequency_error": ("ω_max error", "THz"),
    "max_frequency_error_K": ("ω_max error", "K"),
    "entropy_error": ("S error", "J/K/mol"),
    "free_energy_error": ("F error", "kJ/mol"),
    "heat_capacity_error": ("C_V error", "J/K/mol"),
    "dos_error": ("DOS error", ""),
    "frequency_ratio": ("frequency ratio", ""),
    "volume_ratio": ("volume ratio", ""),
}

# Metric -> unit.
UNITS = {
    "phonon/hvp_mae": "eV/Å²",
    "phonon/forces_mae": "eV/Å",
    "phonon/stress_mae": "eV/Å³",
    "upstream/energy_mae": "eV/atom",
    "upstream/forces_mae": "eV/Å",
    "upstream/stress_mae": "eV/Å³",
    **{f"phonon/{name}": unit for name, (_, unit) in _EVALUATION.items()},
    "phonon/entropy_curve_mae": "J/K/mol",
    "phonon/free_energy_curve_mae": "kJ/mol",
    "phonon/heat_capacity_curve_mae": "J/K/mol",
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


def find_metrics(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics in the content of a run's ``summary.json``, by name.

    Returns:
        Of each its value ``before`` and ``after``.
    """
    return {
        name: value
        for name, value in summary.items()
        if isinstance(value, dict) and set(value) == {"before", "after"}
    }


def print_before_after(summary: Mapping[str, Any], folder: Path) -> None:
    """Print what the run changed on the validation sets.

    Args:
        summary: Content of ``summary.json``.
        folder: Of the run.
    """
    table = Table(title="Validation errors")
    for column in ("metric", "unit", "before", "after", "change"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, values in find_metrics(summary).items():
        before, after = values["before"], values["after"]
        # Forces that vanish by symmetry leave rounding, whose change means nothing.
        rounding = not before or max(before, after) < 1e-5
        change = "" if rounding else f"{100 * (after / before - 1):+.1f} %"
        table.add_row(
            name,
            UNITS.get(name, ""),
            "" if before is None else f"{before:.4g}",
            f"{after:.4g}",
            change,
        )
    # A pipe has no width; rich would fold the table at 80 columns.
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    console.print(
        ", ".join(f"{name}: {number}" for name, number in summary["counts"].items()),
        highlight=False,
    )
    result = folder / summary["model"]
    console.print(f"Fine-tuned potential: {result}", highlight=False, soft_wrap=True)


_FORGETTING = {
    "energy_mae": ("upstream energy MAE", "eV/atom"),
    "forces_mae": ("upstream forces MAE", "eV/Å"),
    "stress_mae": ("upstream stress MAE", "eV/Å³"),
}
_MAX_FAILURES = 10


def print_evaluation(summary: Mapping[str, Any], folder: Path, report: Path) -> None:
    """Print the totals of an evaluation, one column for each model.

    Args:
        summary: The content of ``metrics.json``.
        folder: Where everything was written.
        report: Page with the figures.
    """
    models, protocol = summary["models"], summary["protocol"]
    table = Table(title=f"Protocol {protocol['name']}: mean (median) over materials")
    table.add_column("metric")
    table.add_column("unit")
    for label in models:
        table.add_column(label, justify="right")
    for name, (text, unit) in _EVALUATION.items():
        if name == "volume_ratio" and not protocol["relax"]:
            continue
        cells = [_mean_and_median(totals[name]) for totals in models.values()]
        table.add_row(text, unit, *cells)
    for name in ("precision", "recall"):
        values = [totals["instability"][name] for totals in models.values()]
        table.add_row(f"instability {name}", "", *(_number(v) for v in values))
    for name, (text, unit) in _FORGETTING.items():
        errors = [summary["forgetting"].get(label, {}) for label in models]
        if any(name in e for e in errors):
            table.add_row(text, unit, *(_number(e.get(name)) for e in errors))
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    counts = summary["counts"]
    failed = ", ".join(f"{label} {n}" for label, n in counts["failed"].items())
    console.print(f"{counts['materials']} materials; failed: {failed}", highlight=False)
    failures = summary["failures"]
    for failure in failures[:_MAX_FAILURES]:
        who = failure["name"] + (f" ({failure['model']})" if failure["model"] else "")
        console.print(f"  {who}: {failure['error']}", highlight=False, soft_wrap=True)
    if len(failures) > _MAX_FAILURES:
        more = len(failures) - _MAX_FAILURES
        console.print(f"  and {more} more in metrics.json", highlight=False)
    console.print(f"Evaluation: {folder}", highlight=False, soft_wrap=True)
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)


def _mean_and_median(total: Mapping[str, Any]) -> str:
    if total["mean"] is None:
        return ""
    return f"{total['mean']:.4g} ({total['median']:.4g})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
