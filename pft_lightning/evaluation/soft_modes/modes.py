"""Phonons at the q-points of a supercell, as waves of its lattice translations.

The force constants of a supercell are exact at its commensurate q-points. A wave is
``u_j = Re(z_p exp(2πi q.T)) / sqrt(m_p)`` for the atom j that the lattice translation T
makes of atom p of the primitive cell; z is an eigenvector of
``D_pp'(q) = sum_T Φ(p0, p'T) exp(2πi q.T) / sqrt(m_p m_p')``. At most the phase of one
atom of z differs from phonopy's eigenvectors, whose phases hold atomic positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from phonopy import Phonopy
from phonopy.physical_units import get_physical_units

from pft_lightning.physics.commensurate import TranslationLattice
from pft_lightning.physics.force_constants import ForceConstants, from_phonopy


# THz; branches that lie nearer than this are one degenerate mode.
_DEGENERATE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class SupercellWaves:
    """A supercell with its phonons at all commensurate q-points.

    Attributes:
        phonon: gives the cells and the symmetry.
        force_constants: of its supercell.
        lattice: of its primitive cells.
        masses: (n_atoms,), AMU.
        shifts: (n_atoms, 3), translation that makes the atom of its primitive one.
        q_points: (n_q, 3), int64, in units of 1/n_q of the reciprocal vectors of
            ``lattice.vectors``.
        eigenvalues: (n_q, 3 n_primitive), ascending, eV/Å²/AMU.
        eigenvectors: (n_q, 3 n_primitive, 3 n_primitive), columns.
    """

    phonon: Phonopy
    force_constants: ForceConstants
    lattice: TranslationLattice
    masses: np.ndarray
    shifts: np.ndarray
    q_points: np.ndarray
    eigenvalues: np.ndarray = field(repr=False)
    eigenvectors: np.ndarray = field(repr=False)

    @classmethod
    def of(cls, phonon: Phonopy) -> SupercellWaves:
        """Compute the phonons of a ``Phonopy`` object with force constants, eV/Å²."""
        constants, _ = from_phonopy(phonon)
        supercell = phonon.supercell
        lattice = TranslationLattice.of(
            supercell.positions, supercell.cell, constants.permutations
        )
        shifts = -lattice.translations[constants.translation_index]
        q_points = lattice.q_points()
        matrices = _dynamical_matrices(constants, supercell.masses, shifts, q_points)
        eigenvalues, eigenvectors = np.linalg.eigh(matrices)
        for place in np.flatnonzero(_is_real(q_points)):
            # Here the matrix is real, and so can be the vectors of degenerate modes.
            eigenvectors[place] = np.linalg.eigh(matrices[place].real)[1]
        return cls(
            phonon=phonon,
            force_constants=constants,
            lattice=lattice,
            masses=np.array(supercell.masses),
            shifts=shifts,
            q_points=q_points,
            eigenvalues=eigenvalues,
            eigenvectors=eigenvectors,
        )

    @property
    def n_cells(self) -> int:
        """Number of primitive cells, and of q-points."""
        return len(self.q_points)

    def frequencies(self) -> np.ndarray:
        """Give the frequencies (n_q, 3 n_primitive), THz, negative where imaginary."""
        return to_terahertz(self.eigenvalues)

    def is_real(self, q: int) -> bool:
        """Tell whether a q-point is its own negative, so that its waves are real."""
        return bool(_is_real(self.q_points)[q])

    def order(self, q: int) -> int:
        """Number of primitive cells of the smallest cell that a q-point fits."""
        return int(self.lattice.orders()[q])

    def fractional(self, q: int) -> np.ndarray:
        """A q-point (3,) by the reciprocal vectors of phonopy's primitive cell."""
        cartesian = self._cartesian()[q]
        found = cartesian @ self.phonon.primitive.cell.T
        # In (-1/2, 1/2], whatever rounding does to the end.
        return np.asarray(-((-found + 0.5 + 1e-9) % 1.0 - 0.5 - 1e-9)).round(9) + 0.0

    def negative(self, q: int) -> int:
        """Number of the q-point -q."""
        return self._find(-self.q_points[q])

    def star(self, q: int) -> list[int]:
        """Numbers of the q-points that symmetry makes of one, itself first.

        Of a pair q and -q, whose waves are the same, one stands for both. Only
        operations that leave the supercell as it is count.
        """
        cell = self.phonon.supercell.cell
        rotations = cartesian_rotations(
            cell, self.phonon.symmetry.symmetry_operations["rotations"]
        )
        moved = rotations @ self._cartesian()[q] @ self.lattice.vectors.T * self.n_cells
        found = [q]
        for integers in np.unique(np.rint(moved).astype(np.int64), axis=0):
            arm = self._find(integers)
            if not {arm, self.negative(arm)} & set(found):
                found.append(arm)
        return found

    def waves(self, q: int, branches: np.ndarray) -> np.ndarray:
        """Give mass-weighted real waves of some branches at a q-point.

        Returns:
            (n_waves, n_atoms, 3), orthonormal in the supercell: one per branch where q
            is its own negative, otherwise two, a quarter of a period apart.
        """
        n = self.n_cells
        phases = np.exp(2j * np.pi * (self.shifts @ self.q_points[q] % n) / n)
        vectors = self.eigenvectors[q][:, branches].T.reshape(len(branches), -1, 3)
        waves = vectors[:, self.force_constants.primitive_index] * phases[:, None]
        if self.is_real(q):
            return np.asarray(waves.real / np.sqrt(n))
        pairs = np.concatenate([waves.real, waves.imag])
        return np.asarray(pairs * np.sqrt(2 / n))

    def _cartesian(self) -> np.ndarray:
        """All q-points (n_q, 3), 1/Å."""
        return self.q_points / self.n_cells @ np.linalg.inv(self.lattice.vectors).T

    def _find(self, q_point: np.ndarray) -> int:
        same = (self.q_points - q_point) % self.n_cells == 0
        return int(np.flatnonzero(same.all(axis=1))[0])


@dataclass(frozen=True, slots=True, eq=False)
class SoftMode:
    """An imaginary mode, with all that symmetry makes of it.

    Attributes:
        q: number of the q-point in ``SupercellWaves``.
        q_point: (3,), by the reciprocal vectors of phonopy's primitive cell.
        star: numbers of the q-points of its star.
        branches: of the q-point, degenerate.
        eigenvalue: eV/Å²/AMU, negative.
        frequency: THz, negative.
        order: primitive cells of the smallest cell that the q-point fits.
    """

    q: int
    q_point: np.ndarray
    star: list[int]
    branches: np.ndarray
    eigenvalue: float
    frequency: float
    order: int

    @property
    def degeneracy(self) -> int:
        """Number of branches of one q-point."""
        return len(self.branches)


def find_soft_modes(waves: SupercellWaves, threshold: float) -> list[SoftMode]:
    """Find the imaginary modes, one for each star, the lowest first.

    Args:
        waves: of the crystal.
        threshold: THz; modes below minus this are soft.
    """
    frequencies = waves.frequencies()
    found: list[SoftMode] = []
    seen: set[int] = set()
    for q in range(waves.n_cells):
        if q in seen:
            continue
        star = waves.star(q)
        seen.update(star, map(waves.negative, star))
        soft = np.flatnonzero(frequencies[q] < -threshold)
        gaps = np.flatnonzero(np.diff(frequencies[q][soft]) > _DEGENERATE)
        found.extend(
            SoftMode(
                q=q,
                q_point=waves.fractional(q),
                star=star,
                branches=branches,
                eigenvalue=float(waves.eigenvalues[q][branches].mean()),
                frequency=float(frequencies[q][branches].mean()),
                order=waves.order(q),
            )
            for branches in np.split(soft, gaps + 1)
            if len(branches)
        )
    return sorted(found, key=lambda mode: mode.frequency)


def to_terahertz(eigenvalues: np.ndarray) -> np.ndarray:
    """Frequencies of eigenvalues in eV/Å²/AMU, negative where imaginary."""
    factor = get_physical_units().DefaultToTHz
    return np.asarray(np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues)) * factor)


def cartesian_rotations(cell: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Rotations (n, 3, 3) that act on Cartesian columns.

    Args:
        cell: (3, 3), Å, lattice vectors as rows.
        rotations: (n, 3, 3), that act on fractional columns.
    """
    return np.asarray(cell.T @ rotations @ np.linalg.inv(cell.T))


def _is_real(q_points: np.ndarray) -> np.ndarray:
    """Which of all commensurate q-points are their own negatives."""
    return np.asarray((2 * q_points % len(q_points) == 0).all(axis=1))


def _dynamical_matrices(
    constants: ForceConstants,
    masses: np.ndarray,
    shifts: np.ndarray,
    q_points: np.ndarray,
) -> np.ndarray:
    """(n_q, 3 n_primitive, 3 n_primitive), eV/Å²/AMU, Hermitian."""
    n, n_primitive = len(q_points), constants.n_primitive
    phases = np.exp(2j * np.pi * (q_points @ shifts.T % n) / n)
    weights = 1 / np.sqrt(masses)
    primitive = weights[constants.representatives()]
    weighted = (
        constants.compact * weights[:, None, None] * primitive[:, None, None, None]
    )
    matrices = np.zeros((n, n_primitive, 3, n_primitive, 3), dtype=np.complex128)
    for p in range(n_primitive):
        atoms = np.flatnonzero(constants.primitive_index == p)
        matrices[:, :, :, p] = np.einsum(
            "qj,ijab->qiab", phases[:, atoms], weighted[:, atoms]
        )
    square = matrices.reshape(n, 3 * n_primitive, 3 * n_primitive)
    return np.asarray((square + square.conj().transpose(0, 2, 1)) / 2)
