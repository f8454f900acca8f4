"""The supercell in which the force constants of a crystal alone are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import ase
import numpy as np
import spglib
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms
from phonopy.structure.cells import estimate_supercell_matrix

from pft_lightning.data.readers.content import check_unit_cell, count_atoms
from pft_lightning.data.readers.phonopy import make_phonopy
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.option_types import Angstrom, As, Matrix, NAtoms
from pft_lightning.symmetry import search


@dataclass(frozen=True, slots=True)
class SupercellOptions:
    """Which supercell a crystal gets; that of its file unless one is asked for.

    A crystal alone is brought into its standard conventional cell, unless a matrix is
    given.

    Attributes:
        supercell_matrix: supercell of the cell that the file has, 3 or 9 integers.
        max_atoms: most atoms of the supercell of a crystal alone, which is nearest to a
            cube (phonopy's ``estimate_supercell_matrix``, as the MDR phonon database).
        min_length: in place of ``max_atoms``, the smallest distance of opposite faces
            of the supercell.
    """

    supercell_matrix: Annotated[Sequence[int] | None, As(Matrix)] = None
    max_atoms: NAtoms = 120
    min_length: Angstrom | None = None

    def __post_init__(self) -> None:
        """Check that the options fit together.

        Raises:
            ConfigError: they contradict, or the matrix makes no supercell.
        """
        if self.supercell_matrix is None:
            return
        if self.min_length is not None:
            raise ConfigError(
                f"supercell_matrix={list(self.supercell_matrix)} and min_length="
                f"{self.min_length} both choose the supercell; give one of them."
            )
        if np.size(self.supercell_matrix) not in (3, 9) or (
            np.linalg.det(self.matrix()) < 0.5
        ):
            raise ConfigError(
                f"supercell_matrix={list(self.supercell_matrix)} makes no supercell; "
                "expected 3 or 9 integers of a positive determinant, e.g. [2,2,2]."
            )

    def asked_for(self, cell: np.ndarray) -> np.ndarray | None:
        """Supercell matrix (3, 3) that is asked for of a cell; None for no wish.

        Args:
            cell: (3, 3), Å, lattice vectors as rows.
        """
        if self.supercell_matrix is not None:
            return self.matrix()
        if self.min_length is None:
            return None
        # Opposite faces are as far apart as planes of the reciprocal vectors say.
        distances = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
        # A length that fits to rounding does fit.
        wanted = np.ceil(self.min_length / distances - 1e-6)
        return np.diag(np.maximum(wanted, 1).astype(int))

    def matrix(self) -> np.ndarray:
        """Give ``supercell_matrix`` as (3, 3)."""
        numbers = np.array(self.supercell_matrix)
        return np.diag(numbers) if numbers.size == 3 else numbers.reshape(3, 3)


def build_supercell(
    atoms: ase.Atoms, options: SupercellOptions, where: str, symprec: float
) -> Phonopy:
    """Give a crystal the supercell that is asked for.

    Args:
        atoms: the crystal, Å.
        options: which supercell.
        where: its file, for messages.
        symprec: of the symmetry search, Å.

    Raises:
        DataFormatError: it is no crystal, or has no symmetry that spglib finds.
    """
    cell = PhonopyAtoms(
        numbers=atoms.numbers,
        cell=np.array(atoms.cell),
        scaled_positions=atoms.get_scaled_positions(wrap=False),
        masses=atoms.get_masses(),
    )
    check_unit_cell(cell, 1.0, where)
    if options.supercell_matrix is not None:
        matrix = options.matrix()
    else:
        cell, matrix = _choose(cell, options, where, symprec)
    count_atoms(cell, matrix, where)
    return make_phonopy(cell, matrix, None, "vasp", symprec)


def _choose(
    cell: PhonopyAtoms, options: SupercellOptions, where: str, symprec: float
) -> tuple[PhonopyAtoms, np.ndarray]:
    """Standard conventional cell and a supercell of it; isotopes stay apart."""
    kinds = list(zip(cell.numbers.tolist(), cell.masses.tolist(), strict=True))
    distinct = sorted(set(kinds))
    standard = search(
        spglib.get_symmetry_dataset,
        (cell.cell, cell.scaled_positions, [distinct.index(kind) for kind in kinds]),
        symprec,
    )
    if standard is None:
        raise DataFormatError(
            f"{where}: spglib finds no standard cell; give its supercell_matrix, e.g. "
            "[2,2,2]."
        )
    found = [distinct[kind] for kind in standard.std_types]
    conventional = PhonopyAtoms(
        numbers=[number for number, _ in found],
        cell=standard.std_lattice,
        scaled_positions=standard.std_positions,
        masses=[mass for _, mass in found],
    )
    matrix = options.asked_for(conventional.cell)
    if matrix is None:
        matrix = np.diag(
            estimate_supercell_matrix(standard, max_num_atoms=options.max_atoms)
        )
    return conventional, matrix
