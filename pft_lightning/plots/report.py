"""The report of an evaluation of phonons."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.bands import BAND_STABILITY
from pft_lightning.evaluation.folder import FORGETTING, REFERENCE, reference_of
from pft_lightning.evaluation.trade_off import GAIN, relative_change
from pft_lightning.files import make_folder
from pft_lightning.plots.band_svg import draw_bands
from pft_lightning.plots.bands import plot_bands
from pft_lightning.plots.errors import (
    HISTOGRAMS,
    PARITY,
    ForceConstantDensity,
    plot_error_histograms,
    plot_force_constants,
    plot_parity,
    plot_softening,
)
from pft_lightning.plots.finished import (
    RANKED_BY,
    FinishedEvaluation,
    read_evaluation,
)
from pft_lightning.plots.gain import plot_gain_and_forgetting
from pft_lightning.plots.page import Picture, Pictures, write_page
from pft_lightning.plots.style import QUANTITIES
from pft_lightning.plots.thermal import plot_thermal
from pft_lightning.plots.trade_off import plot_trade_off
from pft_lightning.plots.words import (
    Statement,
    compare,
    describe,
    say_softness,
    say_trade_off,
    say_unstable,
)
from pft_lightning.types import PhononProperties


# Columns of the table of materials; the rest is in the file of rows.
_TABLE: Final = (
    schema.N_ATOMS,
    *HISTOGRAMS,
    schema.DOS_ERROR,
    schema.SPECTRUM_W1,
    schema.FREQUENCY_RATIO,
    reference_of(schema.MIN_FREQUENCY),
    schema.MIN_FREQUENCY,
    schema.VOLUME_RATIO,
)
# Errors of the summary; the table has some of them over all temperatures, too.
_SAID: Final = (*GAIN, schema.DOS_ERROR, schema.SPECTRUM_W1, *schema.MOLECULAR)


# Name on the page -> part of the totals.
_COUNTED: Final = {
    "instability": "instability",
    "stability": BAND_STABILITY,
    "imaginary_modes": schema.IMAGINARY,
}


def write_report(
    folder: str | Path,
    *,
    n_worst: int = 6,
    chosen: Sequence[str] = (),
) -> Path:
    """Write figures and a page into the folder of an evaluation.

    The page holds its figures, style and script, so that it can be opened from disk
    and sent around. Materials have figures of their own where they are the worst ones
    of the last model, the median one, or chosen; all are in the table.

    Args:
        folder: of a finished ``pft-evaluate``.
        n_worst: worst materials with figures.
        chosen: names of materials that get figures, too.

    Returns:
        The page.

    Raises:
        DataFormatError: the folder holds no finished evaluation, or no material has
            a name of ``chosen``.
    """
    evaluation = read_evaluation(folder)
    ranking = evaluation.ranking()
    selected = _select(evaluation, ranking, n_worst, chosen)
    figures = make_folder(evaluation.folder.figures)
    pictures = Pictures(figures, n_rows=len(evaluation.rows))
    if ranking:
        _draw_totals(pictures, evaluation)
    arrays, damaged = _draw_force_constants(pictures, evaluation, ranking, selected)
    anchors = {name: f"material-{index}" for index, name in enumerate(selected)}
    materials = [
        {
            **{"name": name, "anchor": anchors[name], "reason": reason},
            "rows": [row for row in evaluation.rows if row[schema.NAME] == name],
            "pictures": _draw_material(pictures, name, arrays.get(name, {})),
        }
        for name, reason in selected.items()
    ]
    totals, forgetting = list(_totals(evaluation)), list(_forgetting(evaluation))
    return write_page(
        "report.html.jinja",
        evaluation,
        pictures,
        heading="Phonon evaluation",
        words=_words(evaluation, totals, forgetting),
        anchors=anchors,
        totals=totals,
        forgetting=forgetting,
        traded=_traded(evaluation.summary),
        **{name: _counts(evaluation.summary, key) for name, key in _COUNTED.items()},
        damaged=damaged,
        materials=materials,
        rows=evaluation.rows_worst_first(),
        table=_TABLE,
        ranked_by=RANKED_BY,
    )


def _select(
    evaluation: FinishedEvaluation,
    ranking: list[str],
    n_worst: int,
    chosen: Sequence[str],
) -> dict[str, str]:
    """Materials with figures of their own, and why they have them."""
    names = {row[schema.NAME] for row in evaluation.rows}
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise DataFormatError(
            f"{evaluation.folder.path} has no material {unknown[0]!r}; expected names "
            f"of {schema.ROWS_FILE}."
        )
    selected = {name: f"{n}. worst" for n, name in enumerate(ranking[:n_worst], 1)}
    if ranking:
        selected.setdefault(ranking[len(ranking) // 2], "median")
    for name in chosen:
        selected.setdefault(name, "chosen")
    return selected


def _draw_totals(pictures: Pictures, evaluation: FinishedEvaluation) -> None:
    summary = evaluation.summary
    wanted = [*PARITY, *map(reference_of, PARITY), *HISTOGRAMS]
    columns = evaluation.columns([*wanted, schema.FREQUENCY_RATIO])
    temperature = summary["protocol"].get("temperature", 300.0)
    pictures.add(
        "gain_and_forgetting",
        plot_gain_and_forgetting(summary["models"], summary["forgetting"]),
        "Bars are means, diamonds medians over the materials; lower is better.",
    )
    if "trade_off" in summary:
        pictures.add(
            "trade_off",
            plot_trade_off(summary["trade_off"]),
            "Changes against the base model, mix 0. Left: up is more gained, right is "
            "more forgotten; each is a mean over its errors. The knee is the mix with "
            "the largest difference of the two, each scaled to 0 to 1 over all mixes.",
        )
    pictures.add(
        "parity",
        plot_parity(columns, temperature=temperature),
        "One point per material, thermal properties per mole of primitive cells.",
    )
    pictures.add(
        "error_histograms",
        plot_error_histograms(columns),
        "Distribution of the errors over the materials.",
    )
    pictures.add(
        "softening",
        plot_softening(columns),
        "Mean frequency of each material over that of DFT; below 1 is too soft.",
    )


def _draw_force_constants(
    pictures: Pictures,
    evaluation: FinishedEvaluation,
    ranking: Sequence[str],
    selected: Mapping[str, str],
) -> tuple[dict[str, dict[str, PhononProperties]], dict[str, str]]:
    """Draw the force constants of all materials, of which one is read at a time.

    Returns:
        Arrays of the selected materials, and the errors of files that are damaged.
    """
    densities = {label: ForceConstantDensity() for label in evaluation.labels}
    arrays: dict[str, dict[str, PhononProperties]] = {}
    damaged: dict[str, str] = {}
    for name in dict.fromkeys([*ranking, *selected]):
        try:
            properties = evaluation.folder.read_properties(name)
        except DataFormatError as error:
            damaged[name] = str(error)
            continue
        _count(densities, properties)
        if name in selected:
            arrays[name] = properties
    densities = {label: d for label, d in densities.items() if d.counts.any()}
    if densities:
        pictures.add(
            "force_constants",
            plot_force_constants(densities),
            "Force constants of all materials, model against DFT; colour: number of "
            "entries.",
        )
    return arrays, damaged


def _draw_material(
    pictures: Pictures, name: str, properties: Mapping[str, PhononProperties]
) -> list[Picture]:
    reference = properties.get(REFERENCE)
    models = {label: p for label, p in properties.items() if label != REFERENCE}
    if not properties:
        return []
    # Names of materials are those of files: anything may stand in them.
    slug = f"{len(pictures.made):03d}_{re.sub(r'[^A-Za-z0-9.-]', '_', name)[:60]}"
    return [
        pictures.add(
            f"material_{slug}_bands",
            plot_bands(reference, models, title=name),
            "",
            draw_bands(reference, models, title=name),
        ),
        pictures.add(
            f"material_{slug}_thermal", plot_thermal(reference, models, title=name), ""
        ),
    ]


def _count(
    densities: Mapping[str, ForceConstantDensity],
    properties: Mapping[str, PhononProperties],
) -> None:
    theirs = properties[REFERENCE].force_constants if REFERENCE in properties else None
    for label, density in densities.items():
        ours = properties[label].force_constants if label in properties else None
        if ours is not None and theirs is not None and ours.shape == theirs.shape:
            density.add(theirs, ours)


def _totals(evaluation: FinishedEvaluation) -> Iterator[dict[str, Any]]:
    """Rows of the table of totals: those with a mean, known ones first."""
    models, labels = evaluation.summary["models"], evaluation.labels
    names = [*QUANTITIES, *(name for totals in models.values() for name in totals)]
    for name in dict.fromkeys(names):
        cells = [models[label].get(name) or {} for label in labels]
        if any(cell.get("mean") is not None for cell in cells):
            lower_is_better = name in (*schema.ERRORS, *schema.MOLECULAR)
            changes = [
                evaluation.change(label, name) if lower_is_better else None
                for label in labels
            ]
            yield {"name": name, "cells": cells, "changes": changes}


def _forgetting(evaluation: FinishedEvaluation) -> Iterator[dict[str, Any]]:
    """Rows of the table of forgetting."""
    forgetting = evaluation.summary["forgetting"]
    errors = [forgetting.get(label, {}) for label in evaluation.labels]
    for name in FORGETTING:
        values = [e.get(name) for e in errors]
        if any(value is not None for value in values):
            changes = [relative_change(name, values[0], value) for value in values]
            yield {"name": name, "values": values, "changes": changes}


def _words(
    evaluation: FinishedEvaluation,
    totals: list[dict[str, Any]],
    forgetting: list[dict[str, Any]],
) -> list[Statement]:
    """The summary: of the mixes only the knee and the fine-tuned model."""
    summary, (first, *others) = evaluation.summary, evaluation.labels
    said = []
    if trade_off := summary.get("trade_off"):
        points, knee = trade_off["points"], trade_off["knee"]
        mixes = [p["label"] for p in points if p["mix"] in (None, knee, 1.0)]
        others = [label for label in others if label in mixes]
        said.append(say_trade_off(trade_off))
    said += describe(
        evaluation,
        [row for row in totals if row["name"] in _SAID],
        ordered=evaluation.rows_worst_first(),
        ranked_by=RANKED_BY,
        labels=others,
    )
    for label in others if forgetting else ():
        index = evaluation.labels.index(label)
        changes = [(row["name"], row["changes"][index]) for row in forgetting]
        said += compare(label, first, changes, "mean errors on upstream data")
    ratios = evaluation.columns([schema.FREQUENCY_RATIO])
    unstable = _counts(summary, "instability")
    for label in (first, *others):
        said += say_softness(label, ratios[label][schema.FREQUENCY_RATIO])
        said += say_unstable(label, unstable.get(label, {}))
    return said


def _traded(summary: schema.Summary) -> list[str]:
    """Errors that the mixes of a trade-off change."""
    points = summary["trade_off"]["points"] if "trade_off" in summary else []
    return list(dict.fromkeys(name for point in points for name in point["changes"]))


def _counts(summary: schema.Summary, name: str) -> dict[str, Any]:
    """Counts of each model, where there are any."""
    return {
        label: totals[name]
        for label, totals in summary["models"].items()
        if isinstance(totals.get(name), Mapping)
    }
