"""Dynamical matrices at any q-points, interpolated from the force constants of a cell.

``D_ik(q) = Σ_l Φ(i0, kl) <exp(2πi q·r)> / sqrt(m_i m_k)`` with the mean over the
shortest of the vectors ``r`` between periodic images of the two atoms, as phonopy has
it (A. Togo, J. Phys. Soc. Jpn. 92, 012001, 2023). It is linear in Φ, and differentiated
as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch


if TYPE_CHECKING:
    from phonopy.structure.cells import Primitive


@dataclass(frozen=True, slots=True, eq=False)
class InterpolationMesh:
    """Inequivalent q-points, and the vectors between the atoms of a supercell.

    Attributes:
        q_points: (n_q, 3), fractions of the reciprocal vectors of the primitive cell.
        weights: (n_q,), of a mean over all q-points of the mesh, sum 1.
        vectors: (n_vectors, 3), fractions of the vectors of the primitive cell.
        ranges: (n_atoms, n_primitive, 2), number and first of the shortest vectors
            from an atom of the primitive cell to each atom.
        images: (n_primitive, n_cells), atoms that are translations of each primitive
            one.
        masses: (n_primitive,), AMU.
    """

    q_points: np.ndarray
    weights: np.ndarray
    vectors: np.ndarray
    ranges: np.ndarray
    images: np.ndarray
    masses: np.ndarray

    @classmethod
    def of(
        cls, primitive: Primitive, rotations: np.ndarray, numbers: list[int]
    ) -> InterpolationMesh:
        """Make a mesh with Γ.

        Args:
            primitive: with the maps between it and its supercell.
            rotations: (n, 3, 3), of the point group, in the basis of the primitive
                cell.
            numbers: of q-points along its reciprocal vectors.
        """
        q_points, weights = _irreducible(numbers, rotations)
        vectors, ranges = primitive.get_smallest_vectors()
        rows = np.asarray(primitive.s2p_map)
        return cls(
            q_points=q_points,
            weights=weights,
            vectors=np.array(vectors, dtype=np.float64),
            ranges=np.array(ranges, dtype=np.int64),
            images=np.array([np.flatnonzero(rows == p) for p in primitive.p2s_map]),
            masses=np.array(primitive.masses, dtype=np.float64),
        )

    @property
    def is_gamma(self) -> torch.Tensor:
        """(n_q,), bool."""
        return torch.from_numpy(~self.q_points.any(axis=1))

    def matrices(self, compact: torch.Tensor) -> torch.Tensor:
        """Interpolate.

        Args:
            compact: (n_primitive, n_atoms, 3, 3), eV/Å², float64, rows in the order of
                ``images``.

        Returns:
            (n_q, 3 n_primitive, 3 n_primitive), complex128, Hermitian, eV/Å²/AMU.
        """
        phases = torch.from_numpy(self._phases()[:, :, self.images])
        blocks = compact.to(phases)[:, torch.from_numpy(self.images)]
        found = torch.einsum("qikl,iklab->qiakb", phases, blocks)
        n = 3 * len(self.masses)
        roots = torch.from_numpy(np.sqrt(self.masses)).repeat_interleave(3)
        flat = found.reshape(len(found), n, n) / (roots[:, None] * roots)
        return (flat + flat.mH) / 2

    def _phases(self) -> np.ndarray:
        """(n_q, n_primitive, n_atoms), means over the shortest vectors."""
        waves = np.exp(2j * np.pi * self.q_points @ self.vectors.T)
        counts, firsts = self.ranges[:, :, 0].T, self.ranges[:, :, 1].T
        found = np.zeros((len(waves), *counts.shape), dtype=complex)
        for k in range(int(counts.max())):
            there = counts > k
            found[:, there] += waves[:, (firsts + k)[there]]
        return found / counts


def mesh_numbers(cell: np.ndarray, length: float) -> list[int]:
    """Numbers of q-points along reciprocal vectors: ``max(1, round(l |a*_i|))``.

    Args:
        cell: (3, 3), Å, primitive lattice vectors as rows.
        length: l, Å; ``a*`` is without the factor 2π.
    """
    reciprocal = np.linalg.norm(np.linalg.inv(cell), axis=0)
    # Rounded first: equal lengths must give equal numbers.
    return [max(1, int(n)) for n in np.rint(np.round(length * reciprocal, 6))]


def _irreducible(
    numbers: list[int], rotations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Inequivalent points (n_q, 3) of a mesh with Γ, and their weights (n_q,)."""
    sizes = np.array(numbers)
    steps = np.indices(numbers).reshape(3, -1).T
    first = np.arange(len(steps))
    for sign in (1, -1):
        for rotation in np.asarray(rotations):
            # A point group acts on fractions of reciprocal vectors from the right.
            matrix = sign * rotation * sizes / sizes[:, None]
            if not np.array_equal(matrix, np.rint(matrix)):
                continue  # the mesh has not this symmetry
            moved = steps @ np.rint(matrix).astype(np.int64) % sizes
            first = np.minimum(first, np.ravel_multi_index(tuple(moved.T), numbers))
    kept, counts = np.unique(first, return_counts=True)
    return steps[kept] / sizes, counts / len(steps)
