"""Losses on what was measured of the modes of a crystal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pft_lightning.losses.properties import Property, PropertyErrors
from pft_lightning.losses.terms import row_residuals
from pft_lightning.physics.dynamical_matrix import Waves
from pft_lightning.physics.measurement import (
    MeasuredCurve,
    MeasuredDensity,
    MeasuredFrequencies,
    Measurement,
)
from pft_lightning.physics.vibrations import Spectrum, squared_frequencies


def measured_loss(
    quantity: Property,
    measured: Measurement,
    spectrum: Spectrum,
    errors: PropertyErrors,
    *,
    weighted: bool = True,
) -> torch.Tensor:
    """Compare a potential with what was measured.

    Args:
        quantity: what that is.
        measured: the values.
        spectrum: of the potential: at the one q-point of frequencies, else on the mesh.
        errors: the kind of the loss, and the smearing of densities of states.
        weighted: count errors by the weights of the values.

    Returns:
        Scalar, a mean over the measured modes or temperatures: THz, J/K/mol or kJ/mol
        of primitive cells; ``dos``: as of ``PropertyErrors``.
    """
    if isinstance(measured, MeasuredDensity):
        return errors.loss("dos", spectrum, to_spectrum(measured, spectrum))
    differences, weights = measured_differences(quantity, measured, spectrum)
    per_value = row_residuals(differences[:, None], errors.kind, errors.huber_delta)
    if weighted:
        power = 2 if errors.kind == "mse" else 1
        per_value = per_value * torch.from_numpy(weights**power)
    return per_value.mean()


def measured_differences(
    quantity: Property,
    measured: MeasuredFrequencies | MeasuredCurve,
    spectrum: Spectrum,
) -> tuple[torch.Tensor, np.ndarray]:
    """Differences, potential less measured, (n,), and the weights (n,) of each.

    One for each measured mode, or temperature.
    """
    if isinstance(measured, MeasuredCurve):
        temperatures = torch.from_numpy(measured.temperatures)
        found: torch.Tensor = getattr(spectrum, quantity)(temperatures)
        return found - torch.from_numpy(measured.values), measured.weights
    frequencies = spectrum.frequencies()[0]
    modes = measured_modes(measured, spectrum)
    values = measured.expanded()
    expected = torch.from_numpy(measured.values[values])
    return frequencies[torch.from_numpy(modes)] - expected, measured.weights[values]


def measured_modes(measured: MeasuredFrequencies, spectrum: Spectrum) -> np.ndarray:
    """Say which modes of a potential are the measured ones.

    Args:
        measured: frequencies.
        spectrum: of the potential at their q-point.

    Returns:
        (n_modes,), int64, columns of the spectrum; see ``assign``.
    """
    n_translations = int((spectrum.weights[0] == 0).sum())
    return measured.assign(spectrum.frequencies()[0].detach().numpy(), n_translations)


def spectrum_of(
    matrices: torch.Tensor, waves: Waves, measured: Measurement
) -> Spectrum:
    """The modes that a measurement is compared with.

    Args:
        matrices: (n_q, 3n, 3n), eV/Å²/AMU, of ``waves``.
        waves: of the q-point of frequencies, or all of a supercell.
        measured: the values.
    """
    if isinstance(measured, MeasuredFrequencies):
        if measured.added is not None:
            # A constant: gradients are those of the potential's own matrix.
            matrices = matrices + torch.from_numpy(measured.added)
        if measured.blocks is not None:
            return _spectrum_of_blocks(matrices, measured.blocks)
        return Spectrum.of(matrices, waves.weights, waves.is_gamma)
    mesh = measured.mesh
    dense = mesh.matrices(waves.force_constants(matrices))
    return Spectrum.of(dense, torch.from_numpy(mesh.weights), mesh.is_gamma)


def _spectrum_of_blocks(
    matrices: torch.Tensor, blocks: Sequence[np.ndarray]
) -> Spectrum:
    """Modes of each representation, ascending in each.

    Args:
        matrices: (1, 3n, 3n), eV/Å²/AMU, at Γ.
        blocks: bases (3n, n_modes).
    """
    squares = []
    for block in blocks:
        basis = torch.from_numpy(block).to(matrices)
        squares.append(squared_frequencies(basis.mH @ matrices @ basis))
    found = torch.cat(squares, dim=1)
    return Spectrum(found, torch.ones_like(found))


def to_spectrum(measured: MeasuredDensity, model: Spectrum) -> Spectrum:
    """A spectrum with a mode at each point of a density of states.

    Args:
        measured: the density.
        model: of the potential, whose modes count as much as those of the density.
    """
    points = torch.from_numpy(measured.points)[None]
    shares = torch.from_numpy(measured.shares())[None]
    return Spectrum(points * points.abs(), shares * model.weights.sum())
