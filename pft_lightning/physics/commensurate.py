"""Commensurate cells: the smallest supercell that a wave vector of a phonon needs.

The force constants of a supercell of N primitive cells are known at its N
commensurate q-points. A q-point of order M (M q is a reciprocal lattice vector)
also fits a supercell of M primitive cells, which in general is not diagonal. The
force constants of that cell are those of the large one, summed over the atoms
that become periodic images of each other; nothing is interpolated. The Hessian
of a potential folds in the same way, so that a small cell says exactly what the
large one says about the q-points that fit both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

import numpy as np
from ase.geometry import minkowski_reduce

from pft_lightning.errors import ShapeError
from pft_lightning.physics.force_constants import ForceConstants


# Largest deviation of a lattice translation from the nearest lattice point, as a
# share of the shortest possible one.
_LATTICE_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class FoldedForceConstants(ForceConstants):
    """Force constants of a commensurate cell, folded from those of a supercell.

    Its primitive cells form a ring: ``permutations[s]`` moves the crystal by s steps,
    and M steps by a lattice vector of the cell. Atom ``p * M + s`` is atom p of the
    primitive cell moved by s steps. Along one step the phase of the q-point that the
    cell was made for grows by 2π/M.

    Attributes:
        supercell_atoms: Number of atoms of the supercell.
        masses: (n_primitive,), AMU, of the rows of ``compact``.
    """

    supercell_atoms: int
    masses: np.ndarray

    @property
    def order(self) -> int:
        """Number M of primitive cells: the order of the q-point."""
        return len(self.permutations)

    @property
    def share(self) -> float:
        """Number of atoms divided by that of the supercell."""
        return self.n_atoms / self.supercell_atoms

    def wave_steps(self) -> np.ndarray:
        """Give the k of all q-points k/M that need this cell, not a smaller one."""
        return np.array([k for k in range(self.order) if gcd(k, self.order) == 1])


@dataclass(frozen=True, slots=True, eq=False)
class TranslationLattice:
    """The primitive lattice, and how the supercell lies in it.

    Attributes:
        vectors: (3, 3), Å, primitive lattice vectors as rows.
        supercell_matrix: (3, 3), int64; the supercell is
            ``supercell_matrix @ vectors``, rows again.
        translations: (n_translations, 3), int64; ``permutations[t]`` of the force
            constants moves the crystal by ``translations[t] @ vectors``.
    """

    vectors: np.ndarray
    supercell_matrix: np.ndarray
    translations: np.ndarray

    @classmethod
    def of(
        cls, positions: np.ndarray, cell: np.ndarray, permutations: np.ndarray
    ) -> TranslationLattice:
        """Find it from the atoms that translations send to each other.

        Args:
            positions: (n_atoms, 3), Å.
            cell: (3, 3), Å, of the supercell.
            permutations: (n_translations, n_atoms), of its force constants.

        Raises:
            ShapeError: the permutations are no translations of these positions.
        """
        n = len(permutations)
        fractional = positions @ np.linalg.inv(cell)
        # In units of 1/n of the supercell's vectors all translations are integers.
        moved = (fractional[permutations[:, 0]] - fractional[0]) * n
        steps = np.rint(moved).astype(np.int64)
        error = np.abs(moved - steps).max()
        if error > _LATTICE_TOLERANCE:
            raise ShapeError(
                f"a lattice translation is {error / n:.3g} of a supercell vector away "
                "from a lattice point: permutations and positions do not belong "
                "together."
            )
        basis = _hermite(np.concatenate([n * np.eye(3, dtype=np.int64), steps % n]))
        matrix = np.rint(n * np.linalg.inv(basis)).astype(np.int64)
        if (found := abs(round(np.linalg.det(matrix)))) != n:
            raise ShapeError(
                f"{n} translations of the supercell generate {found}: they are not "
                "those of a primitive cell."
            )
        return cls(basis @ cell / n, matrix, steps @ matrix // n)

    def q_points(self) -> np.ndarray:
        """Give the commensurate q-points, (n_translations, 3), int64.

        In units of 1/n_translations of the reciprocal vectors of ``vectors``; Γ is
        among them. The order is a function of ``supercell_matrix`` alone.
        """
        from phonopy.harmonic.dynmat_to_fc import get_commensurate_points_in_integers

        # phonopy's matrices hold lattice vectors as columns.
        return get_commensurate_points_in_integers(self.supercell_matrix.T)

    def orders(self) -> np.ndarray:
        """Give the number of primitive cells that each q-point needs."""
        n = len(self.translations)
        return n // np.gcd.reduce(self.q_points(), axis=1, initial=n)

    def sublattice(self, translations: np.ndarray) -> np.ndarray:
        """Give the lattice that some translations and the supercell generate.

        Args:
            translations: (n, 3), int64, in units of ``vectors``.

        Returns:
            (3, 3), Å, right-handed lattice vectors as rows, as short as can be.
        """
        basis = _hermite(np.concatenate([self.supercell_matrix, translations]))
        found = np.array(minkowski_reduce(basis @ self.vectors)[0])
        return -found if np.linalg.det(found) < 0 else found


@dataclass(frozen=True, slots=True, eq=False)
class CommensurateCell:
    """A cell made for one q-point, with its force constants.

    Attributes:
        vectors: (3, 3), Å, lattice vectors as rows, as short as can be.
        supercell_atom: (n_atoms,), atom of the supercell that each atom is one of the
            images of.
        force_constants: folded.
    """

    vectors: np.ndarray
    supercell_atom: np.ndarray
    force_constants: FoldedForceConstants


def commensurate_cell(
    force_constants: ForceConstants,
    lattice: TranslationLattice,
    q_point: np.ndarray,
    masses: np.ndarray,
) -> CommensurateCell:
    """Fold a supercell onto the smallest cell that a q-point fits.

    Args:
        force_constants: of the supercell.
        lattice: of the supercell.
        q_point: (3,), one of ``lattice.q_points()``.
        masses: (n_atoms,), AMU, of the atoms of the supercell.
    """
    n = len(lattice.translations)
    common = gcd(n, *(int(component) for component in q_point))
    order = n // common
    # Phase of each translation, in units of 2π / order.
    phases = lattice.translations @ (q_point // common) % order
    invariant = lattice.translations[phases == 0]
    vectors = lattice.sublattice(invariant)

    # An atom's translation brings it back to the primitive cell.
    step = -phases[force_constants.translation_index] % order
    image = force_constants.primitive_index * order + step
    n_primitive = force_constants.n_primitive
    n_atoms = n_primitive * order
    # Every atom of the cell stands for as many atoms of the supercell.
    images = np.argsort(image, kind="stable").reshape(n_atoms, n // order)
    supercell_atom = images[:, 0]

    rows, steps = np.divmod(np.arange(n_atoms), order)
    moved = (steps + np.arange(order)[:, None]) % order
    return CommensurateCell(
        vectors,
        supercell_atom,
        FoldedForceConstants(
            compact=force_constants.compact[:, images].sum(axis=2),
            primitive_index=rows,
            translation_index=-steps % order,
            permutations=rows * order + moved,
            equivalent_atoms=image[force_constants.equivalent_atoms[supercell_atom]],
            supercell_atoms=force_constants.n_atoms,
            masses=masses[force_constants.representatives()],
        ),
    )


def wave_cell(
    positions: np.ndarray,
    vectors: np.ndarray,
    masses: np.ndarray,
    q_point: Sequence[Fraction],
) -> tuple[np.ndarray, np.ndarray, FoldedForceConstants]:
    """Make the smallest cell that a q-point of a primitive cell fits.

    Args:
        positions: (n_primitive, 3), Å, of its atoms.
        vectors: (3, 3), Å, of the primitive lattice as rows.
        masses: (n_primitive,), AMU.
        q_point: (3,), fractions of the reciprocal vectors; its order is their common
            denominator.

    Returns:
        Lattice vectors (3, 3), Å, as short as can be; positions (n_atoms, 3), Å; and
        force constants of this layout that are all zero, whose first wave is that of
        the q-point. Their ``primitive_index`` says which atom is which.
    """
    order = lcm(*(component.denominator for component in q_point))
    wave = np.array([int(component * order) for component in q_point])
    translations = np.indices((order,) * 3).reshape(3, -1).T
    phases = translations @ wave % order
    lattice = TranslationLattice(
        vectors, order * np.eye(3, dtype=np.int64), translations
    )
    cell = lattice.sublattice(translations[phases == 0])
    # Of the primitive cells along the ring, each is one step from the one before.
    step = translations[phases == 1 % order][0] @ vectors
    rows, steps = np.divmod(np.arange(len(positions) * order), order)
    fractional = (positions[rows] + steps[:, None] * step) @ np.linalg.inv(cell)
    moved = (steps + np.arange(order)[:, None]) % order
    n_atoms = len(rows)
    layout = FoldedForceConstants(
        compact=np.zeros((len(positions), n_atoms, 3, 3)),
        primitive_index=rows,
        translation_index=-steps % order,
        permutations=rows * order + moved,
        equivalent_atoms=np.arange(n_atoms),
        supercell_atoms=n_atoms,
        masses=masses,
    )
    return cell, (fractional - np.floor(fractional)) @ cell, layout


def _hermite(generators: np.ndarray) -> np.ndarray:
    """Give a basis, (3, 3), of the lattice that integer rows generate."""
    rows = [row.copy() for row in generators]
    basis = []
    for column in range(3):
        pivot = np.zeros(3, dtype=np.int64)
        for row in rows:
            # Euclid's algorithm on the pair leaves zero in the row's column.
            while row[column] != 0:
                quotient = pivot[column] // row[column]
                pivot -= quotient * row
                pivot, row[:] = row.copy(), pivot
        basis.append(pivot)
    return np.array(basis)
