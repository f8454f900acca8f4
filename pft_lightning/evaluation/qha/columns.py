"""Columns of quasi-harmonic calculations, and errors against a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from pft_lightning.evaluation import folder as schema
from pft_lightning.evaluation.folder import (
    OK,
    STATUS,
    Row,
    curve_mae_of,
    error_of,
    reference_of,
)
from pft_lightning.evaluation.gruneisen import ModeGruneisen
from pft_lightning.evaluation.qha.fit import QuasiHarmonic
from pft_lightning.evaluation.qha.volumes import VolumePoint
from pft_lightning.evaluation.summary import mean_and_median


EXPANSION: Final = "thermal_expansion"
BULK: Final = "bulk_modulus"
HEAT_CAPACITY_P: Final = "heat_capacity_p"
VOLUME: Final = "volume"
GIBBS: Final = "gibbs"
GRUNEISEN_QHA: Final = "gruneisen_qha"
GRUNEISEN: Final = "gruneisen"
GRUNEISEN_MEAN: Final = "gruneisen_mean"
N_VOLUMES: Final = "volumes_used"
REACH: Final = "highest_temperature"
REMARK: Final = "remark"

# Compared with a reference: curves over temperature, and means over modes.
COMPARED: Final = (EXPANSION, BULK, HEAT_CAPACITY_P)
COMPARED_MODES: Final = (GRUNEISEN, GRUNEISEN_MEAN)

# Beside the columns of a row: curves of ``QuasiHarmonic``, and every volume.
CURVES: Final = "curves"
VOLUMES: Final = "volumes"
REFERENCE_CURVES: Final = reference_of(CURVES)

COLUMNS: Final = (
    *(schema.NAME, schema.FORMULA, schema.N_ATOMS, schema.N_PRIMITIVE, schema.MODEL),
    *(STATUS, schema.ERROR),
    *(f(name) for name in COMPARED for f in (str, reference_of, error_of)),
    *map(curve_mae_of, COMPARED),
    *(VOLUME, GIBBS, GRUNEISEN_QHA),
    *(f(name) for name in COMPARED_MODES for f in (str, reference_of, error_of)),
    *(N_VOLUMES, REACH, REMARK),
    *(schema.VOLUME_RATIO, schema.RELAX_STEPS, schema.SECONDS),
)

# Thermal expansions of columns are in units of 1e-6/K.
_SCALES: Final = {EXPANSION: 1e6}

# Of ``QuasiHarmonic``, which columns have.
_FIELDS: Final = {
    EXPANSION: "thermal_expansion",
    BULK: "bulk_modulus",
    HEAT_CAPACITY_P: "heat_capacity_p",
    VOLUME: "volume",
    GIBBS: "gibbs",
    GRUNEISEN_QHA: "gruneisen",
}


def values_of(
    found: QuasiHarmonic,
    points: Sequence[VolumePoint],
    temperature: float,
    end: str,
) -> Row:
    """Columns of a crystal at one temperature, and its curves beside them.

    Args:
        found: curves.
        points: all volumes.
        temperature: K.
        end: why the curves end early; may be empty.
    """
    one = found.at(temperature)
    row: Row = {
        name: one[field] * _SCALES.get(name, 1.0) for name, field in _FIELDS.items()
    }
    used = [point for point in points if not point.problem]
    row |= {N_VOLUMES: len(used), REACH: float(found.temperatures[-1])}
    left_out = [
        f"volume {p.ratio:g} left out: {p.problem}" for p in points if p.problem
    ]
    row[REMARK] = "; ".join([*left_out, *([f"ends early: {end}"] if end else [])])
    row[CURVES] = {
        field: [float(v) if np.isfinite(v) else None for v in getattr(found, field)]
        for field in ("temperatures", *_FIELDS.values())
    }
    row[VOLUMES] = [
        {
            "ratio": point.ratio,
            "volume": point.volume,
            "energy": point.energy,
            "lowest_frequency": point.lowest_frequency,
            "problem": point.problem,
        }
        for point in points
    ]
    return row


def gruneisen_of(found: ModeGruneisen, temperature: float) -> Row:
    """Columns of mode Grüneisen parameters."""
    return {
        GRUNEISEN: found.thermodynamic(temperature),
        GRUNEISEN_MEAN: found.mean(),
    }


def compare_modes(found: Row, reference: Row) -> Row:
    """Columns of a comparison of what ``gruneisen_of`` gives."""
    row: Row = {}
    for name in COMPARED_MODES:
        row[reference_of(name)] = reference[name]
        row[error_of(name)] = found[name] - reference[name]
    return row


def compare(
    found: QuasiHarmonic,
    reference: Mapping[str, tuple[np.ndarray, np.ndarray]],
    temperature: float,
) -> Row:
    """Columns of a comparison, at one temperature and over all that both have.

    Args:
        found: of the model.
        reference: temperatures, K, and values by column, per primitive cell, with
            thermal expansions in 1/K.
        temperature: K.
    """
    row: Row = {}
    for name, (temperatures, values) in reference.items():
        if name not in COMPARED:
            continue
        scale = _SCALES.get(name, 1.0)
        ours = getattr(found, _FIELDS[name]) * scale
        theirs = np.interp(
            found.temperatures, temperatures, values * scale, left=np.nan, right=np.nan
        )
        known = np.isfinite(theirs) & np.isfinite(ours)
        if known.any():
            row[curve_mae_of(name)] = float(np.abs(ours - theirs)[known].mean())
        place = int(np.argmin(np.abs(found.temperatures - temperature)))
        if known[place]:
            row[reference_of(name)] = float(theirs[place])
            row[error_of(name)] = float(ours[place] - theirs[place])
    row[REFERENCE_CURVES] = {
        _FIELDS[name]: [temperatures.tolist(), values.tolist()]
        for name, (temperatures, values) in reference.items()
        if name in COMPARED
    }
    return row


def totals(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean and median absolute errors, and values where nothing is compared."""
    done = [row for row in rows if row[STATUS] == OK]
    found: dict[str, Any] = {
        name: mean_and_median(
            abs(row[error_of(name)]) for row in done if error_of(name) in row
        )
        for name in (*COMPARED, *COMPARED_MODES)
    }
    found |= {
        curve_mae_of(name): mean_and_median(row.get(curve_mae_of(name)) for row in done)
        for name in COMPARED
    }
    seconds = sum(row.get(schema.SECONDS) or 0.0 for row in rows)
    return found | {
        "with_remarks": sum(bool(row.get(REMARK)) for row in done),
        schema.SECONDS: seconds,
    }


def remark_of(row: Row) -> str | None:
    """Say what is missing of a row that has numbers; None where nothing is."""
    return row.get(REMARK) or None
