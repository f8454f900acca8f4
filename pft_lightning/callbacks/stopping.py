"""SIGTERM in a training of several processes."""

from __future__ import annotations

import subprocess
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException


class StoppedTogether(SIGTERMException):
    """SIGTERM, raised between the same two steps in all processes."""


class StopTogether(Callback):
    """Let all processes of a training stop after the same step.

    A scheduler sends SIGTERM to every process, or to one. Lightning's handler then
    exchanges tensors in the middle of whatever the process computes, and the processes
    wait for each other for ever; this one takes a note, which is compared before the
    next step, and by ``heed``.
    """

    def __init__(self) -> None:
        self._is_told = False

    def setup(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Take the place of Lightning's handler, which is about to be installed."""
        if trainer.world_size > 1:
            # Put there later, it would miss a signal while loaders are built.
            connector: Any = trainer._signal_connector
            connector._sigterm_notifier_fn = self._note

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop before a step."""
        self.heed(trainer)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """End the others where one is gone, or this one is told before all can be."""
        if isinstance(exception, (RuntimeError, SystemExit)):
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

    def _note(self, signal_number: int, frame: FrameType | None) -> None:
        self._is_told = True

    def heed(self, trainer: lightning.Trainer) -> None:
        """Stop all processes if one of them was told to; all have to call it.

        Args:
            trainer: of the callback.

        Raises:
            StoppedTogether: one of several processes has had SIGTERM.
        """
        # Where processes are forked, the first one trains nothing itself.
        if trainer.world_size == 1 or not torch.distributed.is_initialized():
            return
        told = torch.tensor(float(self._is_told), device=trainer.strategy.root_device)
        torch.distributed.all_reduce(told)
        if told > 0:
            self._processes(trainer).clear()
            raise StoppedTogether
