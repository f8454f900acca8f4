"""The report of a comparison with measured values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.folder import NAME, Record, mae_of
from pft_lightning.evaluation.measured import columns, table
from pft_lightning.evaluation.measured.columns import (
    QUANTITIES,
    differences_of,
    over_uncertainty_of,
)
from pft_lightning.evaluation.measured.content import FREQUENCIES, THERMAL
from pft_lightning.files import make_folder
from pft_lightning.losses.properties import UNITS
from pft_lightning.plots.finished import (
    FinishedEvaluation,
    change_of_means,
    number,
    read_evaluation,
)
from pft_lightning.plots.measured import (
    Curve,
    MeasuredPanel,
    plot_crystal,
    plot_frequencies,
)
from pft_lightning.plots.page import Pictures, write_page
from pft_lightning.plots.thermal import PANELS
from pft_lightning.plots.words import Statement, describe


# Crystals that are drawn, those of the largest errors first.
_MAX_FIGURES: Final = 12
# Of the measured temperatures, how far curves are drawn.
_REACH: Final = 1.2

_TITLES: Final = {name: name.replace("_", " ") for name in QUANTITIES}
_TABLE: Final = (
    columns.N_VALUES,
    *(f(name) for name in QUANTITIES for f in (mae_of, over_uncertainty_of)),
    *(schema.SPECTRUM_W1, schema.MIN_FREQUENCY),
    *(schema.VOLUME_RATIO, schema.RELAX_STEPS, schema.SECONDS),
)
_NAMES: Final = {
    columns.N_VALUES: "values",
    **{mae_of(name): f"{text} ({UNITS[name]})" for name, text in _TITLES.items()},
    **{
        over_uncertainty_of(name): f"{text}, difference / uncertainty"
        for name, text in _TITLES.items()
    },
}


def write_measured_report(folder: str | Path) -> Path:
    """Write figures and a page into the folder of a comparison with measured values.

    Args:
        folder: of a finished ``pft-evaluate task=measured``.

    Returns:
        The page.

    Raises:
        DataFormatError: the folder holds no finished evaluation.
        StorageError: the disk is full, or the folder cannot be written.
    """
    evaluation = read_evaluation(folder)
    records = _records(evaluation)
    values = list(table.table_rows(records, evaluation.labels))
    errors = _relative_errors(evaluation, records)
    records = sorted(records, key=lambda record: -errors[record["name"]])
    n_rows = len(evaluation.rows) + len(values)
    pictures = Pictures(make_folder(evaluation.folder.figures), n_rows)
    undrawn = _draw(pictures, evaluation, records)
    totals = list(_totals(evaluation, records))
    rows = sorted(evaluation.rows, key=lambda row: -errors.get(row[NAME], -1.0))
    return write_page(
        "measured.html.jinja",
        evaluation,
        pictures,
        heading="Measured values",
        introduction="Frequencies are computed in the smallest cell that the q-point "
        "fits; thermal properties are per mole of primitive cells.",
        nothing="" if pictures.made else "No model has a value that was measured.",
        totals_heading="Absolute differences from measured values",
        words=_words(evaluation, records, totals, rows),
        totals=totals,
        left_out={"of smaller errors": undrawn} if undrawn else {},
        order="Largest relative errors first, of the last model.",
        rows=rows,
        table=[name for name in _TABLE if any(row.get(name) for row in rows)],
        names=_NAMES,
        values=[_shown(value, evaluation.labels) for value in values],
        values_file=columns.VALUES_FILE,
        compared_over="over the values that both have",
    )


def _records(evaluation: FinishedEvaluation) -> list[Record]:
    """Records of all crystals, in the order of the rows."""
    names = dict.fromkeys(row[NAME] for row in evaluation.rows)
    found = (evaluation.folder.read_record(name) for name in names)
    return [record for record in found if record is not None]


def _parts(record: Record) -> Mapping[str, Any]:
    """With what only comparisons with measured values have."""
    return cast(Mapping[str, Any], record)


def _relative_errors(
    evaluation: FinishedEvaluation, records: Sequence[Record]
) -> dict[str, float]:
    """Largest of the quantities, of the last model; -1 where there is none."""
    found = {row[NAME]: -1.0 for row in evaluation.rows}
    for record in records:
        measured = _parts(record).get(columns.MEASURED) or ()
        row = record["models"].get(evaluation.labels[-1], {})
        for quantity in QUANTITIES if columns.COMPUTED in row else ():
            differences, _ = differences_of(measured, row[columns.COMPUTED], quantity)
            sizes = [abs(v["measured"]) for v in measured if v["quantity"] == quantity]
            if sum(sizes) > 0:
                error = float(np.abs(differences).sum() / sum(sizes))
                found[record["name"]] = max(found[record["name"]], error)
    return found


def _draw(
    pictures: Pictures, evaluation: FinishedEvaluation, records: Sequence[Record]
) -> list[str]:
    """Draw frequencies of all crystals, and the other properties of the first.

    Returns:
        Names of crystals that are left out.
    """
    models, uncertainties = _frequencies(evaluation, records)
    if any(len(measured) for measured, _ in models.values()):
        pictures.add(
            "measured_frequencies",
            plot_frequencies(models, uncertainties),
            "One point per measured frequency and model; bars are uncertainties, where "
            "they are known.",
        )
    drawn = {
        record["name"]: panels
        for record in records
        if (panels := list(_panels(record, evaluation.labels)))
    }
    for index, (name, panels) in enumerate(list(drawn.items())[:_MAX_FIGURES]):
        # Names of materials are those of files: anything may stand in them.
        slug = re.sub(r"[^A-Za-z0-9.-]", "_", name)[:60]
        pictures.add(
            f"material_{index:02d}_{slug}_measured",
            plot_crystal(panels, evaluation.labels, name),
            f"{name}: densities of states of models are smeared.",
        )
    return list(drawn)[_MAX_FIGURES:]


def _frequencies(
    evaluation: FinishedEvaluation, records: Sequence[Record]
) -> tuple[dict[str, Curve], dict[str, np.ndarray]]:
    """Measured and computed frequencies, and uncertainties, by model."""
    models, uncertainties = {}, {}
    for label in evaluation.labels:
        theirs, ours, sizes = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
        for record in records:
            computed = record["models"].get(label, {}).get(columns.COMPUTED)
            if computed is None:
                continue
            measured = _parts(record)[columns.MEASURED]
            differences, size = differences_of(measured, computed, FREQUENCIES)
            found = [v["measured"] for v in measured if v["quantity"] == FREQUENCIES]
            theirs.append(np.array(found, dtype=float))
            ours.append(theirs[-1] + differences)
            sizes.append(size)
        models[label] = np.concatenate(theirs), np.concatenate(ours)
        uncertainties[label] = np.concatenate(sizes)
    return models, uncertainties


def _panels(record: Record, labels: Sequence[str]) -> Iterator[MeasuredPanel]:
    """Thermal properties and density of states of a crystal."""
    models = {label: record["models"].get(label, {}) for label in labels}
    for quantity in THERMAL:
        values = _parts(record).get(columns.MEASURED) or ()
        points = [
            (value["temperature"], value["measured"], value["uncertainty"])
            for value in values
            if value["quantity"] == quantity
        ]
        if not points:
            continue
        temperatures, measured, sizes = np.array(points, dtype=float).T
        curves = {}
        for label, row in models.items():
            found = row.get(columns.CURVES)
            if found and quantity in found:
                x, y = (np.array(found[n]) for n in ("temperatures", quantity))
                near = x <= _REACH * temperatures.max()
                curves[label] = x[near], y[near]
        yield MeasuredPanel(
            PANELS[quantity],
            (temperatures, measured),
            sizes,
            curves,
            "Temperature (K)",
        )
    density = _parts(record).get(columns.MEASURED_DENSITY)
    if density:
        yield MeasuredPanel(
            "DOS (per THz and cell)",
            _curve(density),
            None,
            {
                label: _curve(row[columns.DENSITY])
                for label, row in models.items()
                if columns.DENSITY in row
            },
            "Frequency (THz)",
        )


def _curve(density: Mapping[str, Sequence[float]]) -> Curve:
    return np.array(density["points"]), np.array(density["values"])


def _totals(
    evaluation: FinishedEvaluation, records: Sequence[Record]
) -> Iterator[dict[str, Any]]:
    """Rows of the table of errors; changes are over values that both models have."""
    models, labels = evaluation.summary["models"], evaluation.labels
    pairs = [
        (f(name), name) for f in (mae_of, over_uncertainty_of) for name in QUANTITIES
    ]
    for column, quantity in [*pairs, (schema.SPECTRUM_W1, "")]:
        cells = [models[label].get(column) or {} for label in labels]
        if not any(cell.get("n") for cell in cells):
            continue
        weighed = column == over_uncertainty_of(quantity)
        if quantity:
            errors = [_errors(records, label, quantity, weighed) for label in labels]
        else:
            errors = [_column(evaluation, label, column) for label in labels]
        changes = [change_of_means(ours, errors[0]) for ours in errors]
        yield {"name": column, "cells": cells, "changes": changes}


def _words(
    evaluation: FinishedEvaluation,
    records: Sequence[Record],
    totals: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, str]],
) -> list[Statement]:
    """The summary: changes of errors, and how many values are nearer than before."""
    first, *others = evaluation.labels
    said = describe(evaluation, totals, ordered=rows)
    for label in others:
        pairs = [
            (error, theirs[place])
            for name in QUANTITIES
            for theirs in [_errors(records, first, name, weighed=False)]
            for place, error in _errors(records, label, name, weighed=False).items()
            if place in theirs
        ]
        nearer = sum(ours < before for ours, before in pairs)
        if len(pairs) > 1:
            text = (
                f"{label} is nearer than {first} to {nearer} of {len(pairs)} measured "
                "values"
            )
            said.append(Statement("note", text))
    return said


def _errors(
    records: Sequence[Record], label: str, quantity: str, weighed: bool
) -> dict[str, float]:
    """Absolute differences of a model, by value."""
    found = {}
    for record in records:
        computed = record["models"].get(label, {}).get(columns.COMPUTED)
        if computed is None:
            continue
        measured = _parts(record)[columns.MEASURED]
        differences, sizes = differences_of(measured, computed, quantity)
        for index, error in enumerate(np.abs(differences) / (sizes if weighed else 1)):
            found[f"{index} {record['name']}"] = float(error)
    return found


def _column(
    evaluation: FinishedEvaluation, label: str, column: str
) -> dict[str, float]:
    rows = evaluation.rows_of(label)
    return {row[NAME]: number(row.get(column)) for row in rows}


def _shown(value: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """A row of the table of values."""
    temperature = value["temperature"]
    at = " ".join(filter(None, (value["q_point"], value["branch"])))
    return {
        "name": value[NAME],
        "quantity": _TITLES[value["quantity"]],
        "at": at if temperature is None else f"{temperature:g} K",
        "measured": value["measured"],
        "uncertainty": value["uncertainty"],
        "unit": value["unit"],
        "models": [
            (value.get(table.computed_of(label)), value.get(table.difference_of(label)))
            for label in labels
        ],
    }
