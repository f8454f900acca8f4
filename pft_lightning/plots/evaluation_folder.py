"""Reading the folder of an evaluation: totals, rows per material, arrays."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation.properties_io import load_properties
from pft_lightning.json_files import parse_json
from pft_lightning.types import PhononProperties


REFERENCE: Final = "reference"

# What orders materials from worst to best.
RANKED_BY: Final = "mesh_frequency_mae"


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationFolder:
    """Content of an evaluation folder.

    Attributes:
        path: of the folder.
        metrics: content of ``metrics.json``.
        rows: of ``per_material.csv``, as text; empty where unknown.
        labels: of the models; the first is the one that others are compared with, the
            last the one that ranks the materials.
    """

    path: Path
    metrics: Mapping[str, Any]
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
            {row["name"]: number(row.get(name)) for row in finished[model]}
            for model in (label, self.labels[0])
        )
        both = np.array([[ours[m], first[m]] for m in ours if m in first])
        both = both[np.isfinite(both).all(axis=1)] if len(both) else both
        if label == self.labels[0] or not len(both) or not both[:, 1].any():
            return None
        return float(both[:, 0].mean() / both[:, 1].mean() - 1)

    def ranking(self) -> list[str]:
        """Materials that a model finished, worst first.

        The last model decides; materials that it failed on come first.
        """
        worst: dict[str, float] = {}
        for label, rows in self._finished().items():
            for row in rows:
                error = number(row.get(RANKED_BY))
                failed = label != self.labels[-1] or not math.isfinite(error)
                worst[row["name"]] = math.inf if failed else error
        return sorted(worst, key=lambda name: -worst[name])

    def rows_worst_first(self) -> list[dict[str, str]]:
        """All rows, those of a material together; wholly failed materials first."""
        finished = self.ranking()
        place = {name: index for index, name in enumerate(finished)}
        return sorted(self.rows, key=lambda row: place.get(row["name"], -1))

    def properties(self, name: str) -> dict[str, PhononProperties]:
        """Arrays of one material by label; empty where they were not kept.

        Raises:
            DataFormatError: the file is damaged.
        """
        path = self.path / "materials" / f"{name}.npz"
        return load_properties(path) if path.is_file() else {}

    def _finished(self) -> dict[str, list[dict[str, str]]]:
        return {
            label: [
                row
                for row in self.rows
                if row.get("model") == label and row.get("status") == "ok"
            ]
            for label in self.labels
        }


def read_evaluation(path: Path) -> EvaluationFolder:
    """Read the totals and rows of an evaluation.

    Raises:
        DataFormatError: the folder holds no finished evaluation.
    """
    metrics_file, rows_file = path / "metrics.json", path / "per_material.csv"
    for file in (metrics_file, rows_file):
        if not file.is_file():
            raise DataFormatError(
                f"{file} does not exist; expected the folder of a finished "
                "pft-evaluate. Run the same command again: it goes on where it was "
                "interrupted."
            )
    try:
        metrics = parse_json(metrics_file.read_text(encoding="utf-8"))
        labels = list(metrics["models"])
        with rows_file.open(newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
        if rows and not {"name", "model", "status"} <= set(rows[0]):
            raise ValueError("per_material.csv lacks name, model or status")
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataFormatError(
            f"{path}: metrics.json or per_material.csv cannot be read "
            f"({type(error).__name__}: {error}). Run pft-evaluate again."
        ) from error
    return EvaluationFolder(path, metrics, rows, labels)


def number(text: str | None) -> float:
    """Number of a cell; NaN where it is empty or text."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
