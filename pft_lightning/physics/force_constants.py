"""Force constants of a crystal: compact storage, products, symmetrisation.

Layout and sign are phonopy's: ``Φ[i, j, a, b] = +∂²E/∂r_ia ∂r_jb``, eV/Å². Only the
rows of one primitive cell are kept; translations of the lattice give the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from pft_lightning.errors import ShapeError
from pft_lightning.physics.translations import translation_maps


if TYPE_CHECKING:
    from pft_lightning.physics.third_order_constants import ThirdOrderConstants


# Above this share of non-zero atoms one dense matrix product beats gathering blocks.
_SPARSE_SHARE = 0.2

# Asymmetry that doubles leave in force constants that obey the rule, eV/Å².
ROUND_OFF = 1e-10

_MAX_SYMMETRISATION_ROUNDS = 20


@dataclass(frozen=True, slots=True, eq=False)
class ForceConstants:
    """Force constants of a supercell, rows of its primitive cell only.

    Attributes:
        compact: (n_primitive, n_atoms, 3, 3), float64, eV/Å².
        primitive_index: (n_atoms,), row of ``compact`` that the atom is a lattice
            translation of.
        translation_index: (n_atoms,), row of ``permutations`` that sends the atom to
            its representative in the primitive cell.
        permutations: (n_translations, n_atoms); ``permutations[t, i]`` is the atom
            that translation t sends atom i to (``primitive.atomic_permutations`` of
            phonopy).
        equivalent_atoms: (n_atoms,), representative of the atom's orbit under the
            space group of the supercell.
        third_order: of the same supercell, where they are known too.
    """

    compact: np.ndarray
    primitive_index: np.ndarray
    translation_index: np.ndarray
    permutations: np.ndarray
    equivalent_atoms: np.ndarray
    third_order: ThirdOrderConstants | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Check that the arrays fit together.

        Raises:
            ShapeError: a shape differs from what the class promises.
        """
        if self.compact.ndim != 4 or self.compact.shape[2:] != (3, 3):
            raise ShapeError(
                f"compact force constants have shape {self.compact.shape}; expected "
                "(n_primitive, n_atoms, 3, 3)."
            )
        n_primitive, n_atoms = self.compact.shape[:2]
        expected = {
            "primitive_index": (n_atoms,),
            "translation_index": (n_atoms,),
            "equivalent_atoms": (n_atoms,),
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
        return f"ForceConstants(n_primitive={self.n_primitive}, n_atoms={self.n_atoms})"

    @property
    def n_atoms(self) -> int:
        """Number of atoms of the supercell."""
        return int(self.compact.shape[1])

    @property
    def n_primitive(self) -> int:
        """Number of atoms of the primitive cell."""
        return int(self.compact.shape[0])

    @property
    def share(self) -> float:
        """Number of atoms divided by that of the calculated supercell: all of them."""
        return 1.0

    def representatives(self) -> np.ndarray:
        """Give the (n_primitive,) supercell atoms that the rows belong to."""
        sent_to = self.permutations[self.translation_index, np.arange(self.n_atoms)]
        representatives = np.empty(self.n_primitive, dtype=np.int64)
        representatives[self.primitive_index] = sent_to
        return representatives

    def full(self) -> np.ndarray:
        """Give all rows, (n_atoms, n_atoms, 3, 3), eV/Å²."""
        columns = self.permutations[self.translation_index]
        return self.compact[self.primitive_index[:, None], columns]

    def multiply(self, tangents: np.ndarray) -> np.ndarray:
        """Multiply with directions, without building the full matrix.

        Args:
            tangents: (n_atoms, n_probes, 3).

        Returns:
            (n_atoms, n_probes, 3), eV/Å² times the unit of the tangents.

        Raises:
            ShapeError: ``tangents`` has another shape.

        Columns where no probe has an entry are skipped: a probe that moves one atom
        costs n_atoms blocks of 3 x 3.
        """
        tangents = np.asarray(tangents, dtype=np.float64)
        if tangents.ndim != 3 or tangents.shape[::2] != (self.n_atoms, 3):
            raise ShapeError(
                f"tangents have shape {tangents.shape}; expected "
                f"({self.n_atoms}, n_probes, 3)."
            )
        moved = np.flatnonzero(np.any(tangents != 0.0, axis=(1, 2)))
        if len(moved) <= _SPARSE_SHARE * self.n_atoms:
            return self._multiply_sparse(tangents, moved)
        return self._multiply_dense(tangents)

    def _multiply_sparse(self, tangents: np.ndarray, moved: np.ndarray) -> np.ndarray:
        columns = self.permutations[self.translation_index[:, None], moved]
        blocks = self.compact[self.primitive_index[:, None], columns]
        # (atom, a, moved * b) @ (moved * b, probe): one matrix product
        n_atoms, n_probes, n_columns = self.n_atoms, tangents.shape[1], 3 * len(moved)
        matrix = blocks.transpose(0, 2, 1, 3).reshape(3 * n_atoms, n_columns)
        vectors = tangents[moved].transpose(0, 2, 1).reshape(n_columns, n_probes)
        product = (matrix @ vectors).reshape(n_atoms, 3, n_probes)
        return np.ascontiguousarray(product.transpose(0, 2, 1))

    def _multiply_dense(self, tangents: np.ndarray) -> np.ndarray:
        n_translations, n_atoms = self.permutations.shape
        n_probes = tangents.shape[1]
        # Moving the crystal back by a translation turns every row into a primitive
        # one: (Φ v)_i = sum_j compact[p(i), t(j)] v_j with t the translation of i.
        moved_back = np.empty((n_atoms, n_translations, n_probes, 3))
        for translation, permutation in enumerate(self.permutations):
            moved_back[permutation, translation] = tangents
        n_rows, n_columns = 3 * self.n_primitive, n_translations * n_probes
        matrix = self.compact.transpose(0, 2, 1, 3).reshape(n_rows, 3 * n_atoms)
        vectors = moved_back.transpose(0, 3, 1, 2).reshape(3 * n_atoms, n_columns)
        rows = (matrix @ vectors).reshape(-1, 3, n_translations, n_probes)
        product = rows[self.primitive_index, :, self.translation_index]
        return np.ascontiguousarray(product.transpose(0, 2, 1))

    def inequivalent_atoms(self) -> tuple[np.ndarray, np.ndarray]:
        """Give one atom of each space-group orbit, and how many atoms it stands for.

        Returns:
            Representatives and multiplicities, both (n_orbits,).
        """
        return np.unique(self.equivalent_atoms, return_counts=True)


@dataclass(frozen=True, slots=True)
class Asymmetry:
    """How far force constants break the rules that exact ones obey, eV/Å².

    Attributes:
        acoustic_sum_rule: ``max |Σ_j Φ_ij|``: force on an atom when the whole crystal
            is moved.
        permutation: ``max |Φ_ij - Φ_jiᵀ|``: second derivatives commute.
        translation: ``max |Φ_ij - Φ_t(i)t(j)|`` over lattice translations t; 0 where
            only compact force constants were given.
    """

    acoustic_sum_rule: float
    permutation: float
    translation: float = 0.0

    @property
    def worst(self) -> float:
        """The largest of the three, eV/Å²."""
        return max(self.acoustic_sum_rule, self.permutation, self.translation)


def asymmetry(force_constants: ForceConstants) -> Asymmetry:
    """Measure the broken acoustic sum rule and permutation symmetry."""
    compact = force_constants.compact
    drift = np.abs(compact.sum(axis=1)).max()
    difference = compact - _transposed(force_constants)
    return Asymmetry(float(drift), float(np.abs(difference).max()))


def mean_stiffness(force_constants: ForceConstants) -> float:
    """Average ``Φ[i, i, a, a]`` over atoms and directions, eV/Å².

    Near a minimum it is positive: what binds an atom that moves alone.
    """
    rows = np.arange(force_constants.n_primitive)
    own = force_constants.compact[rows, force_constants.representatives()]
    return float(np.einsum("iaa->i", own).mean() / 3.0)


def symmetrise(
    force_constants: ForceConstants, *, tolerance: float = ROUND_OFF
) -> ForceConstants:
    """Impose the acoustic sum rule and permutation symmetry.

    phonopy's own symmetriser is repeated until both hold, since each of its two
    steps disturbs the other a little.

    Args:
        force_constants: kept as they are; a new object is returned.
        tolerance: largest remaining asymmetry, eV/Å².

    Raises:
        ArithmeticError: the tolerance is not reached (never seen on real data).

    Source: ``phonopy.harmonic.force_constants.symmetrize_compact_force_constants``.
    """
    from phonopy.harmonic.force_constants import symmetrize_compact_force_constants

    symmetric = replace(
        force_constants,
        compact=np.array(force_constants.compact, dtype=np.float64, order="C"),
    )
    primitive = _phonopy_maps(symmetric)
    for _ in range(_MAX_SYMMETRISATION_ROUNDS):
        if asymmetry(symmetric).worst < tolerance:
            return symmetric
        symmetrize_compact_force_constants(symmetric.compact, primitive, level=2)
    raise ArithmeticError(
        f"force constants still break their symmetry by {asymmetry(symmetric).worst:g} "
        f"eV/Å² after {_MAX_SYMMETRISATION_ROUNDS} rounds."
    )


def from_array(
    array: np.ndarray, primitive: Any, equivalent_atoms: np.ndarray
) -> tuple[ForceConstants, Asymmetry]:
    """Bring full or compact force constants of phonopy into one form.

    phonopy keeps both in one attribute; this is the only place that branches on it.

    Args:
        array: (n_atoms, n_atoms, 3, 3) or (n_primitive, n_atoms, 3, 3), eV/Å². Full
            ones are averaged over lattice translations.
        primitive: ``phonopy.structure.cells.Primitive`` of the supercell.
        equivalent_atoms: (n_atoms,), ``symmetry.get_map_atoms()`` of phonopy.

    Returns:
        The force constants, not symmetrised, and their asymmetry.

    Raises:
        ShapeError: neither shape fits the cells.
    """
    permutations = np.asarray(primitive.atomic_permutations, dtype=np.int64)
    n_primitive, n_atoms = len(primitive.p2s_map), permutations.shape[1]
    full_shape, compact_shape = (n_atoms, n_atoms, 3, 3), (n_primitive, n_atoms, 3, 3)
    if array.shape not in (full_shape, compact_shape):
        raise ShapeError(
            f"force constants have shape {array.shape}; expected {full_shape} (full) "
            f"or {compact_shape} (compact) for this supercell."
        )
    is_full = array.shape == full_shape
    primitive_index, translation_index = translation_maps(primitive)
    force_constants = ForceConstants(
        compact=np.array(
            array[primitive.p2s_map] if is_full else array, dtype=np.float64, order="C"
        ),
        primitive_index=primitive_index,
        translation_index=translation_index,
        permutations=permutations,
        equivalent_atoms=np.asarray(equivalent_atoms, dtype=np.int64),
    )
    broken = 0.0
    if is_full and n_primitive < n_atoms:
        force_constants, broken = _average_translations(force_constants, array)
    return force_constants, replace(asymmetry(force_constants), translation=broken)


def from_phonopy(phonon: Any) -> tuple[ForceConstants, Asymmetry]:
    """Take the force constants that a ``phonopy.Phonopy`` holds, in its own units.

    Returns:
        The force constants, not symmetrised, and their asymmetry.

    Raises:
        ShapeError: their shape does not fit the cells.
    """
    return from_array(
        phonon.force_constants, phonon.primitive, phonon.symmetry.get_map_atoms()
    )


def _average_translations(
    force_constants: ForceConstants, array: np.ndarray
) -> tuple[ForceConstants, float]:
    """Average full force constants over translations; also the largest deviation."""
    total = np.zeros_like(force_constants.compact)
    representatives = force_constants.representatives()
    for permutation in force_constants.permutations:
        total += array[permutation[representatives][:, None], permutation]
    averaged = replace(
        force_constants, compact=total / len(force_constants.permutations)
    )
    return averaged, float(np.abs(averaged.full() - array).max())


def _transposed(force_constants: ForceConstants) -> np.ndarray:
    """Give ``Φ_jiᵀ`` for every stored block ij, (n_primitive, n_atoms, 3, 3)."""
    rows = force_constants.primitive_index
    translations = force_constants.translation_index
    # Φ[j, i] = compact[p(j), t_j(i)] with t_j the translation of j.
    columns = force_constants.permutations[
        translations[None, :], force_constants.representatives()[:, None]
    ]
    return force_constants.compact[rows[None, :], columns].swapaxes(-1, -2)


def _phonopy_maps(force_constants: ForceConstants) -> Any:
    """Give the maps of phonopy's ``Primitive`` that its symmetriser reads."""
    representatives = force_constants.representatives()
    return SimpleNamespace(
        p2s_map=representatives,
        s2p_map=representatives[force_constants.primitive_index],
        p2p_map={int(atom): row for row, atom in enumerate(representatives)},
        atomic_permutations=np.ascontiguousarray(
            force_constants.permutations, dtype=np.int64
        ),
    )
