"""Columns of comparisons with measured values, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.folder import OK, STATUS, Row, mae_of
from pft_lightning.evaluation.measured.content import (
    FREQUENCIES,
    THERMAL,
    MeasuredValue,
)
from pft_lightning.evaluation.summary import mean_and_median
from pft_lightning.losses.properties import Property


VALUES_FILE: Final = "values.csv"
N_VALUES: Final = "n_values"
REMARK: Final = "remark"

# Of which single values are measured.
QUANTITIES: Final[tuple[Property, ...]] = (FREQUENCIES, *THERMAL)

# Beside the columns: of a record all measured values and the density of states; of a
# row what the model has in the places of the values, its curves and its density.
MEASURED: Final = "measured"
MEASURED_DENSITY: Final = "measured_density"
COMPUTED: Final = "computed"
CURVES: Final = "curves"
DENSITY: Final = "density"


def over_uncertainty_of(quantity: str) -> str:
    """Column with the mean of absolute differences over their uncertainties."""
    return f"{quantity}_over_uncertainty"


COLUMNS: Final = (
    *(schema.NAME, schema.FORMULA, schema.N_ATOMS, schema.MODEL, STATUS, schema.ERROR),
    N_VALUES,
    *(f(name) for name in QUANTITIES for f in (mae_of, over_uncertainty_of)),
    *(schema.SPECTRUM_W1, schema.MIN_FREQUENCY, REMARK),
    *(schema.VOLUME_RATIO, schema.RELAX_STEPS, schema.N_PRODUCTS, schema.SECONDS),
)


def differences_of(
    measured: Sequence[MeasuredValue], computed: Sequence[float], quantity: str
) -> tuple[np.ndarray, np.ndarray]:
    """Differences of a quantity, computed less measured, and their uncertainties.

    Args:
        measured: all values of a crystal.
        computed: by a model, in the same places.
        quantity: which of them.

    Returns:
        (n,) each, in the unit of the quantity; uncertainties are NaN where unknown.
    """
    pairs = [
        (theirs - value["measured"], value["uncertainty"])
        for value, theirs in zip(measured, computed, strict=True)
        if value["quantity"] == quantity
    ]
    differences, uncertainties = np.array(pairs, dtype=float).reshape(-1, 2).T
    return differences, uncertainties


def errors_of(measured: Sequence[MeasuredValue], computed: Sequence[float]) -> Row:
    """Columns of a model on a crystal: mean errors of what was measured of it."""
    row: Row = {N_VALUES: len(measured), COMPUTED: list(computed)}
    for quantity in QUANTITIES:
        differences, uncertainties = differences_of(measured, computed, quantity)
        if len(differences):
            row[mae_of(quantity)] = float(np.abs(differences).mean())
        known = np.isfinite(uncertainties)
        if known.any():
            shares = np.abs(differences[known]) / uncertainties[known]
            row[over_uncertainty_of(quantity)] = float(shares.mean())
    return row


def total_errors(
    rows: Sequence[Row], measured: Mapping[str, Sequence[MeasuredValue]]
) -> dict[str, Any]:
    """Mean and median absolute errors of all values, each counting once.

    Args:
        rows: of one model.
        measured: values by the name of the crystal.

    Returns:
        By column: ``mean``, ``median`` and ``n``, the number of values; of densities of
        states that of crystals. Only of what was measured.
    """
    done = [row for row in rows if row[STATUS] == OK]
    there = {value["quantity"] for values in measured.values() for value in values}
    totals: dict[str, Any] = {}
    for quantity in QUANTITIES:
        if quantity not in there:
            continue
        pairs = [
            differences_of(measured[row[schema.NAME]], row[COMPUTED], quantity)
            for row in done
        ]
        differences, uncertainties = np.concatenate([np.zeros((2, 0)), *pairs], axis=1)
        known = np.isfinite(uncertainties)
        totals[mae_of(quantity)] = mean_and_median(np.abs(differences))
        totals[over_uncertainty_of(quantity)] = mean_and_median(
            np.abs(differences[known]) / uncertainties[known]
        )
    if any(schema.SPECTRUM_W1 in row for row in done):
        totals[schema.SPECTRUM_W1] = mean_and_median(
            row.get(schema.SPECTRUM_W1) for row in done
        )
    seconds = sum(row.get(schema.SECONDS) or 0.0 for row in rows)
    return totals | {schema.SECONDS: seconds}


def remark_of(row: Row) -> str | None:
    """Say what is wrong with a row that has numbers; None where nothing is."""
    return row.get(REMARK) or None
