"""Spectra of a potential beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from ase.data import atomic_masses
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.base import EnergyModel
from pft_lightning.losses.measured import measured_loss, spectrum_of
from pft_lightning.losses.properties import Property, PropertyErrors
from pft_lightning.physics.dynamical_matrix import find_waves
from pft_lightning.physics.measurement import MeasuredFrequencies
from pft_lightning.training.spectra import ComparedSpectra, differentiate_losses
from pft_lightning.types import Engine


def compare_measured(
    model: EnergyModel,
    structure: Batch,
    errors: PropertyErrors,
    weights: Mapping[Property, float],
    engine: Engine | None = None,
    *,
    weighted: bool = True,
) -> ComparedSpectra:
    """Compare a potential with what was measured of one structure.

    Args:
        model: The potential.
        structure: Neutral batch of one item of a measured source.
        errors: How values are compared.
        weights: Of the losses, by property; that of the structure is among them.
        engine: How products are differentiated; None is the faster way.
        weighted: Count errors by the weights of the values.
    """
    (layout,), (quantity,) = structure[keys.FORCE_CONSTANTS], structure[keys.QUANTITY]
    (measured,) = structure[keys.MEASURED_VALUES]
    numbers, positions, cell = (
        structure[name].cpu().numpy()
        for name in (keys.ATOMIC_NUMBERS, keys.POSITIONS, keys.CELL)
    )
    waves = find_waves(layout, positions, cell.reshape(3, 3), atomic_masses[numbers])
    if isinstance(measured, MeasuredFrequencies):
        waves = waves.first()

    def losses_of(matrices: torch.Tensor) -> dict[Property, torch.Tensor]:
        spectrum = spectrum_of(matrices, waves, measured)
        loss = measured_loss(quantity, measured, spectrum, errors, weighted=weighted)
        return {quantity: loss}

    return differentiate_losses(model, structure, waves, losses_of, weights, engine)
