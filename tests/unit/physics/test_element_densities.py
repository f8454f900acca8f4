from __future__ import annotations

import numpy as np
import pytest
import torch

from pft_lightning.physics.dynamical_matrix import find_waves
from pft_lightning.physics.element_densities import element_densities
from pft_lightning.physics.force_constants import from_phonopy
from pft_lightning.physics.vibrations import Spectrum
from tests.conftest import CRYSTALS, phonon_of, true_potential


POINTS = torch.linspace(-4, 20, 80, dtype=torch.float64)
ELEMENTS = torch.tensor([0, 1, 1])
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)


def hermitian(squares, seed: int = 4) -> torch.Tensor:
    """Two matrices of three atoms with these eigenvalues, THz²."""
    rng = np.random.default_rng(seed)
    random = rng.normal(size=(2, 9, 9)) + 1j * rng.normal(size=(2, 9, 9))
    basis, _ = np.linalg.qr(random)
    diagonal = np.diag(np.array(squares, float))
    return torch.from_numpy(basis @ diagonal @ basis.conj().swapaxes(1, 2)) / 244.4


def test_elements_of_a_crystal_have_the_shares_that_phonopy_gives_them():
    phonon = phonon_of(CRYSTALS["LiF"], true_potential())
    phonon.run_mesh(
        [2, 2, 2], is_gamma_center=True, is_mesh_symmetry=False, with_eigenvectors=True
    )
    phonon.run_projected_dos(
        sigma=0.5, freq_min=1, freq_max=20, freq_pitch=0.5, use_tetrahedron_method=False
    )
    constants, _ = from_phonopy(phonon)
    cell = phonon.supercell
    waves = find_waves(constants, cell.positions, cell.cell, cell.masses)
    matrices = waves.matrices(torch.from_numpy(constants.compact))
    points = torch.from_numpy(np.array(phonon.projected_dos.frequency_points))
    found = element_densities(
        matrices, waves.weights, torch.tensor([0, 1]), points, 0.5
    )
    expected = phonon.projected_dos.projected_dos
    assert expected.max() > 0.1
    # Smoothing changes a frequency of 1 THz by 8e-7, and a line by that over sigma.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_their_sum_is_the_density_of_all():
    matrices = hermitian([-4.0, 1.0, 1.0, 4.0, 9.0, 9.0, 9.0, 30.0, 100.0])
    found = element_densities(matrices, WEIGHTS, ELEMENTS, POINTS, 0.4)
    whole = Spectrum.of(matrices, WEIGHTS, torch.zeros(2).bool())
    expected = whole.density_of_states(POINTS, 0.4)
    np.testing.assert_allclose(found.sum(dim=0), expected, rtol=1e-10, atol=1e-12)
    # Two matrices of 9 modes each, but for the tails beyond the points.
    integral = float(found.sum() * (POINTS[1] - POINTS[0]))
    assert integral == pytest.approx(9, rel=1e-6)


@pytest.mark.parametrize(
    "squares",
    [
        [0, 0, 0, 9.0, 25.0, 25.0, 25.0, 36.0, 36.0],
        [-16.0, -1.0, -1.0, 1e-4, 4.0, 9.0, 16.0, 16.0 + 1e-8, 64.0],
        [9.0] * 9,
    ],
    ids=["degenerate", "imaginary", "all alike"],
)
def test_gradients_are_central_differences_along_anything(squares):
    """Also along what splits degenerate modes, where eigenvectors have no gradient."""
    matrices = hermitian(squares)
    direction = hermitian([3.0, -1.0, 2.0, 0.5, -2.0, 1.0, 0.1, -0.3, 1.5], seed=9)
    rng = torch.Generator().manual_seed(1)
    factors = torch.rand((2, len(POINTS)), generator=rng, dtype=torch.float64) - 0.5

    def value(of: torch.Tensor) -> torch.Tensor:
        found = element_densities(of, WEIGHTS, ELEMENTS, POINTS, 0.4)
        return (found * factors).sum()

    leaf = matrices.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    along = float((gradient.conj() * direction).sum().real)

    def difference(h: float) -> float:
        ends = value(matrices + h * direction), value(matrices - h * direction)
        return float(ends[0] - ends[1]) / (2 * h)

    # Two steps leave an error of the fourth order: those of second order matter where
    # a square passes through zero, over a width of 0.05² THz².
    expected = (4 * difference(1e-5) - difference(2e-5)) / 3
    assert abs(along) > 1e-2
    assert along == pytest.approx(expected, rel=1e-6)
