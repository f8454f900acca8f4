"""The content of ``metrics.json``: what an evaluation found, in a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pft_lightning.evaluation.metrics import summarise
from pft_lightning.evaluation.protocols import Protocol, describe


def summarise_evaluation(
    rows: list[dict[str, Any]],
    labels: list[str],
    records: list[dict[str, Any]],
    protocol: Protocol,
    forgetting: dict[str, Any] | None,
    versions: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Sum up an evaluation, as ``metrics.json`` has it.

    Args:
        rows: one per material and model.
        labels: of the models.
        records: of the materials, in the order of the call.
        protocol: that was followed.
        forgetting: errors on upstream frames by label; None where nobody asked.
        versions: of libraries.
    """
    failed = [row for row in rows if row["status"] == "failed"]
    unreadable = [r["name"] for r in records if r["status"] == "failed"]
    failures = [
        {"name": row["name"], "model": row["model"], "error": row["error"]}
        for row in failed
        if row["name"] not in unreadable
    ]
    # A material that cannot be read fails for no model in particular.
    failures += [
        {"name": r["name"], "model": None, "error": r["error"], "source": r["source"]}
        for r in records
        if r["status"] == "failed"
    ]
    for label, errors in (forgetting or {}).items():
        if "error" in errors:
            failures.append(
                {"name": "upstream", "model": label, "error": errors["error"]}
            )
    return {
        "protocol": describe(protocol),
        "versions": dict(versions or {}),
        "counts": {
            "materials": len(records),
            "unreadable": len(unreadable),
            "failed": {
                label: sum(row["model"] == label for row in failed) for label in labels
            },
        },
        "models": {
            label: summarise((r for r in rows if r["model"] == label), protocol)
            for label in labels
        },
        "forgetting": forgetting or {},
        "failures": failures,
    }
