"""Waves of a supercell against phonopy and against its force constants."""

from __future__ import annotations

import numpy as np
import pytest

from pft_lightning.evaluation.force_constants import compute_force_constants
from pft_lightning.evaluation.metrics import count_imaginary
from pft_lightning.evaluation.soft_modes.directions import find_directions
from pft_lightning.evaluation.soft_modes.modes import (
    SupercellWaves,
    find_soft_modes,
)
from pft_lightning.evaluation.soft_modes.symmetry import space_group
from pft_lightning.evaluation.soft_modes.wells import pattern_cell

from ..conftest import make_phonon


# THz: below all frequencies, so that every mode counts as soft.
ALL = -1e3


def test_frequencies_are_phonopys_and_waves_their_real_eigenvectors(
    any_phonon, potential
):
    constants = compute_force_constants(potential, any_phonon).compact
    any_phonon.force_constants = constants
    waves = SupercellWaves.of(any_phonon)
    found = waves.frequencies()
    for q in range(waves.n_cells):
        points = any_phonon.run_qpoints([waves.fractional(q)])
        theirs = (points or any_phonon.qpoints).frequencies[0]
        # Squares, as roots of zero magnify rounding.
        np.testing.assert_allclose(
            found[q] * abs(found[q]), theirs * abs(theirs), rtol=1e-9, atol=1e-7
        )
        branches = np.arange(found.shape[1])
        basis = waves.waves(q, branches)
        flat = basis.reshape(len(basis), -1)
        np.testing.assert_allclose(flat @ flat.T, np.eye(len(basis)), atol=1e-12)
        roots = np.sqrt(waves.masses)[:, None]
        forces = waves.force_constants.multiply((basis / roots).transpose(1, 0, 2))
        values = np.tile(waves.eigenvalues[q], len(basis) // len(branches))
        expected = basis * values[:, None, None]
        np.testing.assert_allclose(
            forces.transpose(1, 0, 2) / roots, expected, atol=1e-11
        )


def test_stars_share_all_q_points_out(cage):
    sizes = {mode.q: len(mode.star) for mode in find_soft_modes(cage, ALL)}
    # Γ, R, and the three arms of X and of M.
    assert sorted(sizes.values()) == [1, 1, 3, 3]


def test_modes_are_counted_with_their_degeneracy(cage):
    modes = find_soft_modes(cage, 0.5)
    expected = sum(mode.degeneracy * len(mode.star) for mode in modes)
    assert count_imaginary(cage.frequencies(), 0.5).sum() == expected
    assert [mode.frequency for mode in modes] == sorted(m.frequency for m in modes)
    assert find_soft_modes(cage, 100.0) == []


def groups_of_mode(waves, mode) -> set[str]:
    """Space groups of a crystal displaced along each direction of a mode."""
    return {
        space_group(cell.at(0.1 / cell.largest), 1e-4)[0]
        for one in find_directions(waves, mode)
        for cell in [pattern_cell(waves, one)]
    }


@pytest.mark.parametrize(
    ("q_point", "n_waves", "expected"),
    [
        # a0a0c+, a0b+b+, a+a+a+ and a0a0c-, a0b-b-, a-a-a- of Glazer: tilts of
        # octahedra by C. J. Howard, H. T. Stokes, Acta Cryst. B 54, 782 (1998).
        ([0.5, 0.5, 0], 3, {"P4/mbm", "I4/mmm", "Im-3"}),
        ([0.5, 0.5, 0.5], 3, {"I4/mcm", "Imma", "R-3c"}),
        # Polar modes: the phases of BaTiO3.
        ([0, 0, 0], 3, {"P4mm", "Amm2", "R3m"}),
    ],
)
def test_directions_of_a_perovskite_are_its_known_phases(
    perovskite, q_point, n_waves, expected
):
    found = [
        groups_of_mode(perovskite, mode)
        for mode in find_soft_modes(perovskite, ALL)
        if sorted(np.abs(mode.q_point)) == sorted(q_point)
        and mode.degeneracy * len(mode.star) == n_waves
    ]
    assert expected in found


def test_a_crystal_without_symmetry_has_its_waves_alone(potential):
    phonon = make_phonon("triclinic")
    phonon.force_constants = compute_force_constants(potential, phonon).compact
    waves = SupercellWaves.of(phonon)
    # All but the translations, which are degenerate in any crystal.
    modes = [mode for mode in find_soft_modes(waves, ALL) if abs(mode.frequency) > 0.1]
    assert len(modes) == 2 * 9 - 3
    for mode in modes:
        (direction,) = find_directions(waves, mode)
        assert direction.arms == mode.degeneracy == 1
        # The translation by one cell reverses what is no wave of Γ.
        assert direction.is_even == (mode.order == 2)
