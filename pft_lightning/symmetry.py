"""Searches of spglib that find nothing, whatever its version does then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import ase
import numpy as np
import spglib


# What spglib raises from 2.7 on where it gave None before; older ones have none.
_ERROR: Any = getattr(getattr(spglib, "error", None), "SpglibError", ())

_Found = TypeVar("_Found")


def search(
    function: Callable[..., _Found | None],
    cell: ase.Atoms | tuple[np.ndarray, np.ndarray, Any],
    symprec: float,
) -> _Found | None:
    """What a function of spglib finds of a crystal.

    Args:
        function: as ``spglib.get_symmetry_dataset``.
        cell: a crystal, or lattice vectors (Å), fractional positions and kinds.
        symprec: tolerance, Å.

    Returns:
        None where nothing is found, as with atoms on one place.
    """
    if isinstance(cell, ase.Atoms):
        cell = (cell.cell.array, cell.get_scaled_positions(), cell.numbers)
    if not all(np.isfinite(part).all() for part in cell[:2]):
        return None  # which spglib crashes on
    try:
        return function(cell, symprec=symprec)
    except _ERROR:
        return None
