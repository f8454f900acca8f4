"""The report of quasi-harmonic calculations."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.folder import curve_mae_of, error_of, reference_of
from pft_lightning.evaluation.qha import columns
from pft_lightning.evaluation.qha.runner import GRUNEISEN_FILE
from pft_lightning.files import make_folder
from pft_lightning.plots.finished import (
    FinishedEvaluation,
    change_of_means,
    number,
    read_evaluation,
)
from pft_lightning.plots.page import Pictures, write_page
from pft_lightning.plots.qha import Modes, plot_expansion
from pft_lightning.plots.words import describe


# Materials that are drawn, those of the largest errors first.
_MAX_FIGURES: Final = 12

# Curve of a record -> name of the panel, factor.
_PANELS: Final = {
    "thermal_expansion": ("Thermal expansion $\\alpha_V$ ($10^{-6}$/K)", 1e6),
    "bulk_modulus": ("Bulk modulus $B_T$ (GPa)", 1.0),
    "heat_capacity_p": ("Heat capacity $C_P$ (J/K/mol)", 1.0),
}
_TABLE: Final = (
    *(
        f(name)
        for name in (*columns.COMPARED, *columns.COMPARED_MODES)
        for f in (str, reference_of)
    ),
    columns.GRUNEISEN_QHA,
    *(columns.N_VOLUMES, columns.REACH, schema.VOLUME_RATIO, schema.SECONDS),
)
_UNITS: Final = {
    columns.EXPANSION: "thermal expansion (1e-6/K)",
    columns.BULK: "bulk modulus (GPa)",
    columns.HEAT_CAPACITY_P: "C_P (J/K/mol)",
    columns.GRUNEISEN: "Grüneisen parameter of modes",
    columns.GRUNEISEN_MEAN: "mean over modes",
}
_NAMES: Final = {
    **_UNITS,
    **{reference_of(name): f"reference {text}" for name, text in _UNITS.items()},
    **{curve_mae_of(n): f"{_UNITS[n]}, all temperatures" for n in columns.COMPARED},
    columns.GRUNEISEN_QHA: "Grüneisen parameter of volumes",
    columns.N_VOLUMES: "volumes",
    columns.REACH: "up to (K)",
}


def write_qha_report(folder: str | Path) -> Path:
    """Write figures and a page into the folder of quasi-harmonic calculations.

    Args:
        folder: of a finished ``pft-evaluate task=qha``.

    Returns:
        The page.

    Raises:
        DataFormatError: the folder holds no finished evaluation.
        StorageError: the disk is full, or the folder cannot be written.
    """
    evaluation = read_evaluation(folder)
    pictures = Pictures(make_folder(evaluation.folder.figures), len(evaluation.rows))
    ranked = _worst_first(evaluation)
    drawn = [name for name in ranked if _has_numbers(evaluation, name)]
    for index, name in enumerate(drawn[:_MAX_FIGURES]):
        pictures.add(
            f"material_{index:02d}_{name}_expansion",
            _figure(evaluation, name),
            f"{name}: per mole of primitive cells; Grüneisen parameters of modes at "
            "the volume without temperature.",
        )
    compared = any(row.get(error_of(n)) for row in evaluation.rows for n in _UNITS)
    totals = list(_totals(evaluation)) if compared else []
    rows = sorted(evaluation.rows, key=lambda row: ranked.index(row[schema.NAME]))
    undrawn = drawn[_MAX_FIGURES:]
    return write_page(
        "compared.html.jinja",
        evaluation,
        pictures,
        heading="Thermal expansion",
        introduction="Quasi-harmonic approximation, at "
        f"{evaluation.summary['protocol'].get('temperature', 300.0):g} K in tables.",
        nothing="" if drawn else "No model has a thermal expansion of any material.",
        totals_heading="Absolute errors against the reference",
        words=describe(evaluation, totals, ordered=rows if compared else []),
        totals=totals,
        left_out={"of smaller errors": undrawn} if undrawn else {},
        order="Largest errors in thermal expansion first, of the last model; without a "
        "reference in the order of the call.",
        rows=rows,
        table=_TABLE,
        names=_NAMES,
    )


def _worst_first(evaluation: FinishedEvaluation) -> list[str]:
    """Names of all materials."""
    errors = dict.fromkeys((row[schema.NAME] for row in evaluation.rows), -1.0)
    for row in evaluation.rows_of(evaluation.labels[-1]):
        error = abs(number(row.get(error_of(columns.EXPANSION))))
        if np.isfinite(error):
            errors[row[schema.NAME]] = error
    return sorted(errors, key=lambda name: -errors[name])


def _has_numbers(evaluation: FinishedEvaluation, name: str) -> bool:
    return any(
        row[schema.NAME] == name and row[schema.STATUS] == schema.OK
        for row in evaluation.rows
    )


def _figure(evaluation: FinishedEvaluation, name: str) -> Any:
    record = evaluation.folder.read_record(name)
    rows = {} if record is None else record["models"]
    curves: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    reference: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for field, (title, factor) in _PANELS.items():
        models = curves.setdefault(title, {})
        for label, row in rows.items():
            found = row.get(columns.CURVES)
            if found:
                temperatures = np.array(found["temperatures"], dtype=float)
                models[label] = temperatures, factor * np.array(found[field], float)
            theirs = (row.get(columns.REFERENCE_CURVES) or {}).get(field)
            if theirs:
                first, second = np.array(theirs, dtype=float)
                reference[title] = first, factor * second
    modes = {
        label: found for label in rows if (found := _modes(evaluation, name, label))
    }
    of_reference = (_modes(evaluation, name, label, "reference_") for label in rows)
    return plot_expansion(
        curves,
        reference,
        modes,
        next(filter(None, of_reference), None),
        evaluation.labels,
        name,
    )


def _modes(
    evaluation: FinishedEvaluation, name: str, label: str, prefix: str = ""
) -> Modes | None:
    """Frequencies and Grüneisen parameters; None where there are none."""
    path = evaluation.folder.model_folder(name, label) / GRUNEISEN_FILE
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = (stored[f"{prefix}{n}"] for n in ("frequencies", "gruneisen"))
            frequencies, gruneisen = (values.ravel() for values in found)
            return frequencies, gruneisen
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def _totals(evaluation: FinishedEvaluation) -> Iterator[Mapping[str, Any]]:
    """Rows of the table of errors."""
    models, labels = evaluation.summary["models"], evaluation.labels
    pairs = [(name, error_of(name)) for name in _UNITS]
    pairs += [(curve_mae_of(name),) * 2 for name in columns.COMPARED]
    # Evaluations of earlier versions have no totals of modes.
    known = [pair for pair in pairs if all(pair[0] in models[n] for n in labels)]
    for column, source in known:
        errors = [
            {
                row[schema.NAME]: abs(number(row.get(source)))
                for row in evaluation.rows_of(label)
                if row[schema.STATUS] == schema.OK
            }
            for label in labels
        ]
        changes = [change_of_means(ours, errors[0]) for ours in errors]
        cells = [models[label][column] for label in labels]
        yield {"name": column, "cells": cells, "changes": changes}
