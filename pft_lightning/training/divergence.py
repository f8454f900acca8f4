"""Stop a training at the first number that is not finite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning
import torch

from pft_lightning import keys
from pft_lightning.errors import DivergenceError
from pft_lightning.losses.terms import mean_over_processes


_MOST = 24  # names that a message lists
_REMEDY = (
    "The training ends here: the last checkpoint is kept, no model is written. Look at "
    "the reference values of these structures, or lower optimizer.lr and start again "
    "from the base model."
)


class Divergence:
    """Looks at the loss and the gradient of every step, before the optimiser does.

    To read a number from a GPU the host would wait until it has computed the whole
    step. There the numbers are copied aside while the host goes on, and looked at with
    those of the next step, or before anything is made of the weights: a checkpoint, a
    validation, an end. The weights may follow a gradient that is not finite, but
    nothing that is kept does.

    Args:
        deferred: look at a step with the next one; None does so on a GPU alone.
    """

    def __init__(self, *, deferred: bool | None = None) -> None:
        self._deferred = deferred
        self._unseen: _Numbers | None = None

    def look(
        self,
        module: lightning.LightningModule,
        loss: torch.Tensor,
        batch: Mapping[str, Any],
    ) -> None:
        """Look at a step, or at the one before.

        Args:
            module: in training, after the gradients of all processes were averaged.
            loss: of this process.
            batch: of this process.

        Raises:
            DivergenceError: on all processes; names the step and the structures.
        """
        self.settle()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        largest = torch.nn.utils.get_total_norm(gradients, norm_type=float("inf"))
        loss = loss.detach()
        # A sum with NaN or infinity is neither finite: all processes stop at once.
        values = (mean_over_processes(loss), loss, largest.to(loss))
        self._unseen = _Numbers.of(torch.stack(values), _step(module), batch)
        on_gpu = loss.device.type == "cuda"
        if not (on_gpu if self._deferred is None else self._deferred):
            self.settle()

    def settle(self) -> None:
        """Look at what has not been looked at.

        Raises:
            DivergenceError: see ``look``. Again and again: the training is over.
        """
        if self._unseen is not None:
            self._unseen.check()
            self._unseen = None


class StopsAtDivergence(lightning.LightningModule):
    """A module whose training ends at the first number that is not finite.

    Attributes:
        divergence: who looks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.divergence = Divergence()
        self._batch: Mapping[str, Any] = {}
        self._step_loss = torch.zeros(())

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Remember the structures, for the message."""
        self._batch = batch

    def on_before_backward(self, loss: torch.Tensor) -> None:
        """Remember the loss; it is looked at with the gradient."""
        self._step_loss = loss.detach()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop at the first loss or gradient that is NaN or infinite.

        Raises:
            DivergenceError: on all processes.
        """
        self.divergence.look(self, self._step_loss, self._batch)

    def on_validation_start(self) -> None:
        """Stop before weights are validated that follow such a gradient.

        Raises:
            DivergenceError: on all processes.
        """
        self.divergence.settle()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stop before such weights are saved.

        Raises:
            DivergenceError: on all processes.
        """
        self.divergence.settle()

    def on_train_end(self) -> None:
        """Stop before such weights become a model.

        Raises:
            DivergenceError: on all processes.
        """
        self.divergence.settle()


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Of one step.

    Attributes:
        values: mean loss of all processes, own loss and largest gradient, on the host.
        copied: tells when they have got there; None if they have.
        step: which one it is.
        batch: of this process.
    """

    values: torch.Tensor
    copied: torch.cuda.Event | None
    step: str
    batch: Mapping[str, Any]

    @classmethod
    def of(cls, values: torch.Tensor, step: str, batch: Mapping[str, Any]) -> _Numbers:
        if values.device.type != "cuda":
            return cls(values, None, step, batch)
        host = torch.empty_like(values, device="cpu", pin_memory=True)
        host.copy_(values, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        return cls(host, copied, step, batch)

    def check(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()
        if bool(torch.isfinite(self.values).all()):
            return
        total, own, largest = self.values.tolist()
        if not _is_finite(total):
            where = "a batch of another process"
            if not _is_finite(own):
                where = _describe(self.batch)
            raise DivergenceError(
                f"the loss is {total} {self.step}, of {where}. {_REMEDY}"
            )
        raise DivergenceError(
            f"the gradient is {largest} {self.step}, of {_describe(self.batch)}. "
            f"{_REMEDY}"
        )


def _is_finite(number: float) -> bool:
    return abs(number) < float("inf")


def _describe(batch: Mapping[str, Any]) -> str:
    return " and ".join(
        f"{source} structures {_names(structures)}"
        for source, structures in batch.items()
    )


def _step(module: lightning.LightningModule) -> str:
    trainer = module.trainer
    return (
        f"after {trainer.global_step} steps, in batch {trainer.fit_loop.batch_idx} of "
        f"epoch {trainer.current_epoch}"
    )


def _names(structures: Any) -> str:
    names = [str(name) for name in structures.to_dict().get(keys.NAME, ())]
    names = [name for name in names if name != keys.PADDING]
    if not names:  # batches of MACE's own loader
        return f"({structures.num_graphs} of them)"
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return f"{', '.join(names[:_MOST])}{more}"
