"""The Hessian term of the loss, as a Lightning callback."""

from __future__ import annotations

import lightning
from torch_geometric.data import Batch

from pft_lightning.callbacks.loss_terms import LossTerms
from pft_lightning.data.datamodule import PhononDataModule
from pft_lightning.errors import ConfigError
from pft_lightning.losses import HvpTarget
from pft_lightning.training.hessian import ProbeSchedule, refuse_closures
from pft_lightning.training.module import PhononFineTuning


class HessianLoss(ProbeSchedule, LossTerms):
    """Match Hessian-vector products with the reference force constants.

    The callback owns the probe, the weight with its schedule, and how often the
    term is due. The term is computed inside the training step of
    ``PhononFineTuning``, in the same pass as forces and stress, so that DDP
    reduces its gradient like any other.

    Arguments are those of ``training.hessian.ProbeSchedule``.
    """

    slot = "hessian"
    elsewhere = (
        ", and with nequip-train use pft_lightning.integrations.nequip.HessianLoss"
    )

    def setup(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Register, and let the data draw cells with the probe.

        Raises:
            ConfigError: see ``LossTerms``, or a phonon step would have no loss.
        """
        super().setup(trainer, pl_module, stage)
        assert isinstance(pl_module, PhononFineTuning)
        targets = pl_module.targets
        data = getattr(trainer, "datamodule", None)
        # In each joint step measured values have a loss.
        joint = isinstance(data, PhononDataModule) and data.mode == "joint"
        others = (
            pl_module.losses["phonon"].weights
            or targets.third_order
            or targets.properties
            or (joint and targets.measured)
        )
        if not others and (self.every_n_phonon_steps > 1 or self.weight == 0):
            raise ConfigError(
                "Some phonon steps would have no loss at all: every loss.phonon.* "
                "weight is 0 and the Hessian term has weight "
                f"{self.weight}, every_n_phonon_steps={self.every_n_phonon_steps}."
            )
        if isinstance(data, PhononDataModule):
            data.use_draws(self.draws)

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Refuse optimisers that the term does not suit."""
        refuse_closures(trainer)

    def request(self, batch: Batch, step: int) -> HvpTarget | None:
        """Draw tangents and their targets for one phonon batch.

        Args:
            batch: Neutral batch with force constants.
            step: Optimiser steps taken so far.

        Returns:
            None where the term is not due.
        """
        return self._draw(batch, step) if self._count_step() else None
