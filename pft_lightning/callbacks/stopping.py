"""Ctrl-C in a training, and SIGTERM in one of several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException


class StoppedTogether(SIGTERMException):
    """SIGTERM, raised between the same two steps in all processes."""

    number = signal.SIGTERM

    def __init__(self) -> None:
        # The exit status of a script that does not catch it.
        super().__init__(128 + self.number)


class InterruptedTogether(StoppedTogether):
    """Ctrl-C, raised as SIGTERM is."""

    number = signal.SIGINT


_INTERRUPTED = (
    b"\ninterrupted: the training ends after this step, or validation; Ctrl-C again "
    b"ends it at once.\n"
)


class StopTogether(Callback):
    """Let all processes of a training stop after the same step.

    A scheduler sends SIGTERM to every process, or to one. Lightning's handler then
    exchanges tensors in the middle of whatever the process computes, and the processes
    wait for each other for ever; this one takes a note, which is compared before the
    next step, and by ``heed``.

    So is the first Ctrl-C from the first step to the last, of one process too: an
    exception in the middle of a step leaves nothing that could be saved. The second
    one is Python's own.
    """

    def __init__(self) -> None:
        self._is_told = False
        self._is_interrupted = False
        self._is_first = True
        self._before: Callable[[int, FrameType | None], Any] | None = None

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

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Take note of Ctrl-C, unless it is ignored, as a shell's jobs may do."""
        self._is_first = trainer.is_global_zero
        before = signal.getsignal(signal.SIGINT)
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and callable(before):
            self._before = before
            signal.signal(signal.SIGINT, self._note_interrupt)

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Leave Ctrl-C as it was: what follows is soon repeated."""
        self._release()

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
        self._release()
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

    def _note_interrupt(self, signal_number: int, frame: FrameType | None) -> None:
        self._is_interrupted = True
        self._release()
        if self._is_first:
            # What is printed to may be in the middle of another text.
            os.write(2, _INTERRUPTED)

    def _release(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def heed(self, trainer: lightning.Trainer) -> None:
        """Stop all processes if one of them was told to; all have to call it.

        Args:
            trainer: of the callback.

        Raises:
            StoppedTogether: one of several processes has had SIGTERM.
            InterruptedTogether: one of them, or the only one, has had Ctrl-C.
        """
        if trainer.world_size == 1:  # SIGTERM is Lightning's
            if self._is_interrupted:
                raise InterruptedTogether
            return
        # Where processes are forked, the first one trains nothing itself.
        if not torch.distributed.is_initialized():
            return
        told = torch.tensor(
            [float(self._is_told), float(self._is_interrupted)],
            device=trainer.strategy.root_device,
        )
        torch.distributed.all_reduce(told)
        is_told, is_interrupted = (told > 0).tolist()
        if is_told or is_interrupted:
            self._processes(trainer).clear()
            raise StoppedTogether if is_told else InterruptedTogether
