"""The terms of the loss on measured values, as a Lightning callback."""

from __future__ import annotations

from collections.abc import Mapping

import lightning
from torch_geometric.data import Batch

from pft_lightning.backends.base import EnergyModel
from pft_lightning.callbacks.spectral_loss import SpectralLoss
from pft_lightning.data.datamodule import PhononDataModule
from pft_lightning.losses.properties import Property
from pft_lightning.training.measured import compare_measured
from pft_lightning.training.spectra import ComparedSpectra


class MeasuredLoss(SpectralLoss):
    """Match frequencies, thermal properties and spectra with what was measured.

    The batches are those of ``data.measured``: each of its items is one quantity of a
    crystal. What has no weight is left out of them. See ``SpectralLoss`` for the
    arguments and for what a step computes.
    """

    slot = "measured"
    options = "loss.measured"
    prefix = ""

    def setup(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Register, and leave items without a weight out of the data."""
        super().setup(trainer, pl_module, stage)
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, PhononDataModule):
            data.use_measured(self.weights)

    def compare(
        self,
        model: EnergyModel,
        structure: Batch,
        weights: Mapping[Property, float],
        *,
        absolute: bool = False,
    ) -> ComparedSpectra | None:
        """See ``SpectralLoss.compare``; absolute errors are not weighted."""
        return compare_measured(
            model,
            structure,
            self._compared(absolute=absolute),
            weights,
            self._engine,
            weighted=not absolute,
        )
