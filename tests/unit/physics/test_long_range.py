"""Dynamical matrices of polar crystals beside those of phonopy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from phonopy.structure.symmetry import symmetrize_borns_and_epsilon

from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.readers.phonopy import read_yaml
from pft_lightning.errors import ShapeError
from pft_lightning.physics.dynamical_matrix import find_waves
from pft_lightning.physics.force_constants import from_phonopy
from pft_lightning.physics.long_range import BornCharges
from pft_lightning.physics.vibrations import squared_frequencies


# Along axes, and along no axis; of any length and sign.
DIRECTIONS = [(1, 0, 0), (0, -3, 0), (0, 0, 0.1), (1, 1, 0), (0.3, -0.7, 1.9)]
REAL = ["MgO_pbe.yaml.xz", "ZnO_pbe.yaml.xz"]


def made_up_charges(phonon) -> BornCharges:
    """Tensors that have the symmetry of the crystal, and sum to zero."""
    rng = np.random.default_rng(8)
    n = len(phonon.primitive)
    skewed = rng.normal(size=(3, 3)) / 4
    charges, dielectric = symmetrize_borns_and_epsilon(
        2 * rng.normal(size=(n, 3, 3)) + np.eye(3) * np.arange(n)[:, None, None],
        3 * np.eye(3) + skewed + skewed.T,
        phonon.primitive,
    )
    return BornCharges(charges, dielectric)


def phonopy_matrix(phonon, q_point, direction=None) -> np.ndarray:
    along = {} if direction is None else {"q_direction": direction}
    phonon.dynamical_matrix.run(q_point, **along)
    return phonon.dynamical_matrix.dynamical_matrix.copy()


def check_all_q_points(phonon, born: BornCharges, method: str) -> None:
    # phonopy ends its sums over reciprocal vectors where a term is 1e-10 of the first:
    # its matrices then miss the force constants by up to 1e-4. Here it is 1e-25.
    cutoff = 1.5
    stiffness = float(np.trace(born.dielectric)) / 3
    phonon.nac_params = {
        "born": born.charges,
        "dielectric": born.dielectric,
        "factor": 14.39965172592227,
        "method": method,
        "G_cutoff": cutoff,
        "Lambda": cutoff * np.sqrt(stiffness / 4 / np.log(1e25)),
    }
    constants, _ = from_phonopy(phonon)
    phonon.force_constants = constants.compact  # symmetrised
    supercell, primitive = phonon.supercell, phonon.primitive
    waves = find_waves(constants, supercell.positions, supercell.cell, supercell.masses)
    found = waves.matrices(torch.from_numpy(constants.compact)).numpy()
    # A cell without translations has none but Γ.
    q_points = np.zeros((1, 3))
    if waves.q_points is not None:
        q_points = waves.q_points @ primitive.cell.T
    for q_point, matrix, is_gamma in zip(q_points, found, waves.is_gamma, strict=True):
        nearest = (q_point + 0.5) % 1 - 0.5
        # Waves that differ by a reciprocal vector differ within a cell.
        turned = np.exp(2j * np.pi * primitive.scaled_positions @ (q_point - nearest))
        turned = turned.repeat(3)
        expected = turned.conj()[:, None] * phonopy_matrix(phonon, nearest) * turned
        np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-10)
        for direction in DIRECTIONS if is_gamma else ():
            expected = phonopy_matrix(phonon, q_point, direction)
            added = born.matrix(direction, primitive.masses, primitive.cell)
            np.testing.assert_allclose(matrix + added, expected, rtol=0, atol=1e-10)
            assert len(primitive) == 1 or np.abs(added).max() > 1e-3


@pytest.mark.filterwarnings("ignore:Symmetry of Born:UserWarning")
@pytest.mark.parametrize("method", ["gonze", "wang"])
def test_matrices_of_polar_crystals_are_those_of_phonopy(any_spring_phonon, method):
    any_spring_phonon.produce_force_constants()
    born = made_up_charges(any_spring_phonon)
    check_all_q_points(any_spring_phonon, born, method)


@pytest.fixture(scope="module", params=REAL)
def real_phonon(request, shared_data):
    path = shared_data / "phonons" / "pbe" / request.param
    record = read_yaml(path, PhononReadOptions())
    return record.cells.to_phonopy(record.force_constants.compact)


@pytest.mark.parametrize("method", ["gonze", "wang"])
def test_matrices_of_real_crystals_are_those_of_phonopy(real_phonon, method):
    nac = real_phonon.nac_params
    # phonopy balances charges that do not sum to zero in its own way.
    born = BornCharges(nac["born"], nac["dielectric"]).neutral()
    check_all_q_points(real_phonon, born, method)


def test_only_modes_along_the_direction_rise(spring_phonon):
    """One longitudinal mode of the three of a cubic crystal, by 4π Z² / (Ω ε μ)."""
    phonon = spring_phonon("NaCl conventional")
    phonon.produce_force_constants()
    charge, dielectric = 1.1, 2.4
    born = BornCharges(
        np.array([charge, -charge])[:, None, None] * np.eye(3), dielectric * np.eye(3)
    )
    primitive = phonon.primitive
    plain = torch.from_numpy(phonopy_matrix(phonon, (0, 0, 0)))
    rises = []
    for direction in DIRECTIONS:
        added = born.matrix(direction, primitive.masses, primitive.cell)
        both = squared_frequencies(
            torch.stack([plain, plain + torch.from_numpy(added)])
        )
        rises.append((both[1] - both[0]).numpy())
    reduced = primitive.masses.prod() / primitive.masses.sum()
    # e²/4πε₀ is 14.39965 eV Å; THz² per eV/Å²/AMU are (15.633302)².
    rise = 4 * np.pi * 14.39965 * charge**2 / primitive.volume / dielectric / reduced
    expected = [0, 0, 0, 0, 0, rise * 15.633302**2]
    assert rise * 15.633302**2 > 5
    np.testing.assert_allclose(rises, [expected] * len(rises), rtol=1e-6, atol=1e-9)


def test_charges_lose_what_they_sum_to():
    charges = np.random.default_rng(1).normal(size=(3, 3, 3))
    found = BornCharges(charges, np.eye(3)).neutral()
    np.testing.assert_allclose(found.charges.sum(axis=0), 0, atol=1e-15)
    moved = charges - found.charges
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape))


def test_what_has_no_limit_is_refused():
    born = BornCharges(np.zeros((2, 3, 3)), np.diag([1.0, 2.0, -1.0]))
    masses, cell = np.ones(2), np.eye(3)
    born.matrix((1, 0, 0), masses, cell)
    for direction in ((0, 0, 0), (0, 0, 1), (np.nan, 0, 0)):
        with pytest.raises(ShapeError, match="of some length and a positive tensor"):
            born.matrix(direction, masses, cell)
    with pytest.raises(ShapeError, match=r"expected \(2,\)"):
        born.matrix((1, 0, 0), np.ones(3), cell)
    with pytest.raises(ShapeError, match=r"\(n_primitive, 3, 3\)"):
        BornCharges(np.zeros((2, 3)), np.eye(3))
