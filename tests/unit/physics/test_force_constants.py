from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from phonopy import Phonopy
from phonopy.harmonic.force_constants import compact_fc_to_full_fc

from pft_lightning.errors import ShapeError
from pft_lightning.physics.force_constants import (
    ForceConstants,
    asymmetry,
    from_array,
    from_phonopy,
    symmetrise,
)


TOLERANCE = 1e-12


@pytest.fixture
def force_constants(any_spring_phonon: Phonopy) -> ForceConstants:
    any_spring_phonon.produce_force_constants(calculate_full_force_constants=False)
    return from_phonopy(any_spring_phonon)[0]


def test_full_equals_that_of_phonopy(any_spring_phonon: Phonopy) -> None:
    any_spring_phonon.produce_force_constants(calculate_full_force_constants=False)
    ours = from_phonopy(any_spring_phonon)[0].full()
    theirs = compact_fc_to_full_fc(
        any_spring_phonon.primitive, any_spring_phonon.force_constants
    )
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_full_and_compact_sources_give_the_same(any_spring_phonon: Phonopy) -> None:
    any_spring_phonon.produce_force_constants(calculate_full_force_constants=False)
    from_compact, _ = from_phonopy(any_spring_phonon)
    any_spring_phonon.produce_force_constants(calculate_full_force_constants=True)
    from_full, broken = from_phonopy(any_spring_phonon)
    np.testing.assert_allclose(from_full.compact, from_compact.compact, atol=TOLERANCE)
    assert broken.translation < TOLERANCE


def test_translations_send_atoms_where_phonopy_says(
    any_spring_phonon: Phonopy, force_constants: ForceConstants
) -> None:
    primitive = any_spring_phonon.primitive
    atoms = np.arange(force_constants.n_atoms)
    sent = force_constants.permutations[force_constants.translation_index, atoms]
    np.testing.assert_array_equal(sent, primitive.s2p_map)
    np.testing.assert_array_equal(force_constants.representatives(), primitive.p2s_map)
    # Each row is one rigid translation of the whole crystal.
    fractional = any_spring_phonon.supercell.scaled_positions
    for permutation in force_constants.permutations:
        moved = fractional[permutation] - fractional
        moved -= moved[0]
        np.testing.assert_allclose(moved - np.rint(moved), 0, atol=1e-6)


@pytest.mark.parametrize("n_moved", [0, 1, 2, None])
def test_multiply_equals_the_full_product(
    force_constants: ForceConstants, n_moved: int | None
) -> None:
    generator = np.random.default_rng(0)
    tangents = generator.standard_normal((force_constants.n_atoms, 3, 3))
    if n_moved is not None:
        kept = generator.permutation(force_constants.n_atoms)[:n_moved]
        tangents[np.setdiff1d(np.arange(force_constants.n_atoms), kept)] = 0
    expected = np.einsum("ijab,jpb->ipa", force_constants.full(), tangents)
    np.testing.assert_allclose(
        force_constants.multiply(tangents), expected, atol=TOLERANCE
    )


def test_sparse_and_dense_products_agree(force_constants: ForceConstants) -> None:
    tangents = np.random.default_rng(1).standard_normal((force_constants.n_atoms, 2, 3))
    everything = np.arange(force_constants.n_atoms)
    np.testing.assert_allclose(
        force_constants._multiply_sparse(tangents, everything),
        force_constants._multiply_dense(tangents),
        atol=TOLERANCE,
    )


def test_product_is_positive_and_ignores_rigid_motion(
    force_constants: ForceConstants,
) -> None:
    tangents = np.random.default_rng(2).standard_normal((force_constants.n_atoms, 1, 3))
    assert np.vdot(tangents, force_constants.multiply(tangents)) > 0
    rigid = np.broadcast_to([[1.0, -2.0, 0.5]], tangents.shape)
    np.testing.assert_allclose(force_constants.multiply(rigid), 0, atol=1e-10)


def test_multiply_refuses_another_shape(force_constants: ForceConstants) -> None:
    with pytest.raises(ShapeError, match="n_probes"):
        force_constants.multiply(np.zeros((force_constants.n_atoms, 3)))


def test_symmetrise_removes_noise(force_constants: ForceConstants) -> None:
    noise = np.random.default_rng(3).normal(0, 1e-2, force_constants.compact.shape)
    noisy = replace(force_constants, compact=force_constants.compact + noise)
    assert asymmetry(noisy).worst > 1e-3
    clean = symmetrise(noisy)
    assert asymmetry(clean).worst < 1e-10
    full = clean.full()
    np.testing.assert_allclose(full, full.transpose(1, 0, 3, 2), atol=1e-10)
    np.testing.assert_allclose(full.sum(axis=1), 0, atol=1e-10)
    assert np.abs(clean.compact - force_constants.compact).max() < 0.1
    # The argument is left as it was.
    np.testing.assert_array_equal(noisy.compact, force_constants.compact + noise)


def test_symmetrise_leaves_exact_force_constants(
    force_constants: ForceConstants,
) -> None:
    np.testing.assert_allclose(
        symmetrise(force_constants).compact, force_constants.compact, atol=1e-10
    )


def test_asymmetry_is_that_of_the_full_matrix(force_constants: ForceConstants) -> None:
    noise = np.random.default_rng(4).normal(0, 1e-2, force_constants.compact.shape)
    noisy = replace(force_constants, compact=force_constants.compact + noise)
    full, measured = noisy.full(), asymmetry(noisy)
    transposed = full.transpose(1, 0, 3, 2)
    assert measured.permutation == pytest.approx(np.abs(full - transposed).max())
    assert measured.acoustic_sum_rule == pytest.approx(np.abs(full.sum(axis=1)).max())


def test_broken_translation_is_measured_and_averaged(spring_phonon) -> None:
    phonon = spring_phonon("NaCl conventional")
    phonon.produce_force_constants(calculate_full_force_constants=True)
    full = phonon.force_constants.copy()
    full[3, 5] += 0.8
    averaged, broken = from_array(
        full, phonon.primitive, phonon.symmetry.get_map_atoms()
    )
    n_translations = len(averaged.permutations)
    assert broken.translation == pytest.approx(0.8 * (1 - 1 / n_translations))
    change = averaged.full() - phonon.force_constants
    assert change[3, 5] == pytest.approx(np.full((3, 3), 0.8 / n_translations))


def test_inequivalent_atoms_stand_for_all(spring_phonon) -> None:
    phonon = spring_phonon("NaCl conventional")
    phonon.produce_force_constants(calculate_full_force_constants=False)
    atoms, counts = from_phonopy(phonon)[0].inequivalent_atoms()
    assert counts.tolist() == [8, 8]
    assert sorted(phonon.supercell.symbols[i] for i in atoms) == ["Cl", "Na"]


def test_wrong_shapes_are_refused(spring_phonon) -> None:
    phonon = spring_phonon("NaCl conventional")
    with pytest.raises(ShapeError, match=r"\(16, 16, 3, 3\).*\(2, 16, 3, 3\)"):
        from_array(np.zeros((4, 16, 3, 3)), phonon.primitive, np.arange(16))
    with pytest.raises(ShapeError, match="compact"):
        ForceConstants(np.zeros((6, 6)), *[np.zeros(2, dtype=int)] * 4)
    with pytest.raises(ShapeError, match="permutations"):
        ForceConstants(np.zeros((2, 4, 3, 3)), *[np.zeros(4, dtype=int)] * 4)


def test_pickled_and_short_in_print(force_constants: ForceConstants) -> None:
    copied = pickle.loads(pickle.dumps(force_constants))
    np.testing.assert_array_equal(copied.full(), force_constants.full())
    assert len(repr(copied)) < 80
