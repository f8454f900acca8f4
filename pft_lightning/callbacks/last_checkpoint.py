"""The checkpoint that a run is resumed from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint

from pft_lightning.errors import ConfigError


class LastCheckpoint(Checkpoint):
    """Write the state of training every n steps, and after the final one.

    Lightning's ``ModelCheckpoint`` leaves the steps after its last multiple of n
    unsaved, or, at the end of training, saves weights that the moving average has
    already replaced; from neither can a finished run be continued exactly.

    Args:
        path: File to write; always the same one.
        every_n_steps: Optimiser steps that a killed run loses at most.
    """

    def __init__(self, path: str | Path, every_n_steps: int = 100) -> None:
        if every_n_steps < 1:
            raise ConfigError(f"every_n_steps is {every_n_steps}; at least 1.")
        self.path = Path(path)
        self.every_n_steps = every_n_steps
        self._saved_step = 0

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save where it is due, once per optimiser step."""
        step = trainer.global_step
        final = step == trainer.max_steps or (
            trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        )
        if step != self._saved_step and (final or step % self.every_n_steps == 0):
            self._saved_step = step
            trainer.save_checkpoint(self.path, weights_only=False)
