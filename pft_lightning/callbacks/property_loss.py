"""The terms of the loss on what follows from frequencies, as a Lightning callback."""

from __future__ import annotations

from collections.abc import Mapping

from torch_geometric.data import Batch

from pft_lightning.backends.base import EnergyModel
from pft_lightning.callbacks.spectral_loss import SpectralLoss
from pft_lightning.losses.properties import Property
from pft_lightning.training.spectra import ComparedSpectra, compare_spectra


class PropertyLoss(SpectralLoss):
    """Match frequencies, thermal properties and spectra with the force constants'.

    In a commensurate cell the properties are those of the q-points that need it. See
    ``SpectralLoss`` for the arguments and for what a step computes.
    """

    slot = "properties"
    options = "loss.phonon"
    prefix = "property_"

    def compare(
        self,
        model: EnergyModel,
        structure: Batch,
        weights: Mapping[Property, float],
        *,
        absolute: bool = False,
    ) -> ComparedSpectra | None:
        """See ``SpectralLoss.compare``; None where nothing vibrates."""
        errors = self._compared(absolute=absolute)
        return compare_spectra(model, structure, errors, weights, self._engine)
