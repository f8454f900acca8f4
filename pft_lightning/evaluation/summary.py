"""The content of ``metrics.json``: what an evaluation found, in a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pft_lightning.evaluation.folder import (
    ERROR,
    FAILED,
    MODEL,
    NAME,
    STATUS,
    Counts,
    Failure,
    Record,
    Row,
    Summary,
)
from pft_lightning.evaluation.metrics import summarise
from pft_lightning.evaluation.protocols import Protocol, describe


def summarise_evaluation(
    rows: list[Row],
    labels: list[str],
    records: list[Record],
    protocol: Protocol,
    forgetting: dict[str, Any] | None,
    versions: Mapping[str, str] | None,
) -> Summary:
    """Sum up an evaluation, as ``metrics.json`` has it.

    Args:
        rows: one per material and model.
        labels: of the models.
        records: of the materials, in the order of the call.
        protocol: that was followed.
        forgetting: errors on upstream frames by label; None where nobody asked.
        versions: of libraries.
    """
    counts, failures = count_failures(rows, labels, records)
    for label, errors in (forgetting or {}).items():
        if "error" in errors:
            failures.append(
                {"name": "upstream", "model": label, "error": errors["error"]}
            )
    return {
        "protocol": describe(protocol),
        "versions": dict(versions or {}),
        "counts": counts,
        "models": {
            label: summarise((r for r in rows if r[MODEL] == label), protocol)
            for label in labels
        },
        "forgetting": forgetting or {},
        "failures": failures,
    }


def count_failures(
    rows: list[Row], labels: list[str], records: list[Record]
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
