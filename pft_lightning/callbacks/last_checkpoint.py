"""The checkpoint that a run is resumed from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.exceptions import SIGTERMException
from pydantic import Field

from pft_lightning.callbacks.stopping import StoppedTogether
from pft_lightning.errors import ConfigError
from pft_lightning.option_types import As, Unit
from pft_lightning.option_types import Path as FilePath


class LastCheckpoint(Checkpoint):
    """Write the state of training every n steps, and after ``max_steps`` or epochs.

    A validation due at a step comes before the checkpoint of that step: a run killed
    during it starts before it and repeats it, so that what depends on validations
    (the best checkpoint, a plateau schedule, early stopping) is not lost.

    Lightning's ``ModelCheckpoint`` leaves the steps after its last multiple of n
    unsaved, or, at the end of training, saves weights that the moving average has
    already replaced; from neither can a finished run be continued exactly.

    Args:
        path: File to write; always the same one.
        every_n_steps: Optimiser steps that a killed run loses at most.
    """

    def __init__(
        self,
        path: Annotated[str | Path, As(FilePath)],
        every_n_steps: Annotated[int, Field(ge=1), Unit("steps")] = 100,
    ) -> None:
        if every_n_steps < 1:
            raise ConfigError(f"every_n_steps is {every_n_steps}; at least 1.")
        self.path = Path(path)
        self.every_n_steps = every_n_steps
        self._saved_step = 0

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save after all that the previous step has caused."""
        _count_batches(trainer)
        if trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save after the last step, while the weights are not yet the average."""
        if trainer.global_step == trainer.max_steps or (
            trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        ):
            self._save(trainer)

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Save again if the last epoch ended with a validation, which is known now."""
        if trainer.global_step == self._saved_step and trainer.is_last_batch:
            self._saved_step = 0
            self._save(trainer)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Save when SIGTERM or Ctrl-C ends a training between two steps.

        Of several processes all are to get here, since none could save alone; in a
        validation the weights are the average.
        """
        if trainer.state.stage != RunningStage.TRAINING:
            return
        if isinstance(exception, StoppedTogether):
            _count_batches(trainer)
            self._save(trainer)
        elif (
            isinstance(exception, SIGTERMException)
            and trainer.world_size == 1
            and not trainer.is_last_batch
        ):
            self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        weights = trainer.lightning_module.parameters()
        if not all(bool(torch.isfinite(weight).all()) for weight in weights):
            return  # The checkpoint before is the last good one.
        if trainer.global_step != self._saved_step:
            self._saved_step = trainer.global_step
            trainer.save_checkpoint(self.path, weights_only=False)


def _count_batches(trainer: lightning.Trainer) -> None:
    # A checkpoint before a step has counted a batch as ready that a resumed run takes
    # again; Lightning would then validate every n batches one batch too early.
    total = trainer.fit_loop.epoch_loop.batch_progress.total
    total.ready = total.completed + 1
