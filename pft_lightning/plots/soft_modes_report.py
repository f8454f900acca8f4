"""The report of an evaluation of soft modes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.folder import reference_of
from pft_lightning.evaluation.soft_modes import columns
from pft_lightning.files import make_folder
from pft_lightning.plots.finished import FinishedEvaluation, number, read_evaluation
from pft_lightning.plots.page import Pictures, write_page
from pft_lightning.plots.soft_modes import plot_wells
from pft_lightning.plots.words import Statement, count_materials, describe


# Materials whose wells are drawn, the deepest first, and directions of each.
_MAX_FIGURES: Final = 12
_MAX_PANELS: Final = 6

_TEXTS: Final = (
    *(schema.NAME, schema.FORMULA, schema.MODEL),
    *(columns.PARENT_GROUP, columns.END_GROUP, columns.END_STABLE),
)
_TABLE: Final = (
    *(columns.LOWEST, reference_of(columns.LOWEST), columns.N_SOFT),
    *(columns.DEPTH, columns.END_ENERGY, schema.VOLUME_RATIO, schema.SECONDS),
)
_NAMES: Final = {
    columns.LOWEST: "lowest frequency (THz)",
    reference_of(columns.LOWEST): "DFT lowest frequency (THz)",
    columns.N_SOFT: "soft modes",
    columns.DEPTH: "deepest well (meV / primitive cell)",
    columns.END_ENERGY: "end (meV/atom)",
}


def write_soft_modes_report(folder: str | Path) -> Path:
    """Write figures of wells and a page into the folder of an evaluation.

    Args:
        folder: of a finished ``pft-evaluate task=soft_modes``.

    Returns:
        The page.

    Raises:
        DataFormatError: the folder holds no finished evaluation.
        StorageError: the disk is full, or the folder cannot be written.
    """
    evaluation = read_evaluation(folder)
    pictures = Pictures(make_folder(evaluation.folder.figures))
    deepest = _deepest_first(evaluation)
    for index, name in enumerate(deepest[:_MAX_FIGURES]):
        paths = _paths(evaluation, name)
        if paths:
            more = len(paths) - _MAX_PANELS
            shown = dict(list(paths.items())[:_MAX_PANELS])
            pictures.add(
                f"material_{index:02d}_{name}_wells",
                plot_wells(shown, evaluation.labels),
                f"{name}: along each direction, by the q-point of its mode and the "
                "space group that it leaves"
                + (
                    f"; {more} more are in the file of the material."
                    if more > 0
                    else "."
                ),
            )
    rows = sorted(evaluation.rows, key=lambda row: _place(deepest, row))
    return write_page(
        "soft_modes.html.jinja",
        evaluation,
        pictures,
        heading="Soft modes",
        words=[
            *_ends(evaluation),
            *describe(evaluation, [], ordered=_soft(rows), first_ones="Deepest wells"),
        ],
        undrawn=deepest[_MAX_FIGURES:],
        imaginary=list(_imaginary(evaluation)),
        rows=rows,
        texts=_TEXTS,
        table=_TABLE,
        names=_NAMES,
    )


def _ends(evaluation: FinishedEvaluation) -> Iterator[Statement]:
    """Say how many soft materials each model has, and where they end."""
    for label in evaluation.labels:
        totals = evaluation.summary["models"][label]
        soft, stable = totals["with_soft_modes"], totals["ended_stable"]
        text = (
            f"{label}: {count_materials(soft)} with soft modes, {stable} ended stable"
        )
        yield Statement("result", text)


def _soft(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Rows with a well, which are those to look at."""
    return [row for row in rows if number(row.get(columns.DEPTH)) < 0]


def _place(deepest: list[str], row: Mapping[str, str]) -> int:
    """Materials with wells first; those that failed before all others."""
    if row[schema.STATUS] != schema.OK:
        return -1
    name = row[schema.NAME]
    return deepest.index(name) if name in deepest else len(deepest)


def _deepest_first(evaluation: FinishedEvaluation) -> list[str]:
    """Names of materials with a well of any model."""
    depths: dict[str, float] = {}
    for row in evaluation.rows:
        depth, name = number(row.get(columns.DEPTH)), row[schema.NAME]
        if depth < 0:
            depths[name] = min(depth, depths.get(name, 0.0))
    return sorted(depths, key=lambda name: depths[name])


def _paths(
    evaluation: FinishedEvaluation, name: str
) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Wells of the crystal itself by direction and model, the deepest first."""
    record = evaluation.folder.read_record(name)
    found: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for label, row in (record["models"] if record else {}).items():
        for well in next(iter(row.get(columns.WELLS, ())), ()):
            energies = np.array(well["energies"], dtype=float)
            found.setdefault(_title(well), {}).setdefault(
                label, (np.array(well["amplitudes"], dtype=float), 1e3 * energies)
            )

    def depth(title: str) -> float:
        return min(float(np.nanmin(e)) for _, e in found[title].values())

    return {title: found[title] for title in sorted(found, key=depth)}


def _title(well: Mapping[str, Any]) -> str:
    q_point = ", ".join(f"{component:.3g}" for component in well["q_point"])
    return f"({q_point}), {well['group']}"


def _imaginary(evaluation: FinishedEvaluation) -> Iterator[dict[str, Any]]:
    """Rows of the table of imaginary modes."""
    for label in evaluation.labels:
        totals = evaluation.summary["models"][label]
        for threshold, counts in totals[columns.IMAGINARY].items():
            yield {"label": label, "threshold": threshold, **counts}
