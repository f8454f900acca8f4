"""Errors along band structures, and which materials are stable there.

Source: ``analyse_phonons.py`` of ML-PEG 0.7, whose numbers these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from phonopy.physical_units import get_physical_units

from pft_lightning.errors import ShapeError
from pft_lightning.evaluation.folder import (
    BAND_MIN_FREQUENCY,
    BANDS,
    Row,
    reference_of,
)
from pft_lightning.types import BandStructure


# Totals of ``find_stable``.
BAND_STABILITY: Final = "band_stability"


def kelvin_per_thz() -> float:
    """Temperature whose energy kT is that of a mode of 1 THz."""
    units = get_physical_units()
    return float(units.THzToEv / units.KB)


def compare_bands(
    model: BandStructure | None, reference: BandStructure | None
) -> dict[str, float]:
    """Errors of a band structure on one material by column, K.

    Every q-point of the path counts once, however long its segment is.

    Args:
        model: of the model; None without a band structure.
        reference: of DFT, on the same path.

    Returns:
        Differences of the highest, mean and lowest frequency, the mean difference of
        frequencies in their order, and the lowest frequencies (THz); empty without
        band structures.

    Raises:
        ShapeError: the two do not share their path.
    """
    if model is None or reference is None:
        return {}
    ours, theirs = (
        np.concatenate(model.frequencies),
        np.concatenate(reference.frequencies),
    )
    if ours.shape != theirs.shape:
        raise ShapeError(
            f"the band structure has shape {ours.shape} for the model and "
            f"{theirs.shape} for the reference; compute both on one path."
        )
    ends = [abs(float(of(ours) - of(theirs))) for of in (np.max, np.mean, np.min)]
    errors = [*ends, float(np.abs(ours - theirs).mean())]
    return {
        **{n: e * kelvin_per_thz() for n, e in zip(BANDS, errors, strict=True)},
        BAND_MIN_FREQUENCY: float(ours.min()),
        reference_of(BAND_MIN_FREQUENCY): float(theirs.min()),
    }


def find_stable(rows: Sequence[Row], threshold: float) -> dict[str, Any]:
    """Say how well a model finds the materials without imaginary modes on the path.

    Args:
        rows: of materials that did not fail.
        threshold: THz; a lowest frequency above minus this is stable.

    Returns:
        Numbers of stable materials of both, of the model alone and of DFT alone, of
        unstable ones of both, and ``f1`` of the stable ones; None where there are none.
    """
    both = reference_of(BAND_MIN_FREQUENCY)
    pairs = [
        (row[both] > -threshold, row[BAND_MIN_FREQUENCY] > -threshold)
        for row in rows
        # Neither without band structures, nor in records of earlier versions.
        if row.get(both) is not None
    ]
    right = pairs.count((True, True))
    wrong = pairs.count((False, True)) + pairs.count((True, False))
    return {
        "stable_of_both": right,
        "stable_of_model": pairs.count((False, True)),
        "stable_of_reference": pairs.count((True, False)),
        "unstable_of_both": pairs.count((False, False)),
        "f1": 2 * right / (2 * right + wrong) if right + wrong else None,
        "threshold": threshold,
    }
