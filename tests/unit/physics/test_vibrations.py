from __future__ import annotations

import numpy as np
import pytest
import torch

from pft_lightning.physics.dynamical_matrix import find_waves
from pft_lightning.physics.force_constants import from_phonopy
from pft_lightning.physics.vibrations import (
    SMOOTHING,
    Spectrum,
    positive_frequencies,
    signed_frequencies,
    squared_frequencies,
)
from tests.conftest import CRYSTALS, phonon_of, true_potential


TEMPERATURES = torch.tensor([20.0, 300.0, 1500.0], dtype=torch.float64)
POINTS = torch.linspace(-5, 20, 60, dtype=torch.float64)
ORDERS = torch.tensor([-1.0, 1.0, 2.0, 4.0], dtype=torch.float64)

PROPERTIES = {
    "free energy": lambda s: s.free_energy(TEMPERATURES),
    "entropy": lambda s: s.entropy(TEMPERATURES),
    "heat capacity": lambda s: s.heat_capacity(TEMPERATURES),
    "density of states": lambda s: s.density_of_states(POINTS, 0.5),
    "moments": lambda s: s.moments(ORDERS),
    "max frequency": lambda s: s.max_frequency(),
    "frequencies": lambda s: signed_frequencies(s.squares).flatten(),
}

# Squares of frequencies, THz²: those of symmetric crystals, of unstable ones, both.
SQUARES = {
    "degenerate": [0, 0, 0, 9.0, 25.0, 25.0],
    "imaginary": [-16.0, -1.0, 1e-4, 4.0, 9.0, 16.0],
    "degenerate, imaginary": [-9.0, -9.0, 0.0, 0.0, 16.0, 16.0],
}


@pytest.fixture(params=["cubic", "hexagonal"])
def stable(request, spring_phonon):
    """On the q-points that fit its supercell, with phonopy's thermal properties."""
    if request.param == "cubic":
        phonon, mesh = phonon_of(CRYSTALS["LiF"], true_potential()), [2, 2, 2]
    else:
        phonon, mesh = spring_phonon("hexagonal"), [2, 2, 1]
        phonon.produce_force_constants()
    phonon.run_mesh(mesh, is_gamma_center=True, is_mesh_symmetry=False)
    phonon.run_thermal_properties(
        temperatures=TEMPERATURES.numpy(), cutoff_frequency=1e-2
    )
    assert np.sort(phonon.mesh.frequencies.ravel())[3] > 1
    return phonon


def spectrum_of(phonon) -> Spectrum:
    force_constants, _ = from_phonopy(phonon)
    cell = phonon.supercell
    waves = find_waves(force_constants, cell.positions, cell.cell, cell.masses)
    matrices = waves.matrices(torch.from_numpy(force_constants.compact))
    return Spectrum.of(matrices, waves.weights, waves.is_gamma)


def test_thermal_properties_are_those_of_phonopy(stable):
    spectrum = spectrum_of(stable)
    _, *expected = stable.thermal_properties.thermal_properties
    names = ("free energy", "entropy", "heat capacity")
    for name, values in zip(names, expected, strict=True):
        found = PROPERTIES[name](spectrum)
        # Smoothing changes a frequency of 1 THz by w⁴ / 8 = 8e-7.
        np.testing.assert_allclose(found, values, rtol=2e-6, atol=2e-6, err_msg=name)


def test_spectra_are_those_of_phonopy(stable):
    spectrum = spectrum_of(stable)
    frequencies = stable.mesh.frequencies
    highest = float(spectrum.max_frequency())
    np.testing.assert_allclose(highest, frequencies.max(), rtol=1e-7)
    stable.run_total_dos(
        sigma=0.5, freq_min=2, freq_max=20, freq_pitch=0.5, use_tetrahedron_method=False
    )
    points = torch.from_numpy(stable.total_dos.frequency_points)
    # phonopy counts the translations too: they are more than five sigma below.
    far = points > 4
    found = spectrum.density_of_states(points, 0.5)[far]
    expected = stable.total_dos.dos[far.numpy()]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    counted = np.sort(frequencies.ravel())[3:]
    for order, moment in zip(ORDERS, spectrum.moments(ORDERS), strict=True):
        expected_moment = np.mean(counted ** float(order)) ** (1 / float(order))
        np.testing.assert_allclose(float(moment), expected_moment, rtol=1e-6)


def matrices_of(squares) -> torch.Tensor:
    """Two Hermitian matrices with these eigenvalues, in units of THz²."""
    rng = np.random.default_rng(4)
    shape = (2, 6, 6)
    random = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    basis, _ = np.linalg.qr(random)
    found = basis @ np.diag(np.array(squares, float)) @ basis.conj().swapaxes(1, 2)
    unit = float(squared_frequencies(torch.eye(1, dtype=torch.complex128)[None])[0, 0])
    return torch.from_numpy(found) / unit


@pytest.mark.parametrize("crystal", sorted(SQUARES))
@pytest.mark.parametrize("name", sorted(PROPERTIES))
def test_gradients_are_central_differences(name, crystal):
    """Along changes that keep the symmetry of degenerate modes, as of a potential."""
    matrices = matrices_of(SQUARES[crystal])
    direction = matrices @ matrices - 0.3 * matrices + 0.01 * torch.eye(6)
    compute = PROPERTIES[name]
    rng = torch.Generator().manual_seed(1)

    def value(of: torch.Tensor) -> torch.Tensor:
        spectrum = Spectrum.of(of, torch.tensor([0.3, 0.7]), torch.zeros(2).bool())
        found = compute(spectrum)
        factors = torch.rand(found.shape, generator=rng.manual_seed(1)) - 0.5
        return (found * factors).sum()

    leaf = matrices.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    assert torch.isfinite(torch.view_as_real(gradient)).all()
    along = float((gradient.conj() * direction).sum().real)
    step = 1e-6

    def difference(h: float) -> float:
        ends = value(matrices + h * direction), value(matrices - h * direction)
        return float(ends[0] - ends[1]) / (2 * h)

    # Two steps leave an error of the fourth order: those of second order matter where
    # a square passes through zero over a width of SMOOTHING².
    expected = (4 * difference(step / 2) - difference(step)) / 3
    assert along == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(
    "name", sorted(PROPERTIES.keys() - {"frequencies", "max frequency"})
)
def test_sums_have_a_gradient_along_what_splits_degenerate_modes(name):
    matrices = matrices_of(SQUARES["degenerate, imaginary"])
    rng = np.random.default_rng(2)
    random = rng.normal(size=(2, 6, 6)) + 1j * rng.normal(size=(2, 6, 6))
    direction = torch.from_numpy(random + random.conj().swapaxes(1, 2)) * 1e-3
    factors = torch.linspace(-1, 1, 60, dtype=torch.float64)

    def value(of: torch.Tensor) -> torch.Tensor:
        spectrum = Spectrum.of(of, torch.tensor([0.3, 0.7]), torch.zeros(2).bool())
        found = PROPERTIES[name](spectrum)
        return (found * factors[: len(found)]).sum()

    leaf = matrices.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    along = float((gradient.conj() * direction).sum().real)

    def difference(h: float) -> float:
        ends = value(matrices + h * direction), value(matrices - h * direction)
        return float(ends[0] - ends[1]) / (2 * h)

    expected = (4 * difference(5e-6) - difference(1e-5)) / 3
    assert along == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_frequencies_pass_smoothly_through_zero():
    squares = torch.linspace(-0.02, 0.02, 4001, dtype=torch.float64)
    slopes = torch.autograd.functional.jacobian(
        lambda s: signed_frequencies(s).sum(), squares
    )
    assert (slopes > 0).all()
    assert slopes.max() <= 1 / SMOOTHING * (1 + 1e-12)
    rising = positive_frequencies(squares)
    assert (rising > 0).all()
    assert (rising.diff() > 0).all()


def test_far_from_zero_they_are_square_roots():
    squares = torch.tensor([-400.0, -1.0, 1.0, 400.0], dtype=torch.float64)
    expected = squares.sign() * squares.abs().sqrt()
    # w⁴ / (4 ω⁴) for w of 0.05 THz and ω of 1 THz
    np.testing.assert_allclose(signed_frequencies(squares), expected, rtol=2e-6)
    np.testing.assert_allclose(
        positive_frequencies(squares)[2:], expected[2:], rtol=2e-6
    )
