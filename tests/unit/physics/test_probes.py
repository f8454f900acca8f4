from __future__ import annotations

import numpy as np
import pytest

from pft_lightning.errors import ConfigError
from pft_lightning.physics.probes import (
    ColumnProbe,
    GaussianProbe,
    IrreducibleProbe,
    RademacherProbe,
    probe_generator,
    validation_tangents,
)


KINDS = [ColumnProbe, IrreducibleProbe, RademacherProbe, GaussianProbe]


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
