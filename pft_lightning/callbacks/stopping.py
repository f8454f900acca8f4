"""SIGTERM in a training of several processes."""

from __future__ import annotations

import signal
import subprocess
import threading
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException


class StoppedTogether(SIGTERMException):
    """SIGTERM, raised between the same two steps in all processes."""


class StopTogether(Callback):
    """Let all processes of a training stop after the same step.

    A scheduler sends SIGTERM to every process, or to one. Lightning's handler then
    exchanges tensors in the middle of whatever the process computes, and the processes
    wait for each other for ever; this one takes a note, which the next step, or the
    end of a validation, compares.
    """

    def __init__(self) -> None:
        self._is_told = False

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Take the place of Lightning's handler, which it has just installed."""
        self._listen(trainer)

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """See ``on_train_start``."""
        self._listen(trainer)

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop before a step."""
        self._heed(trainer)

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Stop after a validation that is not one of a training, which goes on."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._heed(trainer)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """End the others where one is gone and this one is left alone."""
        if isinstance(exception, RuntimeError):
            processes = self._processes(trainer)
            for process in processes:
                process.kill()
            processes.clear()

    @staticmethod
    def _processes(trainer: lightning.Trainer) -> list[subprocess.Popen[Any]]:
        """Those that this one has launched.

        Lightning looks at them every five seconds, and kills this process where one has
        ended otherwise than with status 0. Taken out of the list, they let it finish.
        """
        found: list[subprocess.Popen[Any]] = getattr(
            trainer.strategy.launcher, "procs", []
        )
        return found

    def _listen(self, trainer: lightning.Trainer) -> None:
        # Lightning puts the handlers back that were there before.
        if (
            trainer.world_size > 1
            and threading.current_thread() is threading.main_thread()
        ):
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, signal_number: int, frame: FrameType | None) -> None:
        self._is_told = True

    def _heed(self, trainer: lightning.Trainer) -> None:
        if trainer.world_size == 1:
            return
        told = torch.tensor(float(self._is_told), device=trainer.strategy.root_device)
        if trainer.strategy.reduce(told, reduce_op="sum") > 0:
            self._processes(trainer).clear()
            raise StoppedTogether
