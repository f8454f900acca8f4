"""Mode Grüneisen parameters from dynamical matrices and their volume derivatives.

``γ = -d ln ω / d ln V = -<e| dD/dlnV |e> / (2 ω²)`` of a mode with eigenvector e: M.
Born and K. Huang, Dynamical Theory of Crystal Lattices (1954).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from ase import units


# Branches as near as this, relative to the highest eigenvalue, are one.
_DEGENERATE: Final = 1e-7

_KELVIN_PER_THZ: Final = 1e12 * units._hplanck / units._k


def mode_derivatives(
    matrix: np.ndarray, derivative: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of a dynamical matrix, and how they change with a perturbation.

    Branches of one eigenvalue get the values of the perturbation within them, which
    are those of the branches it splits them into.

    Args:
        matrix: (n, n), Hermitian.
        derivative: (n, n), Hermitian, of the matrix.

    Returns:
        Both (n,): eigenvalues, ascending, and their derivatives.
    """
    values, modes = np.linalg.eigh(matrix)
    projected = modes.conj().T @ derivative @ modes
    changes = np.empty(len(values))
    for branch in _degenerate_sets(values):
        changes[branch] = np.linalg.eigvalsh(projected[branch, branch])
    return values, changes


def _degenerate_sets(values: np.ndarray) -> Iterator[slice]:
    gaps = np.diff(values) > _DEGENERATE * np.abs(values).max()
    edges = [0, *(np.flatnonzero(gaps) + 1), len(values)]
    yield from map(slice, edges[:-1], edges[1:])


def mode_heat_capacity(frequencies: np.ndarray, temperature: float) -> np.ndarray:
    """Heat capacities of harmonic modes, in units of Boltzmann's constant.

    Args:
        frequencies: THz, positive; of any shape.
        temperature: K, positive.

    >>> mode_heat_capacity(np.array([1e-3]), 300.0).round(6)
    array([1.])
    """
    half = _KELVIN_PER_THZ * np.asarray(frequencies) / (2 * temperature)
    # (x/2)² / sinh²(x/2), without infinities.
    return np.asarray((2 * half * np.exp(-half) / -np.expm1(-2 * half)) ** 2)
