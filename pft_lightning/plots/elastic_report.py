"""The report of an evaluation of elastic constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.elastic_runner import (
    EIGENVALUE,
    INTERNAL,
    MAX_STRESS,
    MODULI,
    STABLE,
    instability,
)
from pft_lightning.evaluation.folder import error_of, reference_of
from pft_lightning.files import make_folder
from pft_lightning.plots.elastic import plot_moduli_errors, plot_moduli_parity
from pft_lightning.plots.finished import (
    FinishedEvaluation,
    change_of_means,
    number,
    read_evaluation,
)
from pft_lightning.plots.page import Pictures, write_page
from pft_lightning.plots.words import describe


# Columns of the table of materials; the rest is in the file of rows.
_TABLE: Final = (
    *(column for name in MODULI for column in (name, reference_of(name))),
    *(EIGENVALUE, INTERNAL, MAX_STRESS, schema.VOLUME_RATIO, schema.SECONDS),
)
_TITLES: Final = {name: name.replace("_", " ").capitalize() for name in MODULI}
_NAMES: Final = {
    **{name: f"{name.replace('_', ' ')} (GPa)" for name in MODULI},
    **{reference_of(name): f"DFT {name.replace('_', ' ')} (GPa)" for name in MODULI},
    EIGENVALUE: "lowest eigenvalue, Born (GPa)",
    INTERNAL: "lowest eigenvalue at Γ (eV/Å²)",
    MAX_STRESS: "stress left (GPa)",
}


def write_elastic_report(folder: str | Path) -> Path:
    """Write figures and a page into the folder of an evaluation of elastic constants.

    Args:
        folder: of a finished ``pft-evaluate task=elastic``.

    Returns:
        The page.

    Raises:
        DataFormatError: the folder holds no finished evaluation.
        StorageError: the disk is full, or the folder cannot be written.
    """
    evaluation = read_evaluation(folder)
    pictures = Pictures(make_folder(evaluation.folder.figures))
    moduli = {
        _TITLES[name]: models
        for name in MODULI
        for models in [_moduli(evaluation, name)]
        if any(len(theirs) for theirs, _ in models.values())
    }
    if moduli:
        pictures.add(
            "moduli_parity",
            plot_moduli_parity(moduli),
            "One point per material and model; above the diagonal the model is too "
            "stiff.",
        )
        pictures.add(
            "moduli_errors",
            plot_moduli_errors(moduli),
            "One point per material, in the order of the call; lines are medians.",
        )
    nothing = (
        ""
        if moduli
        else (
            "No stable material has moduli of a model and of DFT: there is nothing to "
            "compare. Moduli of DFT are given with reference=FILE."
        )
    )
    totals, rows = list(_totals(evaluation)), _rows_worst_first(evaluation)
    return write_page(
        "compared.html.jinja",
        evaluation,
        pictures,
        heading="Elastic constants",
        introduction="Moduli are Hill's means, with relaxed ions; errors are over "
        "stable crystals.",
        nothing=nothing,
        totals_heading="Absolute errors against DFT",
        words=describe(evaluation, totals, ordered=rows),
        totals=totals,
        left_out=evaluation.left_out(_why_left_out) if moduli else {},
        order="Worst first, by the relative errors of the last model; what has none "
        "is at the end.",
        rows=rows,
        table=_TABLE,
        names=_NAMES,
    )


def _why_left_out(row: dict[str, str]) -> str:
    """Why a row is in no figure; empty where it is in one."""
    if row[schema.STATUS] != schema.OK:
        return schema.FAILED
    if not _is_stable(row):
        return "unstable"
    if not any(row.get(reference_of(name)) for name in MODULI):
        return "no modulus of DFT"
    if not any(_pair(row, name) for name in MODULI):
        return "moduli are not positive"
    return ""


def _is_stable(row: Mapping[str, str]) -> bool:
    numbers = {name: number(row.get(name)) for name in (INTERNAL, EIGENVALUE)}
    return instability({**row, **numbers, STABLE: row.get(STABLE) == "True"}) is None


def _pair(row: Mapping[str, str], name: str) -> tuple[float, float] | None:
    """A modulus of DFT and of a model, GPa; None where it cannot be drawn."""
    if row[schema.STATUS] != schema.OK or not _is_stable(row):
        return None
    theirs, ours = number(row.get(reference_of(name))), number(row.get(name))
    drawn = np.isfinite([theirs, ours]).all() and min(theirs, ours) > 0
    return (theirs, ours) if drawn else None


def _moduli(
    evaluation: FinishedEvaluation, name: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A modulus of DFT and of each model, GPa; all labels: places give colours."""
    found = {}
    for label in evaluation.labels:
        rows = evaluation.rows_of(label)
        pairs = [pair for row in rows if (pair := _pair(row, name))]
        theirs, ours = np.reshape(pairs, (-1, 2)).T
        found[label] = (theirs, ours)
    return found


def _totals(evaluation: FinishedEvaluation) -> Iterator[dict[str, Any]]:
    """Rows of the table of errors."""
    models, labels = evaluation.summary["models"], evaluation.labels
    for name in MODULI:
        errors = [
            {
                row[schema.NAME]: abs(number(row.get(error_of(name))))
                for row in evaluation.rows_of(label)
                if row[schema.STATUS] == schema.OK and _is_stable(row)
            }
            for label in labels
        ]
        changes = [change_of_means(ours, errors[0]) for ours in errors]
        cells = [models[label][name] for label in labels]
        yield {"name": name, "cells": cells, "changes": changes}
    unstable = [{"n": models[label]["unstable"]} for label in labels]
    yield {"name": "unstable", "cells": unstable, "changes": [None] * len(labels)}


def _rows_worst_first(evaluation: FinishedEvaluation) -> list[dict[str, str]]:
    """All rows, those of a material together."""

    def error(row: Mapping[str, str]) -> float:
        pairs = [pair for name in MODULI if (pair := _pair(row, name))]
        return max((abs(ours / theirs - 1) for theirs, ours in pairs), default=-1.0)

    last = evaluation.rows_of(evaluation.labels[-1])
    worst = {row[schema.NAME]: error(row) for row in last}
    return sorted(evaluation.rows, key=lambda row: -worst.get(row[schema.NAME], -1.0))
