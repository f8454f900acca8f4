"""Averages, waves and heat against closed forms; the fold of internal coordinates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pft_lightning.errors import ShapeError
from pft_lightning.physics.elasticity import (
    acoustic_properties,
    average_moduli,
    relaxed_second_derivative,
    stiffness_under_stress,
    wave_velocities,
)


def cubic(c11: float, c12: float, c44: float) -> np.ndarray:
    stiffness = np.diag([c11 - c12] * 3 + [c44] * 3)
    stiffness[:3, :3] += c12
    return stiffness


def test_moduli_of_a_cubic_crystal_are_the_closed_forms():
    c11, c12, c44 = 160.0, 60.0, 80.0
    found = average_moduli(cubic(c11, c12, c44))
    bulk = (c11 + 2 * c12) / 3
    voigt = (c11 - c12 + 3 * c44) / 5
    reuss = 5 * (c11 - c12) * c44 / (4 * c44 + 3 * (c11 - c12))
    shear = (voigt + reuss) / 2
    assert found.bulk_voigt == pytest.approx(bulk, rel=1e-14)
    assert found.bulk_reuss == pytest.approx(bulk, rel=1e-14)
    assert found.shear_voigt == pytest.approx(voigt, rel=1e-14)
    assert found.shear_reuss == pytest.approx(reuss, rel=1e-14)
    assert found.young == pytest.approx(9 * bulk * shear / (3 * bulk + shear))
    assert found.poisson == pytest.approx(found.young / (2 * shear) - 1, rel=1e-13)
    assert found.lowest_eigenvalue == pytest.approx(min(c44, c11 - c12))
    assert found.is_stable


def test_moduli_of_no_symmetry_lie_between_their_bounds():
    random = np.random.default_rng(0).normal(size=(6, 6))
    stiffness = 50 * np.eye(6) + random @ random.T
    found = average_moduli(stiffness)
    # Hill's inequality holds for every stable crystal.
    assert found.bulk_reuss < found.bulk_voigt
    assert found.shear_reuss < found.shear_voigt
    compliance = np.linalg.inv(stiffness)
    s = compliance
    # Written out as in Hill's paper.
    reuss = 15 / (
        4 * (s[0, 0] + s[1, 1] + s[2, 2])
        - 4 * (s[0, 1] + s[1, 2] + s[0, 2])
        + 3 * (s[3, 3] + s[4, 4] + s[5, 5])
    )
    c = stiffness
    voigt = (
        c[0, 0]
        + c[1, 1]
        + c[2, 2]
        - (c[0, 1] + c[1, 2] + c[0, 2])
        + 3 * (c[3, 3] + c[4, 4] + c[5, 5])
    ) / 15
    assert found.shear_reuss == pytest.approx(reuss, rel=1e-12)
    assert found.shear_voigt == pytest.approx(voigt, rel=1e-12)


def test_an_unstable_crystal_is_told_by_its_eigenvalue():
    found = average_moduli(cubic(100.0, 120.0, 40.0))
    assert not found.is_stable
    assert found.lowest_eigenvalue == pytest.approx(-20.0)


@pytest.mark.parametrize(
    ("stiffness", "message"),
    [
        (np.eye(3), r"shape \(3, 3\)"),
        (np.full((6, 6), np.nan), "finite"),
        (cubic(100.0, 100.0, 40.0), "singular"),
    ],
)
def test_what_is_no_stiffness_is_refused(stiffness, message):
    with pytest.raises(ShapeError, match=message):
        average_moduli(stiffness)


def test_waves_of_a_cubic_crystal():
    c11, c12, c44, density = 166.0, 64.0, 79.0, 2330.0
    directions = np.array([[2.0, 0, 0], [1, 1, 0], [1, 1, 1]])
    found = wave_velocities(cubic(c11, c12, c44), density, directions)
    along_110 = (c11 + c12 + 2 * c44) / 2, c44, (c11 - c12) / 2
    along_111 = (c11 + 2 * c12 + 4 * c44) / 3, *[(c11 - c12 + c44) / 3] * 2
    for row, moduli in zip(found, [(c11, c44, c44), along_110, along_111], strict=True):
        expected = np.sqrt(np.sort(moduli) * 1e9 / density)
        np.testing.assert_allclose(row, expected, rtol=1e-13)
    unstable = wave_velocities(cubic(100.0, 120.0, 40.0), density, directions[1:2])
    assert np.isnan(unstable[0, 0])


def test_isotropic_waves_are_the_mean_velocities_of_sound():
    stiffness = cubic(200.0, 80.0, 60.0)
    moduli = average_moduli(stiffness)
    found = acoustic_properties(moduli, 40.0, np.array([28.0855] * 2), 2)
    density = 2 * 28.0855 * 1.66053907 / 40.0 * 1000
    waves = wave_velocities(stiffness, density, np.array([[1.0, 2.0, 3.0]]))[0]
    # Masses and ħ of different CODATA years.
    assert waves == pytest.approx([found.transverse] * 2 + [found.longitudinal], 1e-7)


def test_the_debye_temperature_of_silicon():
    # Elastic constants and volume at room temperature; heat capacities at low
    # temperature give 645 K.
    moduli = average_moduli(cubic(165.8, 63.9, 79.6))
    masses = np.array([28.0855] * 2)
    found = acoustic_properties(moduli, 40.03, masses, 2)
    assert found.debye_temperature == pytest.approx(645, rel=0.01)
    assert found.gruneisen == pytest.approx(
        1.5 * (1 + moduli.poisson) / (2 - 3 * moduli.poisson)
    )
    gamma, acoustic = found.gruneisen, found.debye_temperature / 2 ** (1 / 3)
    slack = 2.43e-6 / (1 - 0.514 / gamma + 0.228 / gamma**2)
    slack *= 28.0855 * acoustic**3 * (40.03 / 2) ** (1 / 3) * 2 ** (1 / 3)
    # The published factor has three digits.
    assert found.slack == pytest.approx(slack / (gamma**2 * 300), rel=2e-3)
    # A larger cell of the same crystal says the same.
    twice = acoustic_properties(moduli, 80.06, np.array([28.0855] * 4), 2)
    assert twice.slack == pytest.approx(found.slack, rel=1e-13)


def test_an_unstable_crystal_has_no_sound():
    found = acoustic_properties(
        average_moduli(cubic(100.0, 120.0, -40.0)), 40.0, np.array([10.0]), 1
    )
    assert math.isnan(found.transverse)
    assert math.isnan(found.debye_temperature)
    assert math.isnan(found.slack)


def test_ions_relax_as_a_minimum_over_them():
    rng = np.random.default_rng(1)
    factor = rng.normal(size=(9, 9))
    uniform = np.tile(np.eye(3), (3, 1)) / math.sqrt(3)
    project = np.eye(9) - uniform @ uniform.T
    hessian = project @ (factor @ factor.T + np.eye(9)) @ project
    coupling = (project @ rng.normal(size=(9, 6))).reshape(3, 3, 6).transpose(0, 2, 1)
    clamped = 100 * np.eye(6)
    found, lowest = relaxed_second_derivative(clamped, coupling, hessian)
    flat = coupling.transpose(0, 2, 1).reshape(9, 6)
    for strain in np.eye(6):
        shift = np.linalg.lstsq(hessian, -flat @ strain, rcond=1e-10)[0]
        energy = strain @ clamped @ strain + 2 * shift @ flat @ strain
        energy += shift @ hessian @ shift
        assert strain @ found @ strain == pytest.approx(energy, rel=1e-11)
    assert lowest == pytest.approx(np.linalg.eigvalsh(hessian)[3])
    alone, lowest = relaxed_second_derivative(clamped, np.ones((1, 6, 3)), np.eye(3))
    assert np.array_equal(alone, clamped)
    assert lowest == math.inf


def test_under_pressure_the_coefficients_are_those_of_barron_and_klein():
    pressure = 7.0
    found = stiffness_under_stress(cubic(160.0, 60.0, 80.0), -pressure * np.eye(3))
    expected = cubic(160.0, 60.0 + pressure, 80.0 - pressure / 2)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
