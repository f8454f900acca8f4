"""Beside the crystals of different symmetry, which are those of the evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.data import atomic_masses

from pft_lightning.data.commensurate import fold_record, q_point_orders
from pft_lightning.data.records import StructureRecord
from pft_lightning.evaluation.force_constants import compute_force_constants
from pft_lightning.physics.dynamical_matrix import find_waves
from pft_lightning.physics.force_constants import from_phonopy


@pytest.fixture
def calculated(any_phonon, potential):
    """A crystal with the force constants of the potential, many of them unstable."""
    any_phonon.force_constants = compute_force_constants(potential, any_phonon).compact
    return any_phonon


def waves_of(phonon):
    force_constants, _ = from_phonopy(phonon)
    cell = phonon.supercell
    waves = find_waves(force_constants, cell.positions, cell.cell, cell.masses)
    return force_constants, waves


def q_points_of(waves, phonon) -> np.ndarray:
    """In units of the reciprocal vectors of phonopy's primitive cell."""
    if waves.q_points is None:
        return np.zeros((1, 3))
    return waves.q_points @ phonon.primitive.cell.T


def test_dynamical_matrices_are_those_of_phonopy(calculated):
    force_constants, waves = waves_of(calculated)
    found = waves.matrices(torch.from_numpy(force_constants.compact))
    for q, matrix in zip(q_points_of(waves, calculated), found, strict=True):
        calculated.dynamical_matrix.run(q)
        expected = calculated.dynamical_matrix.dynamical_matrix
        # Sums of the same float64 numbers, of up to 5 eV/Å²/AMU.
        np.testing.assert_allclose(matrix.numpy(), expected, rtol=0, atol=1e-12)


def test_all_commensurate_points_are_there_once(calculated):
    force_constants, waves = waves_of(calculated)
    n_cells = force_constants.n_atoms // force_constants.n_primitive
    assert float(waves.multiplicities.sum()) == n_cells
    assert int(waves.is_gamma.sum()) == 1
    q_points = q_points_of(waves, calculated)
    both = np.concatenate([q_points, -q_points[waves.multiplicities.numpy() == 2]])
    assert len(np.unique(np.round(both % 1, 6) % 1, axis=0)) == n_cells
    np.testing.assert_allclose(float(waves.weights.sum()), 1, rtol=1e-15)


def test_the_kernel_of_all_waves_is_the_inverse(calculated):
    force_constants, waves = waves_of(calculated)
    compact = torch.from_numpy(force_constants.compact)
    roots = waves.masses.sqrt().repeat_interleave(3)
    blocks = waves.matrices(compact) * (roots[:, None] * roots)
    # Sums of the same float64 numbers, of up to 100 eV/Å².
    np.testing.assert_allclose(waves.kernel(blocks), compact, rtol=0, atol=1e-11)


def record_of(phonon) -> StructureRecord:
    cell = phonon.supercell
    return StructureRecord(
        name="crystal",
        atomic_numbers=np.array(cell.numbers),
        positions=cell.positions,
        cell=np.array(cell.cell),
        pbc=np.ones(3, dtype=bool),
        force_constants=from_phonopy(phonon)[0],
    )


def test_commensurate_cells_have_the_frequencies_of_their_waves(calculated):
    """All cells together have those of the supercell, each as often."""
    record = record_of(calculated)
    masses = atomic_masses[record.atomic_numbers]
    whole = find_waves(record.force_constants, record.positions, record.cell, masses)

    def squares(waves, force_constants):
        matrices = waves.matrices(torch.from_numpy(force_constants.compact))
        repeats = waves.multiplicities.to(torch.int64)
        return torch.linalg.eigvalsh(matrices).repeat_interleave(repeats, dim=0)

    expected = squares(whole, record.force_constants)
    found = []
    for q_point in range(len(q_point_orders(record))):
        cell = fold_record(record, q_point)
        waves = find_waves(cell.force_constants, cell.positions, cell.cell, np.empty(0))
        # Every other q-point of the same order gives the same cell again.
        total = squares(waves, cell.force_constants).sum(dim=0)
        found.append(total / waves.multiplicities.sum())
    np.testing.assert_allclose(
        torch.stack(found).sum(dim=0), expected.sum(dim=0), rtol=1e-9, atol=1e-9
    )
