"""Isolated molecules with force constants: what stands beside ``Phonopy`` objects."""

from __future__ import annotations

from dataclasses import dataclass

import ase
import numpy as np
from ase.data import atomic_masses

from pft_lightning.data.records import StructureRecord
from pft_lightning.physics.molecules import hessian_of, vibrational_frequencies


@dataclass(frozen=True, slots=True, eq=False)
class Molecule:
    """A molecule with its force constants.

    Attributes:
        atoms: without a lattice; masses in AMU.
        force_constants: (n_atoms, n_atoms, 3, 3), eV/Å².
    """

    atoms: ase.Atoms
    force_constants: np.ndarray

    @classmethod
    def of(cls, record: StructureRecord) -> Molecule:
        """Take the molecule of a record without a lattice."""
        assert record.force_constants is not None
        masses = record.masses
        if masses is None:
            masses = atomic_masses[record.atomic_numbers]
        atoms = ase.Atoms(
            numbers=record.atomic_numbers, positions=record.positions, masses=masses
        )
        return cls(atoms, record.force_constants.full())

    def frequencies(self) -> np.ndarray:
        """Give the vibrations (3N - 6,), 3N - 5 of a linear molecule, cm⁻¹."""
        return vibrational_frequencies(
            hessian_of(self.force_constants),
            self.atoms.positions,
            self.atoms.get_masses(),
        )
