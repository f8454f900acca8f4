"""An evaluation in words: what got better or worse, and what to look at.

All that is said is a number of the page's tables, or counted over its rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from pft_lightning.evaluation import folder as schema
from pft_lightning.plots.finished import FinishedEvaluation, number


Kind = Literal["result", "better", "worse", "same", "look", "note"]

KINDS: Final[Mapping[Kind, str]] = {
    "result": "Result",
    "better": "Better",
    "worse": "Worse",
    "same": "Unchanged",
    "look": "Look at",
    "note": "Note",
}

# Errors that change by less are not called better or worse.
_LEAST_CHANGE: Final = 0.01
_N_WORST: Final = 3


@dataclass(frozen=True, slots=True)
class Statement:
    """One line of the summary.

    Attributes:
        kind: whether it is good news.
        text: in words, without a full stop. Names of models and files may stand in it:
            it is text, never HTML.
        column: that the statement goes by.
        changes: of errors, as fractions, by column.
        levels: of errors, by column.
        materials: with a number or nothing, as text.
    """

    kind: Kind
    text: str
    column: str = ""
    changes: Sequence[tuple[str, float]] = ()
    levels: Sequence[tuple[str, float]] = ()
    materials: Sequence[tuple[str, str]] = ()


def describe(
    evaluation: FinishedEvaluation,
    totals: Sequence[Mapping[str, Any]],
    *,
    ordered: Iterable[Mapping[str, str]],
    ranked_by: str = "",
    first_ones: str = "Worst materials",
    labels: Sequence[str] | None = None,
) -> list[Statement]:
    """Say what all kinds of evaluation can say.

    Args:
        evaluation: that is described.
        totals: rows of its table of errors: ``name``, ``cells`` and ``changes`` by
            model.
        ordered: rows of all materials, the worst first.
        ranked_by: error, lower is better, that materials are counted by; none where
            empty.
        first_ones: what the first of the order are.
        labels: of models to compare with the first; all where None.
    """
    if not any(row[schema.STATUS] == schema.OK for row in evaluation.rows):
        text = "No material was finished by any model: there is nothing to compare"
        return [Statement("look", text), *_failures(evaluation)]
    first = evaluation.labels[0]
    said: list[Statement] = []
    if len(evaluation.labels) == 1 and totals:
        text = f"Only {first} was evaluated, nothing to compare it with; means"
        said.append(Statement("result", text, levels=_levels(totals)))
    said += _best(evaluation.labels, totals, ranked_by)
    for index, label in enumerate(evaluation.labels[1:], 1):
        if labels is not None and label not in labels:
            continue
        if totals:
            changes = [(row["name"], row["changes"][index]) for row in totals]
            said += compare(label, first, changes)
        if ranked_by:
            said += _count_better(evaluation, label, ranked_by)
    said += _failures(evaluation)
    said += _worst(evaluation.labels[-1], ordered, ranked_by, first_ones)
    said += say_functionals(evaluation.summary.get("functionals") or {})
    return said


def in_order(said: Iterable[Statement]) -> list[Statement]:
    """Results before what to look at, and remarks at the end; else as they are."""
    last = {"look": 1, "note": 2}
    return sorted(said, key=lambda one: last.get(one.kind, 0))


def compare(
    label: str,
    first: str,
    changes: Iterable[tuple[str, float | None]],
    what: str = "mean errors",
) -> Iterator[Statement]:
    """Say which errors of a model are lower and which are higher than the first's.

    Args:
        label: of the model.
        first: label of the one it is compared with.
        changes: of errors, as fractions, by column; None where unknown.
        what: is compared.
    """
    known = [(name, change) for name, change in changes if change is not None]
    lower = [pair for pair in known if pair[1] <= -_LEAST_CHANGE]
    higher = [pair for pair in known if pair[1] >= _LEAST_CHANGE]
    same = len(known) - len(lower) - len(higher)
    whose = f"{label} against {first}, {what}"
    if lower:
        yield Statement("better", whose, changes=sorted(lower, key=lambda c: c[1]))
    if higher:
        yield Statement("worse", whose, changes=sorted(higher, key=lambda c: -c[1]))
    if same:
        which = "all" if same == len(known) else f"{same} of {len(known)}"
        yield Statement("same", f"{whose}: {which} within 1 %")
    if not known:
        yield Statement(
            "note",
            f"{whose}: no change can be told, as those of {first} are unknown, zero or "
            "rounding, as on frames with its own labels",
        )


def say_unstable(label: str, counts: Mapping[str, Any]) -> Iterator[Statement]:
    """Say what a model calls unstable wrongly.

    Args:
        label: of the model.
        counts: of true and false positives and negatives, as of ``metrics.summarise``.
    """
    names = ("true_positive", "false_negative", "false_positive", "true_negative")
    found, missed, wrong, right = (int(counts.get(name) or 0) for name in names)
    if missed or wrong:
        yield Statement(
            "look",
            f"{label} misses {missed} of the {found + missed} materials that are "
            f"unstable in DFT, and calls {wrong} of the {wrong + right} stable ones "
            "unstable",
        )


def say_softness(label: str, ratios: np.ndarray) -> Iterator[Statement]:
    """Say whether frequencies of a model are too low.

    Args:
        label: of the model.
        ratios: (n_materials,), of its mean frequencies to those of DFT.
    """
    known = ratios[np.isfinite(ratios)]
    if not len(known):
        return
    mean = float(known.mean()) - 1
    if abs(mean) < _LEAST_CHANGE:
        how = "as high as those of DFT, within 1 %"
    else:
        how = f"{abs(mean):.0%} too {'low' if mean < 0 else 'high'}".replace("%", " %")
    yield Statement("note", f"Frequencies of {label} are on average {how}")


def say_functionals(functionals: Mapping[str, Any]) -> Iterator[Statement]:
    """Say which models are of another functional than what they are compared with.

    Args:
        functionals: as of ``runs.functionals.compare_functionals``.
    """
    labels = functionals.get("differ") or ()
    if not labels:
        return
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(functionals["models"][label]["name"], []).append(label)
    models = ", ".join(
        f"{' and '.join(group)} of {name}" for name, group in groups.items()
    )
    text = (
        f"Functionals differ: {models}, DFT of {functionals['phonons']['name']}; a "
        "part of the errors is the functional's"
    )
    yield Statement("note", text)


def say_trade_off(trade_off: Mapping[str, Any]) -> Statement:
    """Say where the knee of the curve lies, and what it costs.

    Args:
        trade_off: as of ``trade_off.TradeOff``.
    """
    knee = trade_off["knee"]
    if knee is None:
        return Statement("result", f"The trade-off has no knee: {trade_off['remark']}")
    point = next(p for p in trade_off["points"] if p["mix"] == knee)
    gain, forgetting = (f"{point[key]:.0%}" for key in ("gain", "forgetting"))
    rise = f"rise by {forgetting}"
    if trade_off.get("own_labels"):
        rise = f"are {forgetting} of those of the fine-tuned model"
    text = (
        f"The knee of the trade-off is mix {knee:g}: phonon errors fall by {gain}, "
        f"errors on upstream data {rise}"
    )
    return Statement("result", text.replace("%", " %").replace("-", "−"))


def count_materials(n: int) -> str:
    """Number of materials in words."""
    return f"{n} material" if n == 1 else f"{n} materials"


def _levels(totals: Iterable[Mapping[str, Any]]) -> list[tuple[str, float]]:
    means = [(row["name"], row["cells"][0].get("mean")) for row in totals]
    return [(name, mean) for name, mean in means if mean is not None]


def _best(
    labels: Sequence[str], totals: Iterable[Mapping[str, Any]], column: str
) -> Iterator[Statement]:
    """Say which of several models has the lowest mean, over what each finished."""
    for row in totals:
        means = [cell.get("mean") for cell in row["cells"]]
        if row["name"] == column and len(labels) > 2 and None not in means:
            best = labels[int(np.argmin(means))]
            text = f"Of {len(labels)} models {best} has the lowest mean"
            yield Statement("result", text, levels=[(column, min(means))])


def _count_better(
    evaluation: FinishedEvaluation, label: str, column: str
) -> Iterator[Statement]:
    """Say for how many materials an error is lower than the first model's."""
    first = evaluation.labels[0]
    ours, theirs = (
        {
            row[schema.NAME]: abs(number(row.get(column)))
            for row in evaluation.rows_of(one)
            if row[schema.STATUS] == schema.OK
        }
        for one in (label, first)
    )
    pairs = [
        (error, theirs[name])
        for name, error in ours.items()
        if math.isfinite(error) and math.isfinite(theirs.get(name, math.nan))
    ]
    if len(pairs) > 1:
        lower = sum(error < other for error, other in pairs)
        text = f"{label} is better than {first} for {lower} of {len(pairs)} materials"
        yield Statement("note", text, column=column)


def _failures(evaluation: FinishedEvaluation) -> Iterator[Statement]:
    failures = evaluation.summary["failures"]
    if not failures:
        return
    counts = Counter(failure.get("model") or "all models" for failure in failures)
    who = ", ".join(f"{n} of {label}" for label, n in counts.items())
    names = list(dict.fromkeys(failure.get("name", "") for failure in failures))
    more = f"; {_N_WORST} of these materials" if len(names) > _N_WORST else ""
    shown = [(name, "") for name in names[:_N_WORST]]
    plural = "s" if len(failures) > 1 else ""
    text = f"{len(failures)} failure{plural} ({who}){more}"
    yield Statement("look", text, materials=shown)


def _worst(
    label: str, ordered: Iterable[Mapping[str, str]], column: str, which: str
) -> Iterator[Statement]:
    shown: list[tuple[str, str]] = []
    for row in ordered:
        if row[schema.MODEL] == label and row[schema.STATUS] == schema.OK:
            shown.append((row[schema.NAME], _with_unit(row, column)))
        if len(shown) == _N_WORST:
            break
    if shown:
        yield Statement("look", f"{which} of {label}", column=column, materials=shown)


def _with_unit(row: Mapping[str, str], column: str) -> str:
    value = number(row.get(column)) if column else math.nan
    if math.isnan(value):
        return ""
    return f"{value:.3g} {schema.UNITS.get(column, '')}".strip()
