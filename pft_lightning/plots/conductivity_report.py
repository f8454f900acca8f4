"""The report of an evaluation of thermal conductivities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.conductivity.rows import COHERENCE, PARTICLE
from pft_lightning.evaluation.conductivity.summary import Spectrum
from pft_lightning.evaluation.conductivity.totals import (
    COMPUTED,
    KAPPA,
    OUTCOME,
    OUTCOMES,
    REASON,
    REFERENCE_KAPPA,
    SRD,
    SRE,
    SRME,
    STRUCTURE_TYPE,
)
from pft_lightning.files import make_folder
from pft_lightning.plots.conductivity import (
    Scores,
    plot_kappa_parity,
    plot_spectra,
    plot_srme,
)
from pft_lightning.plots.finished import FinishedEvaluation, number, read_evaluation
from pft_lightning.plots.page import Pictures, write_page
from pft_lightning.plots.words import describe


# Columns of the table of materials; the rest is in the file of rows.
_TEXTS: Final = (schema.NAME, schema.FORMULA, schema.MODEL, STRUCTURE_TYPE)
_TABLE: Final = (
    *(SRME, SRE, SRD, KAPPA, REFERENCE_KAPPA, PARTICLE, COHERENCE),
    *(schema.MIN_FREQUENCY, schema.MAX_FREQUENCY, schema.SECONDS),
)

_NO_REFERENCE: Final = "no reference"
_NOT_POSITIVE: Final = "κ is not positive"


def write_conductivity_report(folder: str | Path) -> Path:
    """Write figures and a page into the folder of an evaluation of conductivities.

    Args:
        folder: of a finished ``pft-evaluate task=conductivity``.

    Returns:
        The page.

    Raises:
        DataFormatError: the folder holds no finished evaluation.
        StorageError: the disk is full, or the folder cannot be written.
    """
    evaluation = read_evaluation(folder)
    pictures = Pictures(make_folder(evaluation.folder.figures))
    ranked_by, worst = _worst(evaluation)
    _draw(pictures, evaluation, ranked_by, worst)
    totals = list(_totals(evaluation.summary["models"], evaluation.labels))
    rows = _rows_worst_first(evaluation)
    return write_page(
        "conductivity.html.jinja",
        evaluation,
        pictures,
        heading="Thermal conductivities",
        words=describe(evaluation, totals, ordered=rows, ranked_by=SRME),
        totals=totals,
        outcomes=OUTCOMES,
        left_out=evaluation.left_out(_why_left_out),
        rows=rows,
        texts=_TEXTS,
        table=_TABLE,
        outcome=OUTCOME,
        reason=REASON,
        computed=COMPUTED,
    )


def _draw(
    pictures: Pictures,
    evaluation: FinishedEvaluation,
    ranked_by: str,
    worst: list[Spectrum],
) -> None:
    pairs = {
        label: _pairs(evaluation.rows_of(label))  # all labels: places give colours
        for label in evaluation.labels
    }
    if any(len(theirs) for theirs, _ in pairs.values()):
        temperature = evaluation.summary["protocol"].get("temperature", 300.0)
        pictures.add(
            "kappa_parity",
            plot_kappa_parity(pairs, temperature=temperature),
            "One point per material and model; above the diagonal the model conducts "
            "too much.",
        )
    scores = {label: _scores(evaluation.rows_of(label)) for label in evaluation.labels}
    if any(len(one.srme) for one in scores.values()):
        pictures.add(
            "srme",
            plot_srme(scores),
            "Bars are means over the materials with a reference; lower is better.",
        )
    if worst:
        pictures.add(
            "kappa_spectra",
            plot_spectra(worst, evaluation.labels),
            f"The largest SRME of {ranked_by} among the materials that it has a "
            "conductivity of; the SRME is of that model. Left: what modes add by "
            "frequency; right: the sum up to it, which ends at κ.",
        )


def _worst(evaluation: FinishedEvaluation) -> tuple[str, list[Spectrum]]:
    """The last model that has spectra, and the spectra of its worst materials."""
    kept = cast(Mapping[str, Any], evaluation.summary).get("worst", {})
    for label in reversed(evaluation.labels):
        if kept.get(label):
            return label, kept[label]
    return "", []


def _why_left_out(row: Mapping[str, str]) -> str:
    """Why a row is no point of the parity; empty where it is one."""
    if row.get(OUTCOME) != COMPUTED:
        return row.get(OUTCOME) or schema.FAILED
    if not row.get(REFERENCE_KAPPA):
        return _NO_REFERENCE
    kappa = number(row.get(KAPPA))
    return "" if np.isfinite(kappa) and kappa > 0 else _NOT_POSITIVE


def _pairs(rows: list[dict[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Conductivities of DFT and of a model, W/m/K, of what can be drawn."""
    drawn = [row for row in rows if not _why_left_out(row)]
    theirs, ours = (
        np.array([number(row[column]) for row in drawn])
        for column in (REFERENCE_KAPPA, KAPPA)
    )
    return theirs, ours


def _scores(rows: list[dict[str, str]]) -> Scores:
    scored = [row for row in rows if row.get(SRME)]
    return Scores(
        srme=np.array([number(row[SRME]) for row in scored]),
        failed=np.array([row[OUTCOME] != COMPUTED for row in scored], dtype=bool),
    )


def _totals(
    models: Mapping[str, Mapping[str, Any]], labels: list[str]
) -> Iterator[dict[str, Any]]:
    """Rows of the table of scores: all materials, then by type of structure."""
    if not any(models[label][SRME]["n"] for label in labels):
        return
    for name in (SRME, SRE, SRD):
        cells = [models[label][name] for label in labels]
        yield {"name": name, "cells": cells, "changes": _changes(name, cells)}
    types = {kind for label in labels for kind in models[label]["by_structure"]}
    for kind in sorted(types) if len(types) > 1 else ():
        cells = [
            models[label]["by_structure"].get(kind, {}).get(SRME, {})
            for label in labels
        ]
        changes = _changes(SRME, cells)
        yield {"name": f"SRME, {kind}", "cells": cells, "changes": changes}


def _changes(name: str, cells: list[Mapping[str, Any]]) -> list[float | None]:
    """Changes of a mean against the first model's, as fractions.

    A failure counts as the worst score, so all means are over the same materials.
    """
    first = cells[0].get("mean")
    means = [cell.get("mean") for cell in cells]
    if name == SRD or not first:  # SRD is best at zero, which has no fraction
        return [None for _ in cells]
    return [None if mean is None else mean / first - 1 for mean in means]


def _rows_worst_first(evaluation: FinishedEvaluation) -> list[dict[str, str]]:
    """All rows, those of a material together, by the SRME of the last model."""
    worst = {
        row[schema.NAME]: number(row.get(SRME))
        for row in evaluation.rows_of(evaluation.labels[-1])
    }

    def place(row: dict[str, str]) -> float:
        score = worst.get(row[schema.NAME], np.nan)
        return 0.0 if np.isnan(score) else -score

    return sorted(evaluation.rows, key=place)
