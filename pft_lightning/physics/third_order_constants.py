"""Third-order force constants of a crystal: storage, products, symmetrisation.

Layout and sign are phono3py's: ``Ψ[i, j, k, a, b, c] = +∂³E/∂r_ia ∂r_jb ∂r_kc``,
eV/Å³. Only the rows of one primitive cell are kept; translations of the lattice give
the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pft_lightning.errors import ShapeError
from pft_lightning.physics.translations import translation_maps


@dataclass(frozen=True, slots=True, eq=False)
class ThirdOrderConstants:
    """Third-order force constants of a supercell, rows of its primitive cell only.

    Attributes:
        compact: (n_primitive, n_atoms, n_atoms, 3, 3, 3), float64, eV/Å³.
        primitive_index: (n_atoms,), see ``ForceConstants``.
        translation_index: (n_atoms,), likewise.
        permutations: (n_translations, n_atoms), likewise.
    """

    compact: np.ndarray
    primitive_index: np.ndarray
    translation_index: np.ndarray
    permutations: np.ndarray

    def __post_init__(self) -> None:
        """Check that the arrays fit together.

        Raises:
            ShapeError: a shape differs from what the class promises.
        """
        n_primitive, n_atoms = self.compact.shape[0], len(self.primitive_index)
        expected = {
            "compact": (n_primitive, n_atoms, n_atoms, 3, 3, 3),
            "translation_index": (n_atoms,),
            "permutations": (n_atoms // max(n_primitive, 1), n_atoms),
        }
        for name, shape in expected.items():
            got = getattr(self, name).shape
            if got != shape:
                raise ShapeError(
                    f"{name} has shape {got}; expected {shape} for {n_primitive} "
                    f"primitive atoms and {n_atoms} atoms."
                )

    def __repr__(self) -> str:
        """Say the sizes; the numbers would fill pages."""
        return (
            f"ThirdOrderConstants(n_primitive={self.n_primitive}, "
            f"n_atoms={self.n_atoms})"
        )

    @property
    def n_atoms(self) -> int:
        """Number of atoms of the supercell."""
        return int(self.compact.shape[1])

    @property
    def n_primitive(self) -> int:
        """Number of atoms of the primitive cell."""
        return int(self.compact.shape[0])

    def representatives(self) -> np.ndarray:
        """Give the (n_primitive,) supercell atoms that the rows belong to."""
        sent_to = self.permutations[self.translation_index, np.arange(self.n_atoms)]
        representatives = np.empty(self.n_primitive, dtype=np.int64)
        representatives[self.primitive_index] = sent_to
        return representatives

    def blocks(
        self, first: np.ndarray, second: np.ndarray, third: np.ndarray
    ) -> np.ndarray:
        """Give the blocks (..., 3, 3, 3), eV/Å³, of any three atoms, broadcast."""
        translation = self.translation_index[first]
        return self.compact[
            self.primitive_index[first],
            self.permutations[translation, second],
            self.permutations[translation, third],
        ]

    def on_site(self) -> np.ndarray:
        """Give the blocks (n_primitive, 3, 3, 3), eV/Å³, of an atom with itself."""
        atoms = self.representatives()
        return self.blocks(atoms, atoms, atoms)

    def multiply(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Contract two of the three indices with directions, probe by probe.

        Args:
            first: (n_atoms, n_probes, 3), u.
            second: (n_atoms, n_probes, 3), v.

        Returns:
            ``Σ_jk Ψ_ijk u_j v_k``, (n_atoms, n_probes, 3), eV/Å³ times both units.

        Raises:
            ShapeError: the directions have other shapes.
        """
        u = np.asarray(first, dtype=np.float64)
        v = np.asarray(second, dtype=np.float64)
        if u.ndim != 3 or u.shape[::2] != (self.n_atoms, 3) or u.shape != v.shape:
            raise ShapeError(
                f"directions have shapes {u.shape} and {v.shape}; expected both "
                f"({self.n_atoms}, n_probes, 3)."
            )
        moved = np.flatnonzero(np.any(v != 0.0, axis=(1, 2)))
        result = np.empty_like(u)
        representatives = self.representatives()
        for permutation in self.permutations:
            # Moving the crystal by the translation turns these rows into primitive
            # ones: Ψ[i, j, k] = compact[p(i), t(j), t(k)].
            shifted = np.empty_like(u)
            shifted[permutation] = u
            columns = self.compact[:, :, permutation[moved]]
            half = np.einsum("pjkabc,kmc->pjabm", columns, v[moved], optimize=True)
            rows = np.einsum("pjabm,jmb->pma", half, shifted, optimize=True)
            # Atoms that this translation sends to their representative.
            result[np.argsort(permutation)[representatives]] = rows
        return result


@dataclass(frozen=True, slots=True)
class ThirdAsymmetry:
    """How far third-order force constants break the rules that exact ones obey.

    Attributes:
        acoustic_sum_rule: ``max |Σ_k Ψ_ijk|`` over all three indices, eV/Å³: force
            constants of second order do not change when the whole crystal is moved.
        permutation: ``max |Ψ_ijk - Ψ_jik|`` and the like, eV/Å³: derivatives commute.
        share: root mean square of what ``symmetrise_third`` removes, relative to that
            of the force constants.
    """

    acoustic_sum_rule: float
    permutation: float
    share: float


def third_from_array(array: np.ndarray, primitive: Any) -> ThirdOrderConstants:
    """Bring full or compact third-order force constants of phono3py into one form.

    Args:
        array: (n_atoms or n_primitive, n_atoms, n_atoms, 3, 3, 3), eV/Å³.
        primitive: ``phonopy.structure.cells.Primitive`` of the supercell.

    Raises:
        ShapeError: neither shape fits the cells.
    """
    permutations = np.asarray(primitive.atomic_permutations, dtype=np.int64)
    n_primitive, n_atoms = len(primitive.p2s_map), permutations.shape[1]
    shapes = [(n, n_atoms, n_atoms, 3, 3, 3) for n in (n_atoms, n_primitive)]
    if array.shape not in shapes:
        raise ShapeError(
            f"third-order force constants have shape {array.shape}; expected "
            f"{shapes[0]} (full) or {shapes[1]} (compact) for this supercell."
        )
    is_full = array.shape == shapes[0]
    primitive_index, translation_index = translation_maps(primitive)
    return ThirdOrderConstants(
        compact=np.array(
            array[primitive.p2s_map] if is_full else array, dtype=np.float64, order="C"
        ),
        primitive_index=primitive_index,
        translation_index=translation_index,
        permutations=permutations,
    )


def third_asymmetry(constants: ThirdOrderConstants) -> ThirdAsymmetry:
    """Measure the broken acoustic sum rules and permutation symmetries."""
    compact = constants.compact
    # ijk, ikj, jik: both exchanges of neighbours make all six orders.
    swapped = [_reordered(constants, order) for order in ((0, 2, 1), (1, 0, 2))]
    broken = max(float(np.abs(compact - other).max()) for other in swapped)
    # What stands last and is summed over is the third, second and first index.
    sums = [compact, swapped[0], _reordered(constants, (2, 0, 1))]
    drift = max(float(np.abs(array.sum(axis=2)).max()) for array in sums)
    removed = compact - symmetrise_third(constants).compact
    size = max(float(np.linalg.norm(compact)), np.finfo(np.float64).tiny)
    return ThirdAsymmetry(drift, broken, float(np.linalg.norm(removed)) / size)


def symmetrise_third(constants: ThirdOrderConstants) -> ThirdOrderConstants:
    """Impose the acoustic sum rules and permutation symmetry, both exactly.

    The average over the orders of the three indices and the removal of the mean over
    each of them are projections that commute, so that one of each is enough: the
    nearest force constants that obey both. phono3py's ``symmetrize_fc3`` does the
    same.
    """
    orders = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    compact = np.mean([_reordered(constants, order) for order in orders], axis=0)
    for _ in range(3):
        # Over the last index; the next order brings each index there in turn.
        compact = compact - compact.mean(axis=2, keepdims=True)
        compact = _reordered(replace(constants, compact=compact), (1, 2, 0))
    return replace(constants, compact=np.ascontiguousarray(compact))


def _reordered(
    constants: ThirdOrderConstants, order: tuple[int, int, int]
) -> np.ndarray:
    """Give ``Ψ`` with its indices (atoms and directions alike) in another order.

    Element [i, j, k] is that of ``order`` applied to (i, j, k): (1, 0, 2) gives
    ``Ψ[j, i, k, b, a, c]``.
    """
    n_atoms = constants.n_atoms
    atoms = np.ix_(constants.representatives(), np.arange(n_atoms), np.arange(n_atoms))
    found = constants.blocks(*(atoms[axis] for axis in order))
    # Axis 3 + m of what was found belongs to index order[m].
    axes = np.argsort(order)
    return found.transpose(0, 1, 2, *(3 + axes))
