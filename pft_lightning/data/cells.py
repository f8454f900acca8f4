"""The cells of a phonon calculation: what it takes to make a ``Phonopy`` object."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from phonopy import Phonopy
from phonopy.physical_units import get_physical_units
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.units import UnitSystem


@dataclass(frozen=True, slots=True, eq=False)
class PhononCells:
    """Unit cell, supercell and primitive cell, and what polar crystals need.

    Attributes:
        atomic_numbers: (n_unitcell,), int64.
        cell: (3, 3), Å, lattice vectors of the unit cell as rows.
        scaled_positions: (n_unitcell, 3), as phonopy keeps them: wrapping an atom
            would change the order of the supercell.
        masses: (n_unitcell,), AMU.
        supercell_matrix: (3, 3), int64, phonopy's convention.
        primitive_matrix: (3, 3), phonopy's convention.
        symprec: of the symmetry search, Å.
        magnetic_moments: (n_unitcell,) or (n_unitcell, 3), which lower the symmetry;
            None where there are none.
        born: (n_primitive, 3, 3), Born effective charges, e; None where unknown.
        dielectric: (3, 3), high-frequency dielectric tensor; None where unknown.
    """

    atomic_numbers: np.ndarray
    cell: np.ndarray
    scaled_positions: np.ndarray
    masses: np.ndarray
    supercell_matrix: np.ndarray
    primitive_matrix: np.ndarray
    symprec: float
    magnetic_moments: np.ndarray | None = None
    born: np.ndarray | None = None
    dielectric: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        phonon: Phonopy,
        units: UnitSystem,
        nac_params: Mapping[str, Any] | None = None,
    ) -> PhononCells:
        """Take the cells of a ``Phonopy`` object, in the units of its code.

        Args:
            phonon: gives the cells.
            units: of its numbers.
            nac_params: ``born`` and ``dielectric``; by default those of ``phonon``.
                Charges of another number of atoms than the primitive cell's are left
                out.
        """
        unitcell = phonon.unitcell
        nac: Any = nac_params or phonon.nac_params or {}
        born = np.asarray(nac.get("born", ()), dtype=np.float64)
        polar = born.shape == (len(phonon.primitive), 3, 3)
        moments = unitcell.magnetic_moments
        return cls(
            atomic_numbers=np.array(unitcell.numbers, dtype=np.int64),
            cell=np.array(unitcell.cell, dtype=np.float64) * units.length,
            scaled_positions=np.array(unitcell.scaled_positions, dtype=np.float64),
            masses=np.array(unitcell.masses, dtype=np.float64),
            supercell_matrix=np.array(phonon.supercell_matrix, dtype=np.int64),
            primitive_matrix=np.array(phonon.primitive_matrix, dtype=np.float64),
            symprec=float(phonon.symmetry.tolerance) * units.length,
            magnetic_moments=None if moments is None else np.array(moments, float),
            born=born if polar else None,
            dielectric=np.array(nac["dielectric"], float) if polar else None,
        )

    def to_phonopy(
        self,
        force_constants: np.ndarray | None = None,
        *,
        cell: np.ndarray | None = None,
        scaled_positions: np.ndarray | None = None,
    ) -> Phonopy:
        """Make the ``Phonopy`` object, in eV and Å.

        Args:
            force_constants: compact or full, eV/Å².
            cell: (3, 3), Å, of a unit cell that was relaxed since.
            scaled_positions: (n_unitcell, 3), likewise.
        """
        unitcell = PhonopyAtoms(
            numbers=self.atomic_numbers,
            cell=self.cell if cell is None else cell,
            scaled_positions=(
                self.scaled_positions if scaled_positions is None else scaled_positions
            ),
            masses=self.masses,
            magnetic_moments=self.magnetic_moments,
        )
        with warnings.catch_warnings():
            # A supercell of lower symmetry than its crystal is the user's choice.
            warnings.filterwarnings("ignore", ".*Point group symmetries", UserWarning)
            phonon = Phonopy(
                unitcell,
                self.supercell_matrix,
                primitive_matrix=self.primitive_matrix,
                symprec=self.symprec,
                log_level=0,
            )
        if self.born is not None and self.dielectric is not None:
            constants = get_physical_units()
            phonon.nac_params = {
                "born": self.born,
                "dielectric": self.dielectric,
                "factor": constants.Hartree * constants.Bohr,
            }
        if force_constants is not None:
            phonon.force_constants = force_constants
        return phonon
