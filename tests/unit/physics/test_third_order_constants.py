"""Third-order force constants of any crystal, against the full tensor."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pft_lightning.errors import ShapeError
from pft_lightning.physics.third_order_constants import (
    ThirdOrderConstants,
    symmetrise_third,
    third_asymmetry,
    third_from_array,
)


CRYSTALS = ["simple cubic", "bcc, oblique", "one cell"]


@pytest.fixture(params=CRYSTALS)
def primitive(request, spring_phonon):
    return spring_phonon(request.param).primitive


def translated(primitive, seed: int = 0) -> np.ndarray:
    """A full tensor of noise that lattice translations leave as it is."""
    permutations = primitive.atomic_permutations
    n_atoms = permutations.shape[1]
    noise = np.random.default_rng(seed).standard_normal((n_atoms,) * 3 + (3,) * 3)
    moved = [noise[np.ix_(sent, sent, sent)] for sent in permutations]
    return np.mean(moved, axis=0)


def exchanged(full: np.ndarray) -> list[np.ndarray]:
    return [
        full.transpose(*order, *(3 + axis for axis in order))
        for order in itertools.permutations(range(3))
    ]


def test_full_and_compact_arrays_are_one_thing(primitive) -> None:
    full = translated(primitive)
    constants = third_from_array(full, primitive)
    np.testing.assert_array_equal(constants.representatives(), primitive.p2s_map)
    i, j, k = np.random.default_rng(1).integers(len(full), size=(3, 200))
    # The mean over translations is the same sum in another order.
    np.testing.assert_allclose(constants.blocks(i, j, k), full[i, j, k], atol=1e-14)
    same = third_from_array(full[primitive.p2s_map], primitive)
    np.testing.assert_array_equal(same.compact, constants.compact)
    atoms = primitive.p2s_map
    expected = full[atoms, atoms, atoms]
    np.testing.assert_allclose(constants.on_site(), expected, atol=1e-14)


@pytest.mark.parametrize("moved", ["all", "one"])
def test_products_are_those_of_the_full_tensor(primitive, moved: str) -> None:
    full = translated(primitive)
    u, v = np.random.default_rng(2).standard_normal((2, len(full), 3, 3))
    if moved == "one":
        v[np.arange(len(v)) != 1] = 0.0
    expected = np.einsum("ijkabc,jmb,kmc->ima", full, u, v)
    found = third_from_array(full, primitive).multiply(u, v)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_asymmetry_is_that_of_the_full_tensor(primitive) -> None:
    full = translated(primitive)
    broken = third_asymmetry(third_from_array(full, primitive))
    drift = max(np.abs(full.sum(axis=axis)).max() for axis in range(3))
    assert broken.acoustic_sum_rule == pytest.approx(drift, rel=1e-12)
    # Of two exchanges; the others follow from them, not with the same number.
    neighbours = [exchanged(full)[order] for order in (1, 2)]
    largest = max(np.abs(full - other).max() for other in neighbours)
    assert broken.permutation == pytest.approx(largest, rel=1e-12)
    assert 0.5 < broken.share < 1.0  # noise has next to nothing of what is allowed


def test_symmetrisation_is_the_projection_of_the_full_tensor(primitive) -> None:
    full = translated(primitive)
    found = symmetrise_third(third_from_array(full, primitive))
    expected = np.mean(exchanged(full), axis=0)
    for axis in range(3):
        expected = expected - expected.mean(axis=axis, keepdims=True)
    np.testing.assert_allclose(found.compact, expected[primitive.p2s_map], atol=1e-14)
    broken = third_asymmetry(found)
    # Rounding of sums of up to 24 numbers near 1.
    assert broken.acoustic_sum_rule < 1e-13
    assert broken.permutation < 1e-13
    assert broken.share < 1e-14


def test_arrays_of_other_cells_are_refused(primitive) -> None:
    with pytest.raises(ShapeError, match=r"shape \(1, 2, 2, 3, 3, 3\)"):
        third_from_array(np.zeros((1, 2, 2, 3, 3, 3)), primitive)
    with pytest.raises(ShapeError, match="compact has shape"):
        ThirdOrderConstants(
            np.zeros((1, 3, 2, 3, 3, 3)), np.zeros(3), np.zeros(3), np.zeros((3, 3))
        )
    constants = third_from_array(translated(primitive), primitive)
    with pytest.raises(ShapeError, match="directions have shapes"):
        constants.multiply(np.zeros((2, 1, 3)), np.zeros((2, 1, 3)))
