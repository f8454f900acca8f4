"""A finished evaluation as its report shows it: columns, changes, ranking."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from pft_lightning.evaluation.folder import (
    FORMULA,
    MESH_FREQUENCY_MAE,
    MODEL,
    NAME,
    OK,
    STATUS,
    EvaluationFolder,
    Summary,
)


# What orders materials from worst to best.
RANKED_BY: Final = MESH_FREQUENCY_MAE


@dataclass(frozen=True, slots=True, eq=False)
class FinishedEvaluation:
    """Content of the folder of a finished evaluation.

    Attributes:
        folder: its files.
        summary: totals, counts and failures.
        rows: one per material and model, as text; empty where unknown.
        labels: of the models; the first is the one that others are compared with, the
            last the one that ranks the materials.
    """

    folder: EvaluationFolder
    summary: Summary
    rows: list[dict[str, str]]
    labels: list[str]

    def columns(self, names: Iterable[str]) -> dict[str, dict[str, np.ndarray]]:
        """Numbers per model and column, of the materials that did not fail."""
        return {
            label: {
                name: np.array([number(row.get(name)) for row in rows])
                for name in names
            }
            for label, rows in self._finished().items()
        }

    def change(self, label: str, name: str) -> float | None:
        """Change of a mean against the first model, as a fraction.

        Over the materials that both finished, so that a failure moves no mean; None
        where there is nothing to compare.
        """
        finished = self._finished()
        ours, first = (
            {row[NAME]: number(row.get(name)) for row in finished[model]}
            for model in (label, self.labels[0])
        )
        return None if label == self.labels[0] else change_of_means(ours, first)

    def ranking(self) -> list[str]:
        """Materials that a model finished, worst first.

        The last model decides; materials that it failed on come first.
        """
        worst: dict[str, float] = {}
        for label, rows in self._finished().items():
            for row in rows:
                error = number(row.get(RANKED_BY))
                failed = label != self.labels[-1] or not math.isfinite(error)
                worst[row[NAME]] = math.inf if failed else error
        return sorted(worst, key=lambda name: -worst[name])

    def rows_worst_first(self) -> list[dict[str, str]]:
        """All rows, those of a material together; wholly failed materials first."""
        finished = self.ranking()
        place = {name: index for index, name in enumerate(finished)}
        return sorted(self.rows, key=lambda row: place.get(row[NAME], -1))

    def rows_of(self, label: str) -> list[dict[str, str]]:
        """Rows of a model, of all materials."""
        return [row for row in self.rows if row.get(MODEL) == label]

    def left_out(self, why: Callable[[dict[str, str]], str]) -> dict[str, list[str]]:
        """Materials that are missing in a figure, by the reason.

        Args:
            why: reason of a row; empty where it is drawn.

        Returns:
            Names by reason, with the models where it is not all of them.
        """
        models: dict[str, dict[str, list[str]]] = {}
        for row in self.rows:
            if reason := why(row):
                who = " ".join(dict.fromkeys([row[NAME], row.get(FORMULA) or ""]))
                found = models.setdefault(reason, {})
                found.setdefault(who.strip(), []).append(row[MODEL])
        return {
            reason: [
                who
                if len(labels) == len(self.labels)
                else f"{who} ({', '.join(labels)})"
                for who, labels in found.items()
            ]
            for reason, found in models.items()
        }

    def _finished(self) -> dict[str, list[dict[str, str]]]:
        return {
            label: [row for row in self.rows_of(label) if row.get(STATUS) == OK]
            for label in self.labels
        }


def read_evaluation(path: str | Path) -> FinishedEvaluation:
    """Read the totals and rows of an evaluation.

    Raises:
        DataFormatError: the folder holds no finished evaluation.
    """
    folder = EvaluationFolder(path)
    summary, rows = folder.read_totals()
    return FinishedEvaluation(folder, summary, rows, list(summary["models"]))


def change_of_means(
    ours: Mapping[str, float], first: Mapping[str, float]
) -> float | None:
    """Change of a mean, as a fraction, over the materials that both have finite.

    Args:
        ours: values of a model by material.
        first: those of the model to compare with.

    Returns:
        None where there is nothing to compare.
    """
    both = np.array([[ours[m], first[m]] for m in ours if m in first])
    both = both[np.isfinite(both).all(axis=1)] if len(both) else both
    if not len(both) or not both[:, 1].any():
        return None
    return float(both[:, 0].mean() / both[:, 1].mean() - 1)


def number(text: str | None) -> float:
    """Number of a cell; NaN where it is empty or text."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
