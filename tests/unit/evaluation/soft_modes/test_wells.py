"""Energies along soft modes: curvature, cells and ends of paths."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

import pft_lightning as pft
from pft_lightning.evaluation.soft_modes.directions import find_directions
from pft_lightning.evaluation.soft_modes.modes import find_soft_modes
from pft_lightning.evaluation.soft_modes.wells import (
    compute_curvature,
    compute_well,
    pattern_cell,
    potential_energies,
)

from .conftest import waves_of


@pytest.fixture(scope="module")
def triple(rattling):
    """With q-points of order three, whose waves come in pairs."""
    atoms = bulk("CsCl", "cesiumchloride", a=3.4)
    return waves_of(rattling, atoms, [1, 1, 3])


def all_directions(waves):
    return [
        direction
        for mode in find_soft_modes(waves, 0.1)
        for direction in find_directions(waves, mode)
    ]


@pytest.mark.parametrize("crystal", ["cage", "triple"])
def test_curvature_is_the_eigenvalue_of_the_supercell_in_every_smaller_cell(
    rattling, crystal, request
):
    waves = request.getfixturevalue(crystal)
    orders = set()
    for direction in all_directions(waves):
        cell = pattern_cell(waves, direction)
        orders.add(cell.n_cells)
        curvature = compute_curvature(rattling, cell, 256)
        # Sums of some hundred terms of float64, none larger than a thousand times the
        # result; a cell that does not fit the pattern is wrong by its whole value.
        assert curvature == pytest.approx(direction.mode.eigenvalue, rel=1e-10)
    assert orders == ({1, 2, 4, 8} if crystal == "cage" else {1, 3})


def test_finite_differences_of_a_calculator_give_the_same_curvature(rattling, cage):
    direction = all_directions(cage)[0]
    cell = pattern_cell(cage, direction)
    found = compute_curvature(pft.Calculator(rattling), cell, 256)
    # The fourth derivative by the square of a step of 0.005 Å.
    assert found == pytest.approx(direction.mode.eigenvalue, rel=2e-3)


def test_energies_of_the_smallest_cell_are_those_of_the_supercell(rattling, cage):
    for direction in all_directions(cage)[:4]:
        cell = pattern_cell(cage, direction)
        amplitudes = np.array([0.0, 0.3, -0.2]) / cell.largest
        small = potential_energies(
            rattling,
            cell.atoms,
            cell.atoms.positions + amplitudes[:, None, None] * cell.pattern,
            256,
        )
        supercell = cage.phonon.supercell
        whole = cell.atoms.__class__(
            numbers=supercell.numbers, cell=supercell.cell, pbc=True
        )
        moved = supercell.positions + amplitudes[:, None, None] * direction.pattern
        large = potential_energies(rattling, whole, moved, 256)
        np.testing.assert_allclose(
            small / cell.n_cells, large / cage.n_cells, rtol=1e-12
        )


def test_a_well_has_its_curvature_its_minimum_and_its_symmetry(rattling, cage):
    direction = all_directions(cage)[0]
    assert direction.is_even
    well = compute_well(rattling, cage, direction, reach=0.4, points=4, max_atoms=256)
    assert well.is_closed
    middle = len(well.amplitudes) // 2
    assert well.amplitudes[middle] == well.energies[middle] == 0
    np.testing.assert_allclose(well.energies, well.energies[::-1], atol=1e-12)
    assert well.depth <= well.energies.min() < 0
    assert well.amplitudes[-1] == pytest.approx(1.5 * abs(well.minimum))
    # Lower than both neighbours, whose distance is that of the search.
    around = well.minimum * np.array([0.99, 1.01])
    moved = well.cell.atoms.positions + around[:, None, None] * well.cell.pattern
    energies = potential_energies(rattling, well.cell.atoms, moved, 256)
    (zero,) = potential_energies(
        rattling, well.cell.atoms, well.cell.atoms.positions[None], 256
    )
    assert ((energies - zero) / well.cell.n_cells > well.depth).all()


def test_a_path_goes_on_while_the_energy_falls(rattling, cage):
    direction = all_directions(cage)[0]
    short = compute_well(rattling, cage, direction, reach=0.05, points=2, max_atoms=256)
    # Four times as far is not far enough, and that is said.
    assert len(short.amplitudes) == 1 + 2 * 2 * 4
    assert not short.is_closed
    assert short.minimum == short.amplitudes[np.argmin(short.energies)]


def test_a_well_that_is_narrower_than_a_step_is_found(rattling, cage):
    direction = all_directions(cage)[0]
    wide = compute_well(rattling, cage, direction, reach=0.4, points=4, max_atoms=256)
    # Steps of 2 Å, the first of them on top of other atoms.
    coarse = compute_well(rattling, cage, direction, reach=8.0, points=4, max_atoms=256)
    assert coarse.depth == pytest.approx(wide.depth, rel=1e-4)
