"""The moving average of weights as ``mace_run_train`` takes it."""

from __future__ import annotations

import lightning

from pft_lightning.callbacks.weight_averaging import RampedEMA


class MACEAverage(RampedEMA):
    """Moving average that starts from the initial weights, as torch_ema's does.

    The ramp is the same; ``RampedEMA`` forgets the initial weights at its first
    update.
    """

    def setup(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Count the initial weights as the first ones."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            assert self._average_model is not None
            self._average_model.n_averaged.fill_(1)
