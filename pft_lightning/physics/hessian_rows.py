"""The Hessian of the atoms of one primitive cell, which says all of that of a cell."""

from __future__ import annotations

import numpy as np


def unit_tangents(own: np.ndarray, n_atoms: int) -> np.ndarray:
    """Directions of some atoms along each axis.

    Args:
        own: (n_primitive,), int64, numbers of the atoms.
        n_atoms: of the cell.

    Returns:
        (n_atoms, 3 n_primitive, 3), float64.
    """
    numbers = np.arange(3 * len(own))
    tangents = np.zeros((n_atoms, len(numbers), 3))
    tangents[own[numbers // 3], numbers, numbers % 3] = 1.0
    return tangents


def products_to_rows(products: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Arrange products of a Hessian with ``unit_tangents`` as force constants.

    What a rigid motion of the crystal leaves on an atom (rounding, or the error of
    finite differences) is taken from its own block.

    Args:
        products: (n_atoms, 3 n_primitive, 3), eV/Å².
        own: (n_primitive,), int64, numbers of the atoms that are moved.

    Returns:
        (n_primitive, n_atoms, 3, 3), eV/Å², compact force constants.
    """
    rows = products.reshape(len(products), len(own), 3, 3).transpose(1, 0, 2, 3)
    # A column is (responding, moved); a row (moved, responding).
    rows = np.ascontiguousarray(rows)
    rows[np.arange(len(own)), own] -= rows.sum(axis=1)
    return rows
