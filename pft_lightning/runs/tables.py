"""Tables that the commands print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pft_lightning.adaptation import TrainableSet
from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.bands import BAND_STABILITY
from pft_lightning.evaluation.conductivity import totals as scores
from pft_lightning.evaluation.conductivity.runner import ConductivityEvaluation
from pft_lightning.evaluation.crystals import CrystalPhonons
from pft_lightning.evaluation.ml_peg import describe_files
from pft_lightning.evaluation.protocols import ML_PEG
from pft_lightning.evaluation.trade_off import TradeOff, relative_change
from pft_lightning.losses.properties import MEASURABLE, metric_of
from pft_lightning.losses.properties import UNITS as PROPERTY_UNITS
from pft_lightning.plots.words import count_materials


# Metric -> what the table calls it.
_EVALUATION = {
    schema.FORCE_CONSTANTS_MAE: "force constants MAE",
    schema.COMMENSURATE_FREQUENCY_MAE: "frequency MAE, commensurate",
    schema.MESH_FREQUENCY_MAE: "frequency MAE, dense mesh",
    schema.MAX_FREQUENCY_ERROR: "ω_max error",
    schema.MAX_FREQUENCY_ERROR_K: "ω_max error",
    schema.ENTROPY_ERROR: "S error",
    schema.FREE_ENERGY_ERROR: "F error",
    schema.HEAT_CAPACITY_ERROR: "C_V error",
    schema.DOS_ERROR: "DOS error",
    schema.SPECTRUM_W1: "spectrum distance W1",
    **{
        name: f"{text}, along the path"
        for name, text in zip(
            schema.BANDS,
            ("ω_max error", "ω_avg error", "ω_min error", "frequency MAE"),
            strict=True,
        )
    },
    schema.FREQUENCY_MAE_CM1: "vibrations MAE, molecules",
    schema.ZERO_POINT_ENERGY_ERROR: "zero-point energy error, molecules",
    schema.FREQUENCY_RATIO: "frequency ratio",
    schema.VOLUME_RATIO: "volume ratio",
}

# Metric of a validation -> unit.
UNITS = {
    "phonon/hvp_mae": "eV/Å²",
    "phonon/third_order_mae": "eV/Å³",
    "elastic/constants_mae": "GPa",
    "elastic/bulk_modulus_mae": "GPa",
    "elastic/shear_modulus_mae": "GPa",
    **{f"phonon/{metric_of(name)}": unit for name, unit in PROPERTY_UNITS.items()},
    **{f"measured/{metric_of(name, '')}": PROPERTY_UNITS[name] for name in MEASURABLE},
    **{
        f"phonon/{schema.mae_of(name)}": schema.UNITS[schema.mae_of(name)]
        for name in ("forces", "stress")
    },
    **{f"upstream/{name}": schema.UNITS[name] for name in schema.FORGETTING},
    **{f"phonon/{name}": schema.UNITS[name] for name in schema.ERRORS},
    **{
        f"phonon/{name}": schema.UNITS[name]
        for name in (schema.FREQUENCY_RATIO, schema.VOLUME_RATIO, *schema.MOLECULAR)
    },
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


def print_before_after(
    summary: Mapping[str, Any], result: Path, commands: Mapping[str, str]
) -> None:
    """Print what the run changed on the validation sets, and what to do next.

    Args:
        summary: Content of ``summary.json``.
        result: The fine-tuned potential.
        commands: Of a shell, by what they are for.
    """
    table = Table(title="Validation errors")
    for column in ("metric", "unit", "before", "after", "change"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, values in find_metrics(summary).items():
        before, after = values["before"], values["after"]
        change = relative_change(name, before, after)
        table.add_row(
            name,
            UNITS.get(name, ""),
            "" if before is None else f"{before:.4g}",
            f"{after:.4g}",
            "" if change is None else f"{100 * change:+.1f} %",
        )
    # A pipe has no width; rich would fold the table at 80 columns.
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    console.print(
        ", ".join(f"{name}: {number}" for name, number in summary["counts"].items()),
        highlight=False,
    )
    lines = [f"Fine-tuned potential: {result}"]
    lines += [f"Next, {purpose}:\n  {line}" for purpose, line in commands.items()]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


# Column of the table of a trade-off -> error.
_TRADED = {
    "frequencies": schema.MESH_FREQUENCY_MAE,
    **dict(zip(("energies", "forces", "stresses"), schema.FORGETTING, strict=True)),
}

_MAX_FAILURES = 10
_MAX_CRYSTALS = 20

# Column of a crystal -> what the table calls it.
_CRYSTAL = {
    schema.MIN_FREQUENCY: "ω_min THz",
    schema.MAX_FREQUENCY: "ω_max THz",
    schema.ENTROPY: "S J/K/mol",
    schema.HEAT_CAPACITY: "C_V J/K/mol",
    schema.N_PRODUCTS: "products",
    schema.SECONDS: "seconds",
}

# Force, eV/Å, beyond which an atom is not where phonons are meant to be computed.
_NOTABLE_FORCE = 0.05


def print_evaluation(summary: schema.Summary, folder: Path, report: Path) -> None:
    """Print the totals of an evaluation, one column for each model.

    Args:
        summary: Totals, counts and failures.
        folder: Where everything was written.
        report: Page with the figures.
    """
    models, protocol = summary["models"], summary["protocol"]
    ranked = protocol["name"] == ML_PEG.name
    table = Table(title=f"Protocol {protocol['name']}: mean (median) over materials")
    table.add_column("metric")
    table.add_column("unit")
    for label in models:
        table.add_column(label, justify="right")
    for name, text in _EVALUATION.items():
        if name == schema.VOLUME_RATIO and not protocol["relax"]:
            continue
        if name in schema.MOLECULAR and not any(t[name]["n"] for t in models.values()):
            continue
        if name in schema.BANDS and not ranked:
            continue
        cells = [mean_and_median_text(totals[name]) for totals in models.values()]
        table.add_row(text, schema.UNITS[name], *cells)
    for name in ("precision", "recall"):
        values = [totals["instability"][name] for totals in models.values()]
        table.add_row(f"instability {name}", "", *(_number(v) for v in values))
    if ranked:
        found = [totals[BAND_STABILITY]["f1"] for totals in models.values()]
        table.add_row("stability on the path, F1", "", *map(_number, found))
    for name in schema.FORGETTING:
        errors = [summary["forgetting"].get(label, {}) for label in models]
        if any(name in e for e in errors):
            text = "upstream " + name.replace("_mae", " MAE")
            numbers = (_number(e.get(name)) for e in errors)
            table.add_row(text, schema.UNITS[name], *numbers)
    width = max(100, 52 + 20 * len(models))
    console = Console(width=None if Console().is_terminal else width)
    console.print(table)
    if "trade_off" in summary:
        _print_trade_off(console, summary["trade_off"])
    print_failures(console, summary)
    console.print(f"Evaluation: {folder}", highlight=False, soft_wrap=True)
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)
    if ranked:
        told = describe_files(folder / schema.LEADERBOARD, protocol)
        console.print(told, highlight=False, soft_wrap=True)


def _print_trade_off(console: Console, trade_off: TradeOff) -> None:
    """Print gain and forgetting of all mixes, and which is the knee."""
    own = ", those on frames with its own labels of the fine-tuned one"
    of = f"the base model{own if trade_off['own_labels'] else ''}"
    table = Table(title=f"Trade-off: changes in per cent of {of}")
    table.add_column("")
    for name in ("gain", "forgetting", *_TRADED):
        table.add_column(name, justify="right")
    for point in trade_off["points"]:
        is_knee = point["mix"] is not None and point["mix"] == trade_off["knee"]
        changes = map(point["changes"].get, _TRADED.values())
        cells = map(_percent, (point["gain"], point["forgetting"], *changes))
        table.add_row(point["label"] + (" (knee)" if is_knee else ""), *cells)
    console.print(table)
    if trade_off["knee"] is None:
        console.print(f"No knee: {trade_off['remark']}.", highlight=False)
    else:
        console.print(
            f"Knee: mix {trade_off['knee']:g}, where gain is farthest ahead of "
            "forgetting. Write it with pft-export and the same run or files, "
            f"mix={trade_off['knee']:g} out=FILE.",
            highlight=False,
            soft_wrap=True,
        )


def print_crystals(found: CrystalPhonons) -> None:
    """Print what the phonons of crystals come to, one line for each of the first."""
    protocol = found.summary["protocol"]
    done = [row for row in found.rows if row[schema.STATUS] == schema.OK]
    table = Table(
        title=f"Protocol {protocol['name']}; S, C_V at {protocol['temperature']:g} K"
    )
    table.add_column("crystal")
    for name in ("atoms", *_CRYSTAL.values()):
        table.add_column(name, justify="right")
    for row in done[:_MAX_CRYSTALS]:
        numbers = [_number(row[name]) for name in _CRYSTAL]
        table.add_row(row[schema.NAME], str(row[schema.N_ATOMS]), *numbers)
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    if len(done) > _MAX_CRYSTALS:
        more = len(done) - _MAX_CRYSTALS
        console.print(f"  and {more} more in {schema.ROWS_FILE}", highlight=False)
    pushed = [row for row in done if row[schema.MAX_FORCE] > _NOTABLE_FORCE]
    if pushed:
        worst = max(pushed, key=lambda row: float(row[schema.MAX_FORCE]))
        console.print(
            f"{len(pushed)} of {len(done)} crystals are no minimum of the potential "
            f"(largest force {worst[schema.MAX_FORCE]:.2g} eV/Å, {worst[schema.NAME]})"
            "; protocol=mdr_analytic relaxes them first.",
            highlight=False,
            soft_wrap=True,
        )
    print_failures(console, found.summary)
    console.print(f"Files for phonopy: {found.files}", highlight=False, soft_wrap=True)


# Score -> what the table calls it.
_CONDUCTIVITY = {
    scores.SRME: "SRME, mode by mode",
    scores.SRE: "SRE",
    scores.SRD: "SRD",
}

# Share of materials -> what the table calls it.
_OUTCOMES = {
    "imaginary": "unstable (imaginary frequencies)",
    "broken_symmetry": "broken symmetry",
    "failed": "failed",
}


def print_conductivity(
    found: ConductivityEvaluation, report: Path, reference: str | None
) -> None:
    """Print the scores of conductivities, one column for each model.

    Args:
        found: what was computed.
        report: Page with the figures.
        reference: file that it was compared with; None where with none.
    """
    models, protocol = found.summary["models"], found.summary["protocol"]
    table = Table(
        title=f"Protocol {protocol['name']}, {protocol['temperature']:g} K: mean "
        "(median) over materials"
    )
    table.add_column("score")
    for label in models:
        table.add_column(label, justify="right")
    scored = any(one[scores.SRME]["n"] for one in models.values())
    for name, text in _CONDUCTIVITY.items() if scored else ():
        table.add_row(
            text, *(mean_and_median_text(one[name]) for one in models.values())
        )
    kinds = {kind for one in models.values() for kind in one["by_structure"]}
    for kind in sorted(kinds) if len(kinds) > 1 else ():
        parts = [one["by_structure"][kind][scores.SRME] for one in models.values()]
        table.add_row(f"SRME, {kind}", *map(mean_and_median_text, parts))
    for name, text in _OUTCOMES.items():
        shares = [one[name] for one in models.values()]
        table.add_row(text, *(f"{100 * (share or 0):.1f} %" for share in shares))
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    if not scored:
        why = (
            f"none of the crystals is one of reference={reference}; an identifier "
            "(mp_id), or formula and space group, tell them."
            if reference
            else "reference=FILE, of DFT mode by mode, is needed for one."
        )
        console.print(f"No score: {why}", highlight=False, soft_wrap=True)
    for row in found.rows[:_MAX_CRYSTALS]:
        console.print(f"  {_conductivity_line(row)}", highlight=False, soft_wrap=True)
    if len(found.rows) > _MAX_CRYSTALS:
        more = len(found.rows) - _MAX_CRYSTALS
        console.print(f"  and {more} more in {schema.ROWS_FILE}", highlight=False)
    print_failures(console, found.summary)
    console.print(f"Evaluation: {found.folder}", highlight=False, soft_wrap=True)
    console.print(f"Report: {report}", highlight=False, soft_wrap=True)
    for label, file in found.leaderboard.items():
        console.print(
            f"For the leaderboard, {label}: {file}", highlight=False, soft_wrap=True
        )


def _conductivity_line(row: schema.Row) -> str:
    name, formula = row[schema.NAME], row.get(schema.FORMULA)
    if formula and formula != name:
        name = f"{name} {formula}"
    who = f"{name} ({row[schema.MODEL]})"
    kappa, reference = row.get(scores.KAPPA), row.get(scores.REFERENCE_KAPPA)
    if kappa is None:
        return f"{who}: {row[scores.OUTCOME]}"
    beside = "" if reference is None else f" (DFT {reference:.4g})"
    score = row.get(scores.SRME)
    scored = "" if score is None else f", SRME {score:.4f}"
    return f"{who}: {kappa:.4g} W/m/K{beside}{scored}"


def print_failures(console: Console, summary: schema.Summary) -> None:
    """Print how many materials failed, and why the first did."""
    counts, failures = summary["counts"], summary["failures"]
    failed = ", ".join(f"{label} {n}" for label, n in counts["failed"].items())
    n_materials = count_materials(counts["materials"])
    console.print(f"{n_materials}; failed: {failed}", highlight=False)
    for failure in failures[:_MAX_FAILURES]:
        who = failure["name"] + (f" ({failure['model']})" if failure["model"] else "")
        console.print(f"  {who}: {failure['error']}", highlight=False, soft_wrap=True)
    if len(failures) > _MAX_FAILURES:
        more = len(failures) - _MAX_FAILURES
        console.print(f"  and {more} more in {schema.SUMMARY_FILE}", highlight=False)


def mean_and_median_text(total: Mapping[str, Any]) -> str:
    """A mean with its median; nothing where there is none."""
    if total["mean"] is None:
        return ""
    return f"{total['mean']:.4g} ({total['median']:.4g})"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
