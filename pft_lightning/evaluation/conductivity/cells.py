"""The cells of a conductivity: crystal, two supercells and a mesh of q-points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ase
import numpy as np
import spglib

from pft_lightning.symmetry import search


@dataclass(frozen=True, slots=True, eq=False)
class ConductivityCells:
    """A crystal and the supercells of its force constants.

    Attributes:
        atoms: the crystal, Å.
        fc2_supercell: (3, 3), of second order, phonopy's convention.
        fc3_supercell: (3, 3), of third order.
        mesh: numbers of q-points along the axes of the primitive cell; None leaves
            them to the reference or protocol.
        names: that the crystal is known by, for the reference.
    """

    atoms: ase.Atoms
    fc2_supercell: np.ndarray
    fc3_supercell: np.ndarray
    mesh: tuple[int, int, int] | None
    names: tuple[str, ...]


def space_group(atoms: ase.Atoms, symprec: float) -> int:
    """Number of the space group of a crystal; 0 where spglib finds none.

    Args:
        atoms: the crystal.
        symprec: tolerance, Å.
    """
    dataset = search(spglib.get_symmetry_dataset, atoms, symprec)
    return 0 if dataset is None else int(dataset.number)


def element_counts(atoms: ase.Atoms) -> Sequence[int]:
    """Numbers of atoms of each element."""
    return [int(n) for n in np.unique(atoms.numbers, return_counts=True)[1]]
