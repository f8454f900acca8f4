"""Third-order force constants of a potential, exact and by displacement."""

from __future__ import annotations

import numpy as np
import pytest

import pft_lightning as pft
from pft_lightning.errors import ConfigError, NotDifferentiableError
from pft_lightning.evaluation.third_order import third_order_force_constants
from pft_lightning.physics.third_order_constants import (
    third_asymmetry,
    third_from_array,
)

from .crystals import calculated, forces_of, needs_phono3py, potential


@pytest.fixture(autouse=True)
def _phono3py() -> None:
    needs_phono3py()


@pytest.fixture(scope="module")
def exact() -> np.ndarray:
    needs_phono3py()
    return third_order_force_constants(potential(), calculated(), max_atoms=1024)


def test_exact_ones_are_central_differences_of_forces(exact) -> None:
    phonons = calculated()
    constants = third_from_array(exact, phonons.primitive)
    u, v = np.random.default_rng(0).standard_normal((2, 8, 3))

    def second_difference(step: float) -> np.ndarray:
        signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
        moved = np.array([step * (a * u + b * v) for a, b in signs])
        forces = forces_of(phonons.supercell, moved)
        total = sum(a * b * f for (a, b), f in zip(signs, forces, strict=True))
        return -total / (4 * step**2)

    # Richardson: the error goes with the fourth power of the step.
    expected = (4 * second_difference(1e-3) - second_difference(2e-3)) / 3
    found = constants.multiply(u[:, None], v[:, None])[:, 0]
    # Rounding of forces near 1 eV/Å over the square of the step: 1e-16 / 1e-6, some
    # times; the truncation is smaller.
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7 * scale)


def test_displacements_come_near_to_exact_ones_with_their_square(exact) -> None:
    errors = [
        np.abs(
            third_order_force_constants(
                potential(),
                calculated(distance=distance),
                method="finite_displacement",
                max_atoms=1024,
            )
            - exact
        ).max()
        for distance in (0.02, 0.01)
    ]
    assert errors[0] < 0.02 * np.abs(exact).max()
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.6)


def test_sum_rules_and_permutation_hold(exact) -> None:
    broken = third_asymmetry(third_from_array(exact, calculated().primitive))
    # Rounding of sums of eight numbers below 100.
    assert broken.acoustic_sum_rule < 1e-12
    assert broken.permutation < 1e-12


def test_symmetry_changes_nothing(exact) -> None:
    """The block of an atom of zincblende with itself has xyz and its orders alone."""
    phonons = calculated()
    blocks = third_from_array(exact, phonons.primitive).on_site()
    pattern = np.zeros((3, 3, 3))
    for order in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]:
        pattern[order] = 1
    for block in blocks:
        assert abs(block[0, 1, 2]) > 1
        np.testing.assert_allclose(block, block[0, 1, 2] * pattern, atol=1e-10)


def test_a_rotated_crystal_has_rotated_force_constants(exact) -> None:
    from phono3py import Phono3py
    from phonopy.structure.atoms import PhonopyAtoms
    from scipy.spatial.transform import Rotation

    given = calculated()
    rotation = Rotation.from_rotvec([0.3, -0.5, 0.8]).as_matrix()
    unit = given.unitcell
    turned = Phono3py(
        PhonopyAtoms(
            numbers=unit.numbers,
            cell=np.asarray(unit.cell) @ rotation.T,
            scaled_positions=unit.scaled_positions,
        ),
        supercell_matrix=given.supercell_matrix,
        primitive_matrix=given.primitive_matrix,
        log_level=0,
    )
    found = third_order_force_constants(potential(), turned, max_atoms=1024)
    expected = np.einsum("ijkabc,xa,yb,zc->ijkxyz", exact, *[rotation] * 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_a_calculator_of_ase_is_displaced(exact) -> None:
    calculator = pft.Calculator(potential())
    phonons = calculated()
    with pytest.raises(NotDifferentiableError, match="finite_displacement"):
        third_order_force_constants(calculator, phonons)
    own, other = (
        third_order_force_constants(one, phonons, method="finite_displacement")
        for one in (potential(), calculator)
    )
    np.testing.assert_allclose(own, other, rtol=0, atol=1e-9)


def test_what_cannot_be_computed_is_refused() -> None:
    phonons = calculated()
    for choice, message in (
        ({"method": "hvp"}, "third_derivatives, finite_displacement"),
        ({"displacement": 0.0}, "displacement=0.0"),
        ({"max_atoms": 0}, "max_atoms=0"),
    ):
        with pytest.raises(ConfigError, match=message):
            third_order_force_constants(potential(), phonons, **choice)
    with pytest.raises(ConfigError, match=r"pft\.read_phono3py reads it"):
        third_order_force_constants(potential(), "phono3py_params.yaml")
