"""Errors of one set of phonon properties against another, and their totals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from pft_lightning.errors import ShapeError
from pft_lightning.evaluation.bands import (
    BAND_STABILITY,
    compare_bands,
    find_stable,
    kelvin_per_thz,
)
from pft_lightning.evaluation.folder import (
    COMMENSURATE_FREQUENCY_MAE,
    COST,
    DOS_ERROR,
    ERRORS,
    FORCE_CONSTANTS_MAE,
    FREQUENCY_RATIO,
    IMAGINARY,
    IMAGINARY_BOTH,
    MAX_FREQUENCY,
    MAX_FREQUENCY_ERROR,
    MAX_FREQUENCY_ERROR_K,
    MESH_FREQUENCY_MAE,
    MIN_FREQUENCY,
    MODEL_UNSTABLE,
    MOLECULAR,
    OK,
    REFERENCE_IMAGINARY,
    REFERENCE_UNSTABLE,
    SPECTRUM_W1,
    STATUS,
    THERMAL,
    Row,
    curve_mae_of,
    error_of,
    reference_of,
)
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.evaluation.summary import mean_and_median
from pft_lightning.types import PhononProperties


# What totals are taken of.
_TOTALS: Final = (*ERRORS, FREQUENCY_RATIO, *MOLECULAR, *COST)


def compare(
    model: PhononProperties, reference: PhononProperties, protocol: Protocol
) -> dict[str, float | bool | int]:
    """Errors of a model on one material.

    Bands are compared in the order of their frequencies at each q-point.

    Args:
        model: of the model.
        reference: of DFT, on the same q-points.
        protocol: temperature of the single values, threshold of instability.

    Returns:
        Errors and values by column, in ``evaluation.folder.UNITS``.

    Raises:
        ShapeError: the two do not share cells or q-points.
    """
    _check(model, reference)
    assert model.force_constants is not None
    assert reference.force_constants is not None
    row: dict[str, float | bool | int] = {
        FORCE_CONSTANTS_MAE: float(
            np.abs(model.force_constants - reference.force_constants).mean()
        ),
        COMMENSURATE_FREQUENCY_MAE: _frequency_mae(
            model.commensurate_frequencies,
            reference.commensurate_frequencies,
            reference.commensurate_weights,
        ),
        MESH_FREQUENCY_MAE: _frequency_mae(
            model.mesh_frequencies, reference.mesh_frequencies, reference.mesh_weights
        ),
    }
    difference = abs(model.max_frequency - reference.max_frequency)
    row[MAX_FREQUENCY_ERROR] = difference
    row[MAX_FREQUENCY_ERROR_K] = difference * kelvin_per_thz()
    values, expected = values_of(model, protocol), values_of(reference, protocol)
    for name in THERMAL:
        row[error_of(name)] = abs(values[name] - expected[name])
        curves = getattr(model, name), getattr(reference, name)
        row[curve_mae_of(name)] = float(np.abs(curves[0] - curves[1]).mean())
    row[DOS_ERROR] = dos_error(model, reference)
    row[SPECTRUM_W1] = spectrum_distance(
        *modes_of_mesh(model), *modes_of_mesh(reference)
    )
    row |= compare_bands(model.bands, reference.bands)
    row[FREQUENCY_RATIO] = _mean_frequency(model) / _mean_frequency(reference)
    row |= _imaginary(model, reference, protocol.instability_threshold)
    unstable = expected.pop(MODEL_UNSTABLE)
    beside = {reference_of(name): value for name, value in expected.items()}
    return {**row, **values, **beside, REFERENCE_UNSTABLE: unstable}


def values_of(
    properties: PhononProperties, protocol: Protocol
) -> dict[str, float | bool]:
    """What one set of phonon properties says, by column of a model.

    Args:
        properties: of a model.
        protocol: temperature of the single values, threshold of instability.
    """
    at = int(np.argmin(np.abs(properties.temperatures - protocol.temperature)))
    lowest = float(properties.mesh_frequencies.min())
    return {
        MIN_FREQUENCY: lowest,
        MAX_FREQUENCY: properties.max_frequency,
        MODEL_UNSTABLE: lowest < -protocol.instability_threshold,
        **{name: float(getattr(properties, name)[at]) for name in THERMAL},
    }


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


def spectrum_distance(
    model: np.ndarray,
    model_weights: np.ndarray,
    reference: np.ndarray,
    reference_weights: np.ndarray,
) -> float:
    """First Wasserstein distance of two sets of modes, THz.

    How far modes have to move on average for one spectrum to become the other, which
    says nothing of which mode is which: ``∫ |N_model - N_reference| dω`` of the shares
    of modes below ω.

    Args:
        model: (n_modes,), THz, negative for imaginary modes.
        model_weights: (n_modes,), what each counts by, of any sum.
        reference: (m_modes,), THz.
        reference_weights: (m_modes,).

    Source: ``spectrum_w1`` of matbench-discovery, which takes the same function.
    """
    # The slowest import of all, for those who only read what was evaluated.
    from scipy.stats import wasserstein_distance

    return float(
        wasserstein_distance(model, reference, model_weights, reference_weights)
    )


def summarise(rows: Iterable[Row], protocol: Protocol) -> dict[str, Any]:
    """Means and medians of one model over the materials that did not fail.

    Args:
        rows: of one model.
        protocol: gives the threshold of instability.

    Returns:
        Per metric ``mean``, ``median`` and ``n``; under ``instability`` the counts,
        precision and recall of finding the materials that are unstable in DFT (None
        where there are none to divide by), under ``imaginary_modes`` those of the
        modes, under ``band_stability`` as of ``bands.find_stable``.
    """
    done = [row for row in rows if row[STATUS] == OK]
    totals: dict[str, Any] = {}
    for name in _TOTALS:
        values = [row[name] for row in done if row.get(name) is not None]
        finite = [float(v) for v in values if math.isfinite(v)]
        totals[name] = mean_and_median(finite)
    pairs = [(row[REFERENCE_UNSTABLE], row[MODEL_UNSTABLE]) for row in done]
    counts = {
        "true_positive": pairs.count((True, True)),
        "false_positive": pairs.count((False, True)),
        "true_negative": pairs.count((False, False)),
        "false_negative": pairs.count((True, False)),
    }
    predicted = counts["true_positive"] + counts["false_positive"]
    unstable = counts["true_positive"] + counts["false_negative"]
    totals["instability"] = {
        **counts,
        "precision": counts["true_positive"] / predicted if predicted else None,
        "recall": counts["true_positive"] / unstable if unstable else None,
        "threshold": protocol.instability_threshold,
    }
    totals[BAND_STABILITY] = find_stable(done, protocol.instability_threshold)
    totals[IMAGINARY] = find_agreement(
        {"model": row[IMAGINARY], "reference": theirs, "both": row[IMAGINARY_BOTH]}
        for row in done
        # Records of earlier versions have none.
        if (theirs := row.get(REFERENCE_IMAGINARY)) is not None
    )
    return totals


def count_imaginary(frequencies: np.ndarray, threshold: float) -> np.ndarray:
    """Count imaginary modes at each q-point, (n_q,).

    Args:
        frequencies: (n_q, n_branches), THz, negative where imaginary.
        threshold: THz; modes below minus this count.
    """
    return np.asarray((frequencies < -threshold).sum(axis=1))


def count_found(model: np.ndarray, reference: np.ndarray) -> dict[str, int]:
    """Count the imaginary modes of a model, of DFT, and those found by both.

    Args:
        model: (n_q,), number at each q-point; the smaller of the two is found by both.
        reference: (n_q,), likewise.
    """
    return {
        "model": int(model.sum()),
        "reference": int(reference.sum()),
        "both": int(np.minimum(model, reference).sum()),
    }


def find_agreement(counts: Iterable[Mapping[str, int]]) -> dict[str, Any]:
    """Add up counts of imaginary modes, and give their precision and recall.

    Args:
        counts: of materials, as of ``count_found``.

    Returns:
        The sums, ``precision`` and ``recall`` (None where there is nothing to divide
        by), and ``n``, the number of materials.
    """
    rows = list(counts)
    found = {
        name: sum(one[name] for one in rows) for name in ("model", "reference", "both")
    }
    both, model, reference = found["both"], found["model"], found["reference"]
    return found | {
        "precision": both / model if model else None,
        "recall": both / reference if reference else None,
        "n": len(rows),
    }


def _imaginary(
    model: PhononProperties, reference: PhononProperties, threshold: float
) -> dict[str, int]:
    """Columns of imaginary modes at commensurate q-points."""
    counts = count_found(
        *(
            count_imaginary(one.commensurate_frequencies, threshold)
            for one in (model, reference)
        )
    )
    return {
        REFERENCE_IMAGINARY: counts["reference"],
        IMAGINARY: counts["model"],
        IMAGINARY_BOTH: counts["both"],
    }


def _frequency_mae(
    model: np.ndarray, reference: np.ndarray, weights: np.ndarray
) -> float:
    return float(weights @ np.abs(model - reference).mean(axis=1))


def modes_of_mesh(properties: PhononProperties) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of all modes of the mesh, and the weights of their q-points."""
    frequencies = properties.mesh_frequencies
    return frequencies.ravel(), properties.mesh_weights.repeat(frequencies.shape[1])


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
