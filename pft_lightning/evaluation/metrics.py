"""Errors of one set of phonon properties against another, and their totals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from phonopy.physical_units import get_physical_units

from pft_lightning.errors import ShapeError
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.types import PhononProperties


# Columns of a row in the order of per_material.csv.
IDENTITY: Final = ("name", "formula", "n_atoms", "n_primitive", "model")
STATUS: Final = ("status", "error")
ERRORS: Final = (
    "force_constants_mae",
    "commensurate_frequency_mae",
    "mesh_frequency_mae",
    "max_frequency_error",
    "max_frequency_error_K",
    "entropy_error",
    "free_energy_error",
    "heat_capacity_error",
    "entropy_curve_mae",
    "free_energy_curve_mae",
    "heat_capacity_curve_mae",
    "dos_error",
)
VALUES: Final = (
    "frequency_ratio",
    "reference_unstable",
    "model_unstable",
    "min_frequency",
    "reference_min_frequency",
    "max_frequency",
    "reference_max_frequency",
    "entropy",
    "reference_entropy",
    "free_energy",
    "reference_free_energy",
    "heat_capacity",
    "reference_heat_capacity",
)
COST: Final = ("volume_ratio", "relax_steps", "hvps", "seconds")
COLUMNS: Final = (*IDENTITY, *STATUS, *ERRORS, *VALUES, *COST)

# What totals are taken of.
_TOTALS: Final = (*ERRORS, "frequency_ratio", *COST)

_THERMAL: Final = ("entropy", "free_energy", "heat_capacity")


def compare(
    model: PhononProperties, reference: PhononProperties, protocol: Protocol
) -> dict[str, float | bool]:
    """Errors of a model on one material.

    Bands are compared in the order of their frequencies at each q-point.

    Args:
        model: of the model.
        reference: of DFT, on the same q-points.
        protocol: temperature of the single values, threshold of instability.

    Returns:
        ``ERRORS`` and ``VALUES`` by name, in THz, K, J/K/mol, kJ/mol and eV/Å².

    Raises:
        ShapeError: the two do not share cells or q-points.
    """
    _check(model, reference)
    assert model.force_constants is not None
    assert reference.force_constants is not None
    row: dict[str, float | bool] = {
        "force_constants_mae": float(
            np.abs(model.force_constants - reference.force_constants).mean()
        ),
        "commensurate_frequency_mae": _frequency_mae(
            model.commensurate_frequencies,
            reference.commensurate_frequencies,
            reference.commensurate_weights,
        ),
        "mesh_frequency_mae": _frequency_mae(
            model.mesh_frequencies, reference.mesh_frequencies, reference.mesh_weights
        ),
    }
    difference = abs(model.max_frequency - reference.max_frequency)
    row["max_frequency_error"] = difference
    row["max_frequency_error_K"] = difference * kelvin_per_thz()
    at = int(np.argmin(np.abs(reference.temperatures - protocol.temperature)))
    for name in _THERMAL:
        ours, theirs = getattr(model, name), getattr(reference, name)
        row[f"{name}_error"] = float(abs(ours[at] - theirs[at]))
        row[f"{name}_curve_mae"] = float(np.abs(ours - theirs).mean())
        row[name], row[f"reference_{name}"] = float(ours[at]), float(theirs[at])
    row["dos_error"] = dos_error(model, reference)
    row["frequency_ratio"] = _mean_frequency(model) / _mean_frequency(reference)
    for prefix, properties in (("", model), ("reference_", reference)):
        lowest = float(properties.mesh_frequencies.min())
        row[f"{prefix}min_frequency"] = lowest
        row[f"{prefix}max_frequency"] = properties.max_frequency
        who = prefix or "model_"
        row[f"{who}unstable"] = lowest < -protocol.instability_threshold
    return row


def dos_error(model: PhononProperties, reference: PhononProperties) -> float:
    """Integrated difference of two densities of states, from 0 (equal) to 1.

    ``∫ |g_model - g_reference| dω / (2 n_bands)``: the share of modes that would have
    to move. Both are given at multiples of the same pitch.
    """
    pitch = float(reference.dos_frequencies[1] - reference.dos_frequencies[0])
    starts = [round(float(p.dos_frequencies[0]) / pitch) for p in (model, reference)]
    first = min(starts)
    last = max(s + len(p.dos) for s, p in zip(starts, (model, reference), strict=True))
    both = np.zeros((2, last - first))
    for line, start, p in zip(both, starts, (model, reference), strict=True):
        line[start - first : start - first + len(p.dos)] = p.dos
    n_bands = reference.mesh_frequencies.shape[1]
    return float(np.abs(both[0] - both[1]).sum() * pitch / (2 * n_bands))


def kelvin_per_thz() -> float:
    """Temperature whose energy kT is that of a mode of 1 THz."""
    units = get_physical_units()
    return float(units.THzToEv / units.KB)


def summarise(rows: Iterable[Mapping[str, Any]], protocol: Protocol) -> dict[str, Any]:
    """Means and medians of one model over the materials that did not fail.

    Args:
        rows: of one model.
        protocol: gives the threshold of instability.

    Returns:
        Per metric ``mean``, ``median`` and ``n``; under ``instability`` the counts,
        precision and recall of finding the materials that are unstable in DFT (None
        where there are none to divide by).
    """
    done = [row for row in rows if row["status"] == "ok"]
    totals: dict[str, Any] = {}
    for name in _TOTALS:
        values = [row[name] for row in done if row.get(name) is not None]
        finite = [float(v) for v in values if math.isfinite(v)]
        totals[name] = {
            "mean": float(np.mean(finite)) if finite else None,
            "median": float(np.median(finite)) if finite else None,
            "n": len(finite),
        }
    pairs = [(row["reference_unstable"], row["model_unstable"]) for row in done]
    counts = {
        "true_positive": pairs.count((True, True)),
        "false_positive": pairs.count((False, True)),
        "true_negative": pairs.count((False, False)),
        "false_negative": pairs.count((True, False)),
    }
    found = counts["true_positive"] + counts["false_positive"]
    there = counts["true_positive"] + counts["false_negative"]
    totals["instability"] = {
        **counts,
        "precision": counts["true_positive"] / found if found else None,
        "recall": counts["true_positive"] / there if there else None,
        "threshold": protocol.instability_threshold,
    }
    return totals


def _frequency_mae(
    model: np.ndarray, reference: np.ndarray, weights: np.ndarray
) -> float:
    return float(weights @ np.abs(model - reference).mean(axis=1))


def _mean_frequency(properties: PhononProperties) -> float:
    return float(properties.mesh_weights @ properties.mesh_frequencies.mean(axis=1))


def _check(model: PhononProperties, reference: PhononProperties) -> None:
    for name in ("commensurate_frequencies", "mesh_frequencies", "temperatures"):
        ours, theirs = getattr(model, name).shape, getattr(reference, name).shape
        if ours != theirs:
            raise ShapeError(
                f"{name} has shape {ours} for the model and {theirs} for the "
                "reference; compute both with the same protocol, cells and mesh."
            )
    if model.force_constants is None or reference.force_constants is None:
        raise ShapeError("force constants are needed on both sides; one has none.")
