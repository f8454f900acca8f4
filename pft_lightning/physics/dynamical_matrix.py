"""Dynamical matrices at the q-points whose waves fit a cell, from its force constants.

``D_ik(q) = Σ_l Φ(i0, kl) exp(2πi q·(r_kl - r_i0)) / sqrt(m_i m_k)``, as phonopy has it
(A. Togo, J. Phys. Soc. Jpn. 92, 012001, 2023). At commensurate q-points it needs no
shortest vectors: periodic images of an atom have the same phase. The map is linear and
real, so that it is differentiated, and inverted, as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from pft_lightning.errors import ShapeError
from pft_lightning.physics.commensurate import FoldedForceConstants, TranslationLattice
from pft_lightning.physics.force_constants import ForceConstants


@dataclass(frozen=True, slots=True, eq=False)
class Waves:
    """Waves that fit a cell, one of each pair q, -q, and the matrices between them.

    Attributes:
        phases: (n_q, n_atoms), complex128, ``exp(2πi q·r)``, where ``r`` is of an atom,
            or, without positions, of its primitive cell. The two differ by a unitary
            matrix, which changes no frequency.
        images: (n_primitive, n_cells), atoms that are translations of each primitive
            one, itself first.
        masses: (n_primitive,), AMU.
        multiplicities: (n_q,), float64, 2 where q stands for -q too, else 1.
        q_points: (n_q, 3), 1/Å without 2π, Cartesian; None without a lattice.
    """

    phases: torch.Tensor
    images: torch.Tensor
    masses: torch.Tensor
    multiplicities: torch.Tensor
    q_points: np.ndarray | None = None

    @property
    def weights(self) -> torch.Tensor:
        """(n_q,), of a mean over all q-points, sum 1."""
        return self.multiplicities / self.multiplicities.sum()

    @property
    def is_gamma(self) -> torch.Tensor:
        """(n_q,), bool: the whole crystal moves alike."""
        of_one = self.phases[:, self.images[0]]
        # Other waves turn by at least 2π/n from one cell to some other.
        return (of_one / of_one[:, :1] - 1).abs().amax(dim=1) < 1 / of_one.shape[1]

    def matrices(self, compact: torch.Tensor) -> torch.Tensor:
        """Transform force constants.

        Args:
            compact: (n_primitive, n_atoms, 3, 3), eV/Å², as of ``ForceConstants``.

        Returns:
            (n_q, 3 n_primitive, 3 n_primitive), complex128, Hermitian, eV/Å²/AMU.

        Raises:
            ShapeError: they are of another cell.
        """
        n_primitive, n_cells = self.images.shape
        if compact.shape != (n_primitive, n_primitive * n_cells, 3, 3):
            raise ShapeError(
                f"compact has shape {tuple(compact.shape)}; expected "
                f"{(n_primitive, n_primitive * n_cells, 3, 3)}."
            )
        blocks = compact.to(self.phases)[:, self.images]
        found = torch.einsum(
            "qi,qkl,iklab->qiakb", self._own().conj(), self._of_images(), blocks
        )
        flat = found.reshape(len(found), 3 * n_primitive, 3 * n_primitive)
        flat = flat / self._roots()
        return (flat + flat.mH) / 2

    def kernel(self, matrices: torch.Tensor) -> torch.Tensor:
        """Give the operator in space that has these blocks between its waves.

        The inverse of ``matrices``, but for masses, where all waves of the cell are
        there; nothing stands between those that are not.

        Args:
            matrices: (n_q, 3 n_primitive, 3 n_primitive), complex128.

        Returns:
            (n_primitive, n_atoms, 3, 3), float64: rows of a real operator that
            translations of the lattice leave as it is, as of ``ForceConstants``.
        """
        n_primitive, n_cells = self.images.shape
        blocks = matrices.reshape(-1, n_primitive, 3, n_primitive, 3)
        shares = (self.multiplicities / n_cells).to(matrices)
        images = torch.einsum(
            "q,qi,qkl,qiakb->iklab",
            shares,
            self._own(),
            self._of_images().conj(),
            blocks,
        ).real
        found = images.new_empty(n_primitive, n_primitive * n_cells, 3, 3)
        found[:, self.images] = images
        return found

    def force_constants(self, matrices: torch.Tensor) -> torch.Tensor:
        """Transform back: the inverse of ``matrices`` where all waves are there.

        Args:
            matrices: (n_q, 3 n_primitive, 3 n_primitive), complex128, eV/Å²/AMU.

        Returns:
            (n_primitive, n_atoms, 3, 3), float64, eV/Å².
        """
        return self.kernel(matrices * self._roots())

    def first(self) -> Waves:
        """The first wave alone; in a cell made for a q-point that is its own."""
        some = slice(0, 1)
        return replace(
            self,
            phases=self.phases[some],
            multiplicities=self.multiplicities[some],
            q_points=None if self.q_points is None else self.q_points[some],
        )

    def _own(self) -> torch.Tensor:
        return self.phases[:, self.images[:, 0]]

    def _of_images(self) -> torch.Tensor:
        return self.phases[:, self.images]

    def _roots(self) -> torch.Tensor:
        roots = self.masses.sqrt().repeat_interleave(3)
        return roots[:, None] * roots


def find_waves(
    force_constants: ForceConstants,
    positions: np.ndarray,
    cell: np.ndarray,
    masses: np.ndarray,
) -> Waves:
    """Find all waves that fit a supercell, or those that need a commensurate cell.

    Args:
        force_constants: of the cell; their values do not matter. In a commensurate
            cell only the q-points count that fit no smaller one, as for its probes.
        positions: (n_atoms, 3), Å.
        cell: (3, 3), Å.
        masses: (n_atoms,), AMU.

    Raises:
        ShapeError: the translations of the force constants are none of the positions.
    """
    images = _images(force_constants)
    own = images[:, 0]
    if isinstance(force_constants, FoldedForceConstants):
        steps = np.arange(force_constants.n_atoms) % force_constants.order
        waves = force_constants.wave_steps()
        waves = waves[2 * waves <= force_constants.order]
        turns = np.outer(waves, steps) / force_constants.order
        doubled = 2 * waves % force_constants.order != 0
        return _waves(turns, images, force_constants.masses, doubled)
    if images.shape[1] == 1:
        # A molecule has no lattice, and needs none.
        turns = np.zeros((1, force_constants.n_atoms))
        return _waves(turns, images, masses[own], np.zeros(1, dtype=bool))
    lattice = TranslationLattice.of(positions, cell, force_constants.permutations)
    n = len(lattice.translations)
    integers, doubled = _one_of_each_pair(lattice.q_points() % n, n)
    # What brings an atom back to the primitive cell, the other way.
    away = -lattice.translations[force_constants.translation_index]
    turns = integers @ away.T % n / n
    q_points = integers / n @ np.linalg.inv(lattice.vectors).T
    turns = turns + (q_points @ positions[own].T)[:, force_constants.primitive_index]
    return _waves(turns, images, masses[own], doubled, q_points)


def _images(force_constants: ForceConstants) -> np.ndarray:
    """(n_primitive, n_cells), atoms of each row, its representative first."""
    rows = force_constants.primitive_index
    others = np.arange(len(rows)) != force_constants.representatives()[rows]
    return np.lexsort((others, rows)).reshape(force_constants.n_primitive, -1)


def _one_of_each_pair(q_points: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Leave out -q where q is there; say which stand for two."""
    known: set[tuple[int, ...]] = set()
    kept, doubled = [], []
    for q in q_points:
        opposite = tuple(-q % n)
        if opposite in known:
            continue
        known.add(tuple(q))
        kept.append(q)
        doubled.append(opposite != tuple(q))
    return np.array(kept), np.array(doubled)


def _waves(
    turns: np.ndarray,
    images: np.ndarray,
    masses: np.ndarray,
    doubled: np.ndarray,
    q_points: np.ndarray | None = None,
) -> Waves:
    return Waves(
        phases=torch.from_numpy(np.exp(2j * np.pi * turns)),
        images=torch.from_numpy(images),
        masses=torch.from_numpy(np.asarray(masses, dtype=np.float64)),
        multiplicities=torch.from_numpy(1.0 + doubled),
        q_points=q_points,
    )
