"""The content of ``metrics.json``: what an evaluation found, in a few numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np

from pft_lightning.evaluation.folder import (
    ERROR,
    FAILED,
    MODEL,
    NAME,
    OK,
    STATUS,
    Counts,
    Failure,
    Record,
    Row,
    Summary,
)


def make_summary(
    rows: Sequence[Row],
    labels: Sequence[str],
    records: Sequence[Record],
    protocol: Any,
    noted: Mapping[str, Any] | None,
    *,
    totals: Callable[[list[Row]], dict[str, Any]],
    reason: Callable[[Row], str | None] = lambda row: None,
) -> Summary:
    """Sum up an evaluation, as ``metrics.json`` has it.

    Args:
        rows: one per material and model.
        labels: of the models.
        records: of the materials, in the order of the call.
        protocol: dataclass that was followed.
        noted: keys of the summary known before: versions, functionals.
        totals: of the rows of one model, failed ones among them.
        reason: why a row with numbers is named among the failures; None where it
            is not.
    """
    counts, failures = count_failures(rows, labels, records)
    failures += [
        {"name": row[NAME], "model": row[MODEL], "error": why}
        for row in rows
        if row[STATUS] == OK and (why := reason(row))
    ]
    summary: Summary = {
        "protocol": asdict(protocol),
        "versions": {},
        "counts": counts,
        "models": {
            label: totals([row for row in rows if row[MODEL] == label])
            for label in labels
        },
        "forgetting": {},
        "failures": failures,
    }
    return cast(Summary, {**summary, **(noted or {})})


def mean_and_median(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean and median of those that are known, and their number.

    >>> mean_and_median([1.0, None, 2.0, 6.0])
    {'mean': 3.0, 'median': 2.0, 'n': 3}
    >>> mean_and_median([])
    {'mean': None, 'median': None, 'n': 0}
    """
    known = [float(value) for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "median": float(np.median(known)) if known else None,
        "n": len(known),
    }


def count_failures(
    rows: Sequence[Row], labels: Sequence[str], records: Sequence[Record]
) -> tuple[Counts, list[Failure]]:
    """Count materials and failures, and name the latter.

    Args:
        rows: one per material and model.
        labels: of the models.
        records: of the materials, in the order of the call.
    """
    failed = [row for row in rows if row[STATUS] == FAILED]
    unreadable = [record for record in records if record["status"] == FAILED]
    names = {record["name"] for record in unreadable}
    failures: list[Failure] = [
        {"name": row[NAME], "model": row[MODEL], "error": row[ERROR]}
        for row in failed
        if row[NAME] not in names
    ]
    # A material that cannot be read fails for no model in particular.
    failures += [
        {"name": r["name"], "model": None, "error": r["error"], "source": r["source"]}
        for r in unreadable
    ]
    counts: Counts = {
        "materials": len(records),
        "unreadable": len(unreadable),
        "failed": {
            label: sum(row[MODEL] == label for row in failed) for label in labels
        },
    }
    return counts, failures
