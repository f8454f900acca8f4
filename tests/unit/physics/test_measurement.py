"""Matrices at chosen q-points and on meshes, and which modes the measured ones are."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch
from ase import Atoms

from pft_lightning.physics.commensurate import wave_cell
from pft_lightning.physics.dynamical_matrix import find_waves
from pft_lightning.physics.force_constants import from_phonopy
from pft_lightning.physics.interpolation import InterpolationMesh, mesh_numbers
from pft_lightning.physics.measurement import MeasuredDensity, MeasuredFrequencies
from pft_lightning.physics.vibrations import squared_frequencies
from tests.conftest import CRYSTALS, hessian_of, phonon_of, true_potential


HALF, THIRD = Fraction(1, 2), Fraction(1, 3)
Q_POINTS = [
    (Fraction(0), Fraction(0), Fraction(0)),
    (HALF, HALF, Fraction(0)),
    (HALF, HALF, HALF),
    (THIRD, 2 * THIRD, Fraction(0)),
    (Fraction(1, 4), HALF, Fraction(3, 4)),
    (Fraction(1, 6), THIRD, HALF),
]


@pytest.fixture(scope="module", params=["LiF", "MgO", "Si"])
def phonon(request):
    """Long enough that no atom of the potential's range meets its own image."""
    crystal = CRYSTALS[request.param]
    found = phonon_of(crystal, true_potential(), 4 if request.param == "MgO" else 3)
    cell = found.supercell
    atoms = Atoms(
        numbers=cell.numbers, positions=cell.positions, cell=cell.cell, pbc=True
    )
    # In place of phonopy's finite displacements.
    found.force_constants = hessian_of(atoms, true_potential())
    return found


def matrices_of(phonon, q_points) -> np.ndarray:
    found = []
    for q in q_points:
        phonon.dynamical_matrix.run(np.array(q, dtype=float))
        found.append(phonon.dynamical_matrix.dynamical_matrix)
    return np.array(found)


def test_interpolated_matrices_are_those_of_phonopy(phonon):
    force_constants, _ = from_phonopy(phonon)
    mesh = InterpolationMesh.of(
        phonon.primitive, phonon.primitive_symmetry.pointgroup_operations, [5, 5, 5]
    )
    found = mesh.matrices(torch.from_numpy(force_constants.compact)).numpy()
    expected = matrices_of(phonon, mesh.q_points)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-12 * np.abs(expected).max())


def test_symmetry_leaves_the_spectrum_of_a_mesh_as_it_is(phonon):
    force_constants, _ = from_phonopy(phonon)
    rotations = phonon.primitive_symmetry.pointgroup_operations
    moments = []
    for some in (rotations, np.eye(3, dtype=int)[None]):
        mesh = InterpolationMesh.of(phonon.primitive, some, [4, 4, 4])
        squares = squared_frequencies(
            mesh.matrices(torch.from_numpy(force_constants.compact))
        )
        weights = torch.from_numpy(mesh.weights)[:, None]
        assert float(weights.sum()) == pytest.approx(1, rel=1e-14)
        moments.append([float((weights * squares**k).sum()) for k in (1, 2, 3)])
        assert int(mesh.is_gamma.sum()) == 1
    np.testing.assert_allclose(moments[0], moments[1], rtol=1e-9)


@pytest.mark.parametrize("q_point", Q_POINTS, ids=str)
def test_the_smallest_cell_has_the_frequencies_of_phonopy(phonon, q_point):
    """Every mode of the q-point, from a cell of as many primitive ones as it needs.

    Those of 1/4 and 1/6 do not fit the supercell that phonopy interpolates from: it is
    exact there because nothing reaches from an atom to its image.
    """
    primitive = phonon.primitive
    cell, positions, layout = wave_cell(
        primitive.positions, primitive.cell, primitive.masses, q_point
    )
    order = np.lcm.reduce([component.denominator for component in q_point])
    assert layout.order == order
    volumes = np.linalg.det(cell) / np.linalg.det(primitive.cell)
    assert abs(volumes) == pytest.approx(order, rel=1e-12)
    numbers = primitive.numbers[layout.primitive_index]
    masses = primitive.masses[layout.primitive_index]
    atoms = Atoms(numbers=numbers, positions=positions, cell=cell, pbc=True)
    full = hessian_of(atoms, true_potential())
    own = layout.representatives()
    waves = find_waves(layout, positions, cell, masses).first()
    found = squared_frequencies(waves.matrices(torch.from_numpy(full[own])))
    expected = squared_frequencies(torch.from_numpy(matrices_of(phonon, [q_point])))
    np.testing.assert_allclose(found, expected, atol=1e-10 * float(expected.max()))


def test_force_constants_come_back_from_their_matrices(phonon):
    force_constants, _ = from_phonopy(phonon)
    cell = phonon.supercell
    waves = find_waves(force_constants, cell.positions, cell.cell, cell.masses)
    compact = torch.from_numpy(force_constants.compact)
    found = waves.force_constants(waves.matrices(compact))
    np.testing.assert_allclose(found, compact, atol=1e-12 * float(compact.abs().max()))


def test_meshes_have_the_lengths_of_phonopy():
    cell = CRYSTALS["LiF"].cell.array
    # |a*| = 3^(1/2) / 4.9 Å
    assert mesh_numbers(cell, 20.0) == [7, 7, 7]
    assert mesh_numbers(cell, 0.1) == [1, 1, 1]


def measured(values, degeneracies=None, branches=None) -> MeasuredFrequencies:
    n = len(values)
    return MeasuredFrequencies(
        values=np.array(values, dtype=float),
        degeneracies=np.ones(n, int)
        if degeneracies is None
        else np.array(degeneracies),
        branches=None if branches is None else np.array(branches),
        weights=np.ones(n),
    )


def test_all_modes_are_assigned_in_their_order():
    modes = measured([9, 2, 5], [2, 2, 2]).assign(np.arange(6.0))
    assert modes.tolist() == [4, 5, 0, 1, 2, 3]


def test_some_modes_are_assigned_to_the_nearest_in_order():
    """Not each to its nearest: two measured modes are never the same one."""
    frequencies = np.array([3.0, 3.0, 7.0, 7.1, 12.0, 12.0])
    assert measured([7.4, 7.6]).assign(frequencies).tolist() == [2, 3]
    assert measured([12.5]).assign(frequencies).tolist() in ([4], [5])
    assert measured([11.0, 3.1], [1, 2]).assign(frequencies).tolist()[1:] == [0, 1]


def test_assignments_cost_least_of_all_in_order():
    rng = np.random.default_rng(5)
    for _ in range(50):
        n_modes = int(rng.integers(1, 8))
        n_values = int(rng.integers(1, n_modes + 1))
        frequencies = np.sort(rng.normal(size=n_modes))
        values = rng.normal(size=n_values)
        found = measured(values).assign(frequencies)
        assert (np.diff(found[np.argsort(values)]) > 0).all()
        cost = np.abs(frequencies[found] - values).sum()
        least = min(
            np.abs(frequencies[list(some)] - np.sort(values)).sum()
            for some in combinations(range(n_modes), n_values)
        )
        assert cost == pytest.approx(least, abs=1e-14)


def test_translations_are_no_modes_and_numbers_count_them():
    frequencies = np.array([0.0, 0.0, 0.0, 5.0, 5.0, 9.0])
    assert measured([0.2, 9.0]).assign(frequencies, 3).tolist() == [3, 5]
    numbered = measured([9.0, 5.0], [1, 2], [5, 3])
    assert numbered.assign(frequencies, 3).tolist() == [5, 3, 4]


def test_a_density_is_shared_by_the_trapezoidal_rule():
    points = np.array([0.0, 1.0, 3.0])
    density = MeasuredDensity(points, np.array([2.0, 2.0, 6.0]), mesh=None)
    # Areas 2 and 8; each end of an interval has half of its width.
    np.testing.assert_allclose(density.shares(), np.array([1.0, 3.0, 6.0]) / 10)
