from __future__ import annotations

import numpy as np
import pytest

from pft_lightning.errors import ConfigError
from pft_lightning.physics.force_constants import from_phonopy
from pft_lightning.physics.probes import (
    ColumnProbe,
    GaussianProbe,
    IrreducibleProbe,
    RademacherProbe,
    SparseProbe,
    probe_generator,
    validation_tangents,
)


KINDS = [ColumnProbe, IrreducibleProbe, SparseProbe, RademacherProbe, GaussianProbe]


@pytest.mark.parametrize("kind", KINDS)
def test_draws_depend_on_seed_step_and_structure_alone(kind, rocksalt_force_constants):
    def draw(*key):
        return kind(2).sample(rocksalt_force_constants, probe_generator(*key))

    reference = draw(1, 7, "NaCl")
    assert reference.shape == (rocksalt_force_constants.n_atoms, 2, 3)
    np.testing.assert_array_equal(draw(1, 7, "NaCl"), reference)
    for other in [(2, 7, "NaCl"), (1, 8, "NaCl"), (1, 7, "MgO")]:
        assert not np.array_equal(draw(*other), reference)


@pytest.mark.parametrize("kind", KINDS)
def test_expected_squared_error_is_the_same_for_all_probes(
    kind, rocksalt_force_constants
):
    """E|Φ v|² = ||Φ||_F² / 3N, so loss weights carry over from probe to probe."""
    full = rocksalt_force_constants.full()
    expected = (full**2).sum() / (3 * len(full))
    rng = np.random.default_rng(0)
    n = 4000
    probe = kind(1)
    samples = [
        (
            rocksalt_force_constants.multiply(
                probe.sample(rocksalt_force_constants, rng)
            )
            ** 2
        ).sum()
        for _ in range(n)
    ]
    # Five standard errors of the mean: one false alarm in two million.
    margin = 5 * np.std(samples) / np.sqrt(n)
    assert abs(np.mean(samples) - expected) < max(margin, 1e-10 * expected)


def test_columns_of_one_step_are_distinct(rocksalt_force_constants):
    n = 3 * rocksalt_force_constants.n_atoms
    rng = np.random.default_rng(0)
    tangents = ColumnProbe(n).sample(rocksalt_force_constants, rng)
    matrix = tangents.transpose(0, 2, 1).reshape(n, n)
    np.testing.assert_array_equal(matrix.sum(axis=0), 1)
    np.testing.assert_array_equal(matrix.sum(axis=1), 1)


@pytest.mark.parametrize("n_displaced", [1, 3, 8, 100])
def test_sparse_tangents_move_one_atom_of_each_of_several_primitive_cells(
    rocksalt_force_constants, n_displaced
):
    constants = rocksalt_force_constants
    tangents = SparseProbe(5, n_displaced).sample(constants, np.random.default_rng(0))
    np.testing.assert_allclose((tangents**2).sum(axis=(0, 2)), 1, rtol=1e-14)
    n_cells = len(constants.permutations)
    for tangent in tangents.transpose(1, 0, 2):
        lengths = np.linalg.norm(tangent, axis=1)
        moved = np.flatnonzero(lengths)
        assert len(moved) == min(n_displaced, n_cells)
        assert len(set(constants.primitive_index[moved])) == 1
        np.testing.assert_allclose(lengths[moved], len(moved) ** -0.5, rtol=1e-14)


def test_sparse_tangents_move_atoms_whose_columns_overlap_least(spring_phonon):
    phonon = spring_phonon("bcc, oblique")
    phonon.produce_force_constants()
    constants = from_phonopy(phonon)[0]
    norms = np.linalg.norm(constants.full(), axis=(2, 3))
    overlaps = norms.T @ norms
    least = overlaps.min(axis=0)
    tangents = SparseProbe(20, 2).sample(constants, np.random.default_rng(0))
    for tangent in tangents.transpose(1, 0, 2):
        one, other = np.flatnonzero(np.abs(tangent).sum(axis=1))
        # Sums in another order; overlaps are of order 100 (eV/Å²)².
        assert overlaps[one, other] == pytest.approx(least[one], abs=1e-9)
    # The choice is not between equals.
    assert np.ptp(np.delete(overlaps[0], 0)) > 5


def test_every_atom_is_as_likely_to_move_in_a_sparse_tangent(spring_phonon):
    phonon = spring_phonon("hexagonal")
    phonon.produce_force_constants()
    constants = from_phonopy(phonon)[0]
    n = 20_000
    tangents = SparseProbe(n, 3).sample(constants, np.random.default_rng(0))
    moment = np.einsum("ina,jnb->iajb", tangents, tangents) / n
    size = 3 * constants.n_atoms
    expected = np.eye(size) / size
    # Five standard errors: components have a fourth moment of about 1/(15 N).
    margin = 5 * np.sqrt(1 / (15 * constants.n_atoms) / n)
    np.testing.assert_allclose(moment.reshape(size, size), expected, atol=margin)


def test_validation_covers_every_inequivalent_atom(rocksalt_force_constants):
    tangents, weights = validation_tangents(rocksalt_force_constants, 0, "NaCl")
    displaced = {
        int(np.flatnonzero(np.abs(t).sum(1))[0]) for t in tangents.transpose(1, 0, 2)
    }
    atoms, _ = rocksalt_force_constants.inequivalent_atoms()
    assert displaced == set(atoms.tolist())
    np.testing.assert_allclose(np.linalg.norm(tangents, axis=(0, 2)), 1, rtol=1e-14)
    assert weights.sum() == pytest.approx(1, abs=1e-15)


def test_a_probe_needs_at_least_one_tangent():
    with pytest.raises(ConfigError, match="n_probes is 0"):
        ColumnProbe(0)
    with pytest.raises(ConfigError, match="n_displaced is 0"):
        SparseProbe(n_displaced=0)
