"""Errors of third-order force constants against DFT, and their columns."""

from __future__ import annotations

from typing import Final

import numpy as np

from pft_lightning.evaluation.folder import (
    ERROR,
    FORCE_CONSTANTS_MAE,
    FORMULA,
    MODEL,
    N_ATOMS,
    N_PRIMITIVE,
    NAME,
    SECONDS,
    STATUS,
    Row,
)
from pft_lightning.physics.third_order_constants import ThirdOrderConstants


# meV/Å³: mean absolute error over all elements of the compact tensor, and the mean
# absolute value of DFT's.
THIRD_MAE: Final = "third_order_mae"
THIRD_MEAN: Final = "reference_third_order_mean"
# The same over the blocks (of three atoms) of DFT with an element above ``LARGE``, and
# the share of the blocks that they are.
LARGE_MAE: Final = "third_order_large_mae"
LARGE_MEAN: Final = "reference_third_order_large_mean"
LARGE_SHARE: Final = "third_order_large_share"
# The same over the blocks of an atom with itself.
ON_SITE_MAE: Final = "third_order_on_site_mae"
ON_SITE_MEAN: Final = "reference_third_order_on_site_mean"
# Pearson's correlation over all elements.
CORRELATION: Final = "third_order_correlation"
# How both were made.
MADE: Final = "third_order_from"
# In the file of a material only, what a report draws: see ``largest_pairs``.
PAIRS: Final = "third_order_pairs"

# eV/Å³, above which a block counts as large: 10 meV/Å³.
LARGE: Final = 0.01

ERRORS: Final = (
    *(THIRD_MAE, THIRD_MEAN, LARGE_MAE, LARGE_MEAN, LARGE_SHARE),
    *(ON_SITE_MAE, ON_SITE_MEAN, CORRELATION, FORCE_CONSTANTS_MAE),
)
COLUMNS: Final = (
    *(NAME, FORMULA, N_ATOMS, N_PRIMITIVE, MODEL, STATUS, ERROR),
    *ERRORS,
    *(MADE, SECONDS),
)

_MEV: Final = 1e3

# Pairs that are kept of a material, and to how many decimals, eV/Å³: elements that
# symmetry makes equal are then one.
_N_PAIRS: Final = 600
_DECIMALS: Final = 5


def compare_third(found: np.ndarray, reference: ThirdOrderConstants) -> Row:
    """Compare the compact third-order force constants of a model with DFT's.

    Args:
        found: (n_primitive, n_atoms, n_atoms, 3, 3, 3), eV/Å³.
        reference: symmetrised.

    Returns:
        Columns in meV/Å³, the share and the correlation.
    """
    size, error = np.abs(reference.compact), np.abs(found - reference.compact)
    is_large = size.max(axis=(3, 4, 5)) > LARGE
    atoms = reference.representatives()
    own = (np.arange(len(atoms)), atoms, atoms)
    return {
        THIRD_MAE: _MEV * float(error.mean()),
        THIRD_MEAN: _MEV * float(size.mean()),
        LARGE_MAE: _MEV * float(error[is_large].mean()) if is_large.any() else None,
        LARGE_MEAN: _MEV * float(size[is_large].mean()) if is_large.any() else None,
        LARGE_SHARE: float(is_large.mean()),
        ON_SITE_MAE: _MEV * float(error[own].mean()),
        ON_SITE_MEAN: _MEV * float(size[own].mean()),
        CORRELATION: _correlation(found, reference.compact),
    }


def largest_pairs(found: np.ndarray, reference: np.ndarray) -> list[list[float]]:
    """Largest elements of DFT or of a model, each beside that of the other.

    Args:
        found: of a model, of any shape, eV/Å³.
        reference: of DFT, of the same shape.

    Returns:
        Distinct pairs of DFT and model, eV/Å³, of which one is above ``LARGE``;
        largest first.
    """
    pairs = np.stack([reference.ravel(), found.ravel()], axis=1)
    pairs = pairs[np.abs(pairs).max(axis=1) > LARGE]
    distinct = np.unique(pairs.round(_DECIMALS) + 0.0, axis=0)  # no -0.0
    order = np.argsort(-np.abs(distinct).max(axis=1), kind="stable")[:_N_PAIRS]
    kept: list[list[float]] = distinct[order].tolist()
    return kept


def _correlation(found: np.ndarray, expected: np.ndarray) -> float | None:
    """Pearson's correlation; None where all elements of one are the same."""
    if np.ptp(found) == 0 or np.ptp(expected) == 0:
        return None
    return float(np.corrcoef(found.ravel(), expected.ravel())[0, 1])
