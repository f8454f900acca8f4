"""Space groups of distorted crystals, and how they lie in those of their parents."""

from __future__ import annotations

from collections.abc import Iterable

import ase
import numpy as np
import spglib
from ase.utils.structure_comparator import SymmetryEquivalenceCheck

from pft_lightning.symmetry import search


# By how many tolerances a parent, relaxed less tightly, may miss its own symmetry.
_MISFIT = 10


def space_group(atoms: ase.Atoms, symprec: float) -> tuple[str, int]:
    """Symbol and number of the space group; ("", 0) where spglib finds none.

    Args:
        atoms: a crystal.
        symprec: Å.
    """
    found = search(spglib.get_symmetry_dataset, atoms, symprec)
    return ("", 0) if found is None else (str(found.international), int(found.number))


def space_groups(atoms: ase.Atoms, tolerances: Iterable[float]) -> dict[str, str]:
    """Symbols and numbers, as "I4/mcm (140)", by the tolerance in Å."""
    found = {}
    for tolerance in sorted(tolerances):
        symbol, number = space_group(atoms, tolerance)
        found[f"{tolerance:g}"] = f"{symbol} ({number})" if number else ""
    return found


def is_subgroup(end: ase.Atoms, parent: ase.Atoms, symprec: float) -> bool:
    """Tell whether every symmetry operation of a distorted crystal is its parent's.

    Each operation ``x -> W x + w`` of the end sends its atoms to each other. With the
    atoms and the cell of the undistorted parent, W must keep the metric of the
    lattice, and send the same atoms to each other up to one common shift.

    Args:
        end: of a relaxation that kept atoms and lattice vectors in their order.
        parent: the same atoms before they were displaced.
        symprec: Å, of the operations of the end.
    """
    found = search(spglib.get_symmetry, end, symprec)
    if found is None:
        return False
    allowed = _MISFIT * symprec
    metric = parent.cell.array @ parent.cell.array.T
    places, ideal = end.get_scaled_positions(), parent.get_scaled_positions()
    for rotation, shift in zip(found["rotations"], found["translations"], strict=True):
        kept = rotation.T @ metric @ rotation
        if np.abs(kept - metric).max() > allowed * np.sqrt(metric.diagonal().max()):
            return False
        sent_to = _matching(places @ rotation.T + shift, places, end.numbers)
        offsets = ideal @ rotation.T + shift - ideal[sent_to]
        offsets -= offsets[0]
        offsets -= np.rint(offsets)
        lengths = np.linalg.norm(offsets @ parent.cell.array, axis=1)
        if lengths.max() > allowed:
            return False
    return True


def is_same_phase(one: ase.Atoms, other: ase.Atoms, symprec: float) -> bool:
    """Tell whether two crystals are one phase, whatever their cells and volumes.

    The space group must be the same, and the structures match by ASE's
    ``SymmetryEquivalenceCheck`` (primitive cells of equal volume; lengths and places
    within 5 % of the mean distance of atoms, angles within 2°).

    Args:
        one: a crystal.
        other: another.
        symprec: Å, of the space groups.
    """
    if sorted(set(one.numbers)) != sorted(set(other.numbers)):
        return False
    first, second = (_primitive(atoms, symprec) for atoms in (one, other))
    if first is None or second is None or len(first) != len(second):
        return False
    if space_group(first, symprec)[1] != space_group(second, symprec)[1]:
        return False
    check = SymmetryEquivalenceCheck(
        angle_tol=2.0, ltol=0.05, stol=0.05, scale_volume=True
    )
    return bool(check.compare(first, second))


def _matching(moved: np.ndarray, places: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Atom (n_atoms,) of the same element that each moved atom lies on."""
    differences = moved[:, None] - places
    differences -= np.rint(differences)
    distances = np.square(differences).sum(axis=2)
    distances[numbers[:, None] != numbers] = np.inf
    return np.asarray(distances.argmin(axis=1))


def _primitive(atoms: ase.Atoms, symprec: float) -> ase.Atoms | None:
    found = search(spglib.find_primitive, atoms, symprec)
    if found is None:
        return None
    cell, positions, numbers = found
    return ase.Atoms(numbers, scaled_positions=positions, cell=cell, pbc=True)
