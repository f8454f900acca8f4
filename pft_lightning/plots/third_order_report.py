"""The report of an evaluation of third-order force constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.third_order_errors import (
    CORRELATION,
    ERRORS,
    LARGE,
    LARGE_MAE,
    LARGE_MEAN,
    LARGE_SHARE,
    ON_SITE_MAE,
    ON_SITE_MEAN,
    PAIRS,
    THIRD_MAE,
    THIRD_MEAN,
)
from pft_lightning.files import make_folder
from pft_lightning.plots.finished import FinishedEvaluation, number, read_evaluation
from pft_lightning.plots.page import Pictures, write_page
from pft_lightning.plots.third_order import (
    Errors,
    plot_third_order_errors,
    plot_third_order_parity,
)
from pft_lightning.plots.words import describe


_LARGE: Final = f"blocks (above {1e3 * LARGE:g} meV/Å³)"
_NAMES: Final = {
    THIRD_MAE: "MAE, all elements (meV/Å³)",
    THIRD_MEAN: "DFT, all elements (meV/Å³)",
    LARGE_MAE: f"MAE, large {_LARGE}",
    LARGE_MEAN: f"DFT, large {_LARGE}",
    LARGE_SHARE: f"share of large {_LARGE}",
    ON_SITE_MAE: "MAE, an atom with itself (meV/Å³)",
    ON_SITE_MEAN: "DFT, an atom with itself (meV/Å³)",
    CORRELATION: "correlation, all elements",
}
# Lower is better.
_IMPROVED: Final = (THIRD_MAE, LARGE_MAE, ON_SITE_MAE, schema.FORCE_CONSTANTS_MAE)

# Panels of the figure of errors: title -> error, and the size of what it is of.
_PANELS: Final = {
    "All elements": (THIRD_MAE, THIRD_MEAN),
    f"Large {_LARGE}": (LARGE_MAE, LARGE_MEAN),
}
# Materials that a figure has room for.
_N_DRAWN: Final = 40


def write_third_order_report(folder: str | Path) -> Path:
    """Write figures and a page into the folder of an evaluation of third order.

    Args:
        folder: of a finished ``pft-evaluate task=third_order``.

    Returns:
        The page.

    Raises:
        DataFormatError: the folder holds no finished evaluation.
        StorageError: the disk is full, or the folder cannot be written.
    """
    evaluation = read_evaluation(folder)
    pictures = Pictures(make_folder(evaluation.folder.figures))
    rows = _rows_worst_first(evaluation)
    finished = [row for row in rows if row[schema.STATUS] == schema.OK]
    if finished:
        names = list(dict.fromkeys(row[schema.NAME] for row in finished))
        drawn = names[:_N_DRAWN]
        pictures.add(
            "third_order_errors",
            plot_third_order_errors(drawn, _panels(evaluation, drawn)),
            f"Worst first; {len(drawn)} of {len(names)} materials. A model whose "
            "error is the mean absolute value of DFT, the grey line, knows nothing.",
        )
    pairs = {label: _pairs(evaluation, label) for label in evaluation.labels}
    if any(len(theirs) for theirs, _ in pairs.values()):
        pictures.add(
            "third_order_parity",
            plot_third_order_parity(pairs),
            "The largest distinct elements of DFT or of the model of every material. "
            "Axes are linear near zero, logarithmic beyond.",
        )
    totals = list(_totals(evaluation))
    return write_page(
        "compared.html.jinja",
        evaluation,
        pictures,
        heading="Third-order force constants",
        introduction="Errors are of the model against DFT; large blocks are those of "
        f"three atoms with an element of DFT above {1e3 * LARGE:g} meV/Å³.",
        nothing="" if finished else "No material was finished by any model.",
        totals_heading="Third order against DFT",
        words=describe(
            evaluation,
            [row for row in totals if row["name"] in _IMPROVED],
            ordered=rows,
            ranked_by=THIRD_MAE,
        ),
        totals=totals,
        left_out=evaluation.left_out(_why_left_out),
        order="Worst first, by the error of the last model over all elements, for the "
        "mean absolute value of DFT.",
        rows=rows,
        table=(*ERRORS, schema.SECONDS),
        names=_NAMES,
    )


def _why_left_out(row: dict[str, str]) -> str:
    return "" if row[schema.STATUS] == schema.OK else schema.FAILED


def _panels(evaluation: FinishedEvaluation, names: list[str]) -> dict[str, Errors]:
    """Sizes of DFT and errors of models, meV/Å³, in the order of the names."""

    def column(rows: list[dict[str, str]], name: str) -> np.ndarray:
        found = {row[schema.NAME]: number(row.get(name)) for row in rows}
        return np.array([found.get(one, np.nan) for one in names])

    finished = [row for row in evaluation.rows if row[schema.STATUS] == schema.OK]
    return {
        title: (
            column(finished, size),
            {label: column(evaluation.rows_of(label), error) for label in labels},
        )
        for title, (error, size) in _PANELS.items()
        for labels in [evaluation.labels]
    }


def _pairs(evaluation: FinishedEvaluation, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Elements of DFT and of a model, eV/Å³, of all materials."""
    pairs: list[list[float]] = []
    for row in evaluation.rows_of(label):
        record = evaluation.folder.read_record(row[schema.NAME])
        models: Mapping[str, Any] = {} if record is None else record["models"]
        pairs += models.get(label, {}).get(PAIRS, [])
    theirs, ours = np.reshape(np.array(pairs, dtype=np.float64), (-1, 2)).T
    return theirs, ours


def _totals(evaluation: FinishedEvaluation) -> Iterator[dict[str, Any]]:
    """Rows of the table of errors."""
    models, labels = evaluation.summary["models"], evaluation.labels
    for name in ERRORS:
        changes = [
            evaluation.change(label, name) if name in _IMPROVED else None
            for label in labels
        ]
        cells = [models[label][name] for label in labels]
        yield {"name": name, "cells": cells, "changes": changes}


def _rows_worst_first(evaluation: FinishedEvaluation) -> list[dict[str, str]]:
    """All rows, those of a material together; what failed is first."""
    worst = {
        row[schema.NAME]: number(row.get(THIRD_MAE))
        / (number(row.get(THIRD_MEAN)) or np.nan)
        for row in evaluation.rows_of(evaluation.labels[-1])
    }

    def place(row: dict[str, str]) -> float:
        error = worst.get(row[schema.NAME], np.nan)
        return -np.inf if np.isnan(error) else -error

    return sorted(evaluation.rows, key=place)
