"""Callbacks that the subprocesses of the integration tests load."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import lightning
import torch
from lightning.pytorch.callbacks import Callback


class CaptureGradients(Callback):
    """Write the loss and the gradient of every step, as the optimizer sees them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.steps: list[dict] = []
        self._loss = torch.tensor(0.0)

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        self._loss = loss.detach().clone()

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        loss = trainer.strategy.reduce(self._loss, reduce_op="mean")
        gradients = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in pl_module.named_parameters()
        }
        self.steps.append({"loss": loss, "gradients": gradients})

    def on_train_end(self, trainer: lightning.Trainer, pl_module) -> None:
        if trainer.is_global_zero:
            torch.save(self.steps, self.path)


class LittleMemory(Callback):
    """The last process has no memory for more than one structure in a batch."""

    def setup(self, trainer, pl_module, stage) -> None:
        if trainer.global_rank < trainer.world_size - 1:
            return
        derivatives = pl_module.model.derivatives

        def limited(batch, **options):
            if pl_module.training and batch.num_graphs > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return derivatives(batch, **options)

        pl_module.model.derivatives = limited


class KillInValidation(Callback):
    """Send the process a signal once, in the validation after a given step."""

    def __init__(self, step: int, name: str = "SIGKILL") -> None:
        self.step = step
        self.signal = signal.Signals[name]
        self._is_due = True

    def on_validation_batch_start(self, trainer, *_) -> None:
        if trainer.global_step == self.step and self._is_due:
            self._is_due = False
            os.kill(os.getpid(), self.signal)


class SignalInStep(Callback):
    """Send processes a signal in the middle of a step, as a cluster does.

    Args:
        step: that is the last one; 0 is before the first.
        ranks: of the processes that are told.
        times: how often; launchers hand on what their processes get, too.
        name: of the signal.
    """

    def __init__(
        self,
        step: int,
        ranks: Sequence[int] = (0,),
        times: int = 1,
        name: str = "SIGTERM",
    ) -> None:
        self.step, self.ranks, self.times = step, ranks, times
        self.signal = signal.Signals[name]

    def on_train_start(self, trainer, pl_module) -> None:
        if self.step == 0:
            self._tell(trainer)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_step == self.step - 1:
            self._tell(trainer)

    def _tell(self, trainer) -> None:
        if trainer.global_rank in self.ranks:
            for _ in range(self.times):
                os.kill(os.getpid(), self.signal)


class SpoilStep(Callback):
    """Make the reference energies, or the gradient, of a step infinite."""

    def __init__(self, step: int, what: str) -> None:
        self.step = step
        self.what = what

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step and self.what == "energy":
            for structures in batch.values():
                structures.energy += float("inf")

    def on_after_backward(self, trainer, pl_module) -> None:
        if trainer.global_step == self.step and self.what == "gradient":
            next(p for p in pl_module.parameters() if p.grad is not None).grad += float(
                "nan"
            )
