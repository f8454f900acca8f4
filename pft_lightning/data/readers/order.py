"""Order of atoms: that of a file's supercell, and that of the one phonopy builds.

phonopy repeats each atom of the unit cell in turn; other codes, and users who sort by
element, list the same atoms otherwise. Forces in another order give smooth, symmetric
and wrong force constants.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from phonopy.structure.atoms import PhonopyAtoms
from scipy.spatial import cKDTree

from pft_lightning.errors import DataFormatError


# Farthest that one atom may be in two files, Å: files of few digits, and supercells
# that were relaxed once more.
_SAME_PLACE: Final = 0.1

# Relative difference of two lattices that are the same.
_SAME_LATTICE: Final = 1e-3


def has_lattice(cell: PhonopyAtoms, lattice: np.ndarray) -> bool:
    """Tell whether a cell has this lattice, (3, 3), rows, in the same unit."""
    size = np.abs(lattice).max()
    return bool(np.abs(np.asarray(cell.cell) - lattice).max() < _SAME_LATTICE * size)


def find_order(
    listed: PhonopyAtoms, built: PhonopyAtoms, length: float, where: str
) -> np.ndarray | None:
    """Find each atom of a file's supercell in the one that phonopy builds.

    Args:
        listed: supercell of the file.
        built: supercell of phonopy, in the same unit.
        length: Å per unit of length.
        where: the file, for messages.

    Returns:
        (n_atoms,), index in ``built`` of each atom of ``listed``; None where both
        have one order.

    Raises:
        DataFormatError: the two are not the same crystal.
    """
    lattice = np.asarray(built.cell)
    if len(listed) != len(built) or not has_lattice(listed, lattice):
        raise DataFormatError(
            f"{where}: its {len(listed)} atoms and lattice are not those of the "
            f"supercell, which has {len(built)}. Remove the file that does not belong "
            "here, or correct the supercell matrix."
        )
    there, here = _wrapped(built.scaled_positions), _wrapped(listed.scaled_positions)
    if _all_near(here - there, lattice * length):
        order = np.arange(len(built))
    else:
        order = cKDTree(there, boxsize=1.0).query(here)[1]
    same = (
        len(set(order.tolist())) == len(order)
        and _all_near(here - there[order], lattice * length)
        and np.array_equal(listed.numbers, built.numbers[order])
    )
    if not same:
        raise DataFormatError(
            f"{where}: its atoms are not where the repeated unit cell has them (within "
            f"{_SAME_PLACE} Å), so the forces belong to another structure. Write the "
            "supercell of this unit cell, or take the unit cell that it was made of."
        )
    return None if np.array_equal(order, np.arange(len(order))) else order


def reorder_dataset(dataset: dict[str, Any], order: np.ndarray) -> dict[str, Any]:
    """Bring displacements and forces, of either type, into phonopy's order of atoms."""
    if "first_atoms" not in dataset:
        return {
            name: _reordered(array, order, axis=1) if array.ndim == 3 else array
            for name, array in dataset.items()
        }
    first_atoms = [_reordered_entry(entry, order) for entry in dataset["first_atoms"]]
    return {**dataset, "first_atoms": first_atoms}


def _reordered_entry(entry: dict[str, Any], order: np.ndarray) -> dict[str, Any]:
    entry = {**entry, "number": int(order[entry["number"]])}
    if "forces" in entry:
        entry["forces"] = _reordered(np.asarray(entry["forces"]), order, axis=0)
    if "second_atoms" in entry:  # of phono3py's pairs
        entry["second_atoms"] = [
            _reordered_entry(second, order) for second in entry["second_atoms"]
        ]
    return entry


def reorder_force_constants(
    array: np.ndarray,
    rows: np.ndarray | None,
    order: np.ndarray,
    primitive_atoms: np.ndarray,
    where: str,
) -> np.ndarray:
    """Bring full or compact force constants into phonopy's order of atoms.

    Args:
        array: (n_rows, n_atoms, 3, 3).
        rows: (n_rows,), atoms of the file that the rows belong to, or None.
        order: see ``find_order``.
        primitive_atoms: (n_primitive,), rows that phonopy's compact form has.
        where: the file, for messages.

    Raises:
        DataFormatError: the rows of compact ones are not told, or are others.
    """
    columns = _reordered(array, order, axis=1)
    if array.shape[0] == array.shape[1]:
        return _reordered(columns, order, axis=0)
    found = None if rows is None else order[rows].tolist()
    if found is None or sorted(found) != sorted(primitive_atoms.tolist()):
        raise DataFormatError(
            f"{where}: compact force constants of a supercell whose atoms are in "
            "another order than phonopy's, and their rows are not the atoms of the "
            "primitive cell. Write full force constants."
        )
    return columns[[found.index(int(atom)) for atom in primitive_atoms]]


def _reordered(array: np.ndarray, order: np.ndarray, axis: int) -> np.ndarray:
    return np.take(array, np.argsort(order), axis=axis)


def _wrapped(scaled_positions: np.ndarray) -> np.ndarray:
    wrapped = scaled_positions - np.floor(scaled_positions)
    # Just below 0 rounds to 1.
    return np.where(wrapped >= 1.0, 0.0, wrapped)


def _all_near(difference: np.ndarray, lattice: np.ndarray) -> bool:
    difference = difference - np.rint(difference)
    return bool(np.linalg.norm(difference @ lattice, axis=1).max() < _SAME_PLACE)
