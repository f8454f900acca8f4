"""Directions of a soft mode: the combinations of its waves that symmetry singles out.

All waves of one soft mode (its degenerate branches on all q-points of its star) have
one curvature, and only higher orders of the energy choose among their combinations.
Minima lie almost always where symmetry is kept as far as it can be: along directions
that are alone in staying as they are under some subgroup of the space group (axial
isotropy subgroups). For one arm, or one branch, these are the waves themselves; for
several, sums of equal amplitude. Sources: H. T. Stokes, D. M. Hatch, Isotropy Subgroups
of the 230 Crystallographic Space Groups (1988); M. Golubitsky, I. Stewart, D. G.
Schaeffer, Singularities and Groups in Bifurcation Theory II (1988), chapter XIII.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pft_lightning.evaluation.soft_modes.modes import (
    SoftMode,
    SupercellWaves,
    cartesian_rotations,
)


# Beyond these waves only those of one q-point are combined.
_MAX_WAVES = 12

# Of numbers near 0 and 1, which rounding and noise of force constants change.
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """One direction in the space of the waves of a soft mode.

    Attributes:
        mode: it belongs to.
        pattern: (n_atoms, 3), Å, displacements of the supercell's atoms at an amplitude
            of 1 Å AMU^(1/2): ``sum m u²`` over the supercell is its number of
            primitive cells. The energy per primitive cell has the mode's eigenvalue as
            its second derivative by the amplitude.
        arms: number of q-points (q and -q being one) that take part.
        n_operations: of the supercell's space group that leave it as it is.
        is_even: whether a symmetry operation reverses it, so that E(A) = E(-A).
    """

    mode: SoftMode
    pattern: np.ndarray
    arms: int
    n_operations: int
    is_even: bool


def find_directions(waves: SupercellWaves, mode: SoftMode) -> list[Direction]:
    """Find the directions of a mode that symmetry singles out.

    Where there are none (a mode without any symmetry), each wave of one q-point stands
    alone.

    Args:
        waves: of the crystal.
        mode: of it.

    Returns:
        One of each set of equivalent directions, those that keep most symmetry first.
    """
    arms = _arms(waves, mode)
    per_arm = len(arms[0])
    if per_arm * len(arms) > _MAX_WAVES:
        arms = arms[:1]
    basis = np.concatenate(arms)
    matrices, counts = _images(waves, basis)
    lines = _fixed_lines(matrices) if per_arm <= _MAX_WAVES else []
    found = [
        _direction(waves, mode, basis, line, per_arm, matrices, counts)
        for line in lines or list(np.eye(len(basis)))[:per_arm]
    ]
    return sorted(found, key=lambda one: (-one.n_operations, one.arms))


def _arms(waves: SupercellWaves, mode: SoftMode) -> list[np.ndarray]:
    """Waves of each q-point of the star."""
    # Symmetry gives all q-points of a star the same order of branches.
    return [waves.waves(q, mode.branches) for q in mode.star]


def _images(waves: SupercellWaves, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matrices of all symmetry operations on waves.

    Returns:
        Different matrices (n, n_waves, n_waves), and how many operations each is of.
        Operations that lead out of the space are left out.
    """
    symmetry = waves.phonon.symmetry
    rotations = cartesian_rotations(
        waves.phonon.supercell.cell, symmetry.symmetry_operations["rotations"]
    )
    n_waves = len(basis)
    flat = basis.reshape(n_waves, -1)
    found = np.empty((len(rotations), n_waves, n_waves))
    moved = np.empty_like(basis)
    pairs = zip(rotations, symmetry.atomic_permutations, strict=True)
    for matrix, (rotation, permutation) in zip(found, pairs, strict=True):
        moved[:, permutation] = basis @ rotation.T
        matrix[:] = flat @ moved.reshape(n_waves, -1).T
    products = found @ found.transpose(0, 2, 1)
    stays = np.abs(products - np.eye(n_waves)).max(axis=(1, 2)) < _TOLERANCE
    found = found[stays]
    _, first, counts = np.unique(
        found.round(2) + 0.0, axis=0, return_index=True, return_counts=True
    )
    return found[first], counts


def _fixed_lines(matrices: np.ndarray) -> list[np.ndarray]:
    """Lines that are all that some subgroup leaves as it is, one of each orbit.

    Every space that a subgroup fixes is an intersection of spaces that single
    operations fix. So these are intersected until nothing new appears; of spaces that
    operations send to each other one is enough to go on with.
    """
    n_waves = matrices.shape[1]
    single = _unique(_projector(matrix) for matrix in matrices)
    seen: set[bytes] = set()
    lines: list[np.ndarray] = []
    pending = list(single)
    while pending:
        space = pending.pop()
        if _key(space) in seen:
            continue
        orbit = matrices @ space @ matrices.transpose(0, 2, 1)
        seen.update(_key(image) for image in orbit)
        rank = round(np.trace(space))
        if rank == 1:
            lines.append(np.linalg.eigh(space)[1][:, -1])
        if rank < 2:
            continue
        values, vectors = np.linalg.eigh(space + np.array(single))
        for value, vector in zip(values, vectors, strict=True):
            common = vector[:, value > 2 - _TOLERANCE]
            if 0 < common.shape[1] < rank:
                pending.append(common @ common.T)
    return lines if n_waves > 1 else [np.ones(1)]


def _projector(matrix: np.ndarray) -> np.ndarray:
    """On the vectors that an orthogonal matrix leaves as they are."""
    _, values, vectors = np.linalg.svd(matrix - np.eye(len(matrix)))
    kept = vectors[values < _TOLERANCE]
    return np.asarray(kept.T @ kept)


def _unique(spaces: Iterable[np.ndarray]) -> list[np.ndarray]:
    return list(
        {_key(space): space for space in spaces if np.trace(space) > 0.5}.values()
    )


def _key(space: np.ndarray) -> bytes:
    return bytes((space.round(2) + 0.0).tobytes())


def _direction(
    waves: SupercellWaves,
    mode: SoftMode,
    basis: np.ndarray,
    line: np.ndarray,
    per_arm: int,
    matrices: np.ndarray,
    counts: np.ndarray,
) -> Direction:
    pattern = np.tensordot(line, basis, axes=1) / np.sqrt(waves.masses)[:, None]
    largest = pattern.flat[np.abs(pattern.round(6)).argmax()]
    moved = matrices @ line
    share = np.linalg.norm(line.reshape(-1, per_arm), axis=1)
    return Direction(
        mode=mode,
        pattern=pattern * np.sqrt(waves.n_cells) * np.sign(largest),
        arms=int((share > _TOLERANCE).sum()),
        n_operations=int(counts[_same(moved, line)].sum()),
        is_even=bool(_same(moved, -line).any()),
    )


def _same(moved: np.ndarray, line: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(moved - line).max(axis=1) < 10 * _TOLERANCE)
