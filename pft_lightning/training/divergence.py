"""Stop a training at the first number that is not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning
import torch

from pft_lightning import keys
from pft_lightning.errors import DivergenceError


_MOST = 24  # names that a message lists


def check_loss(
    module: lightning.LightningModule, loss: torch.Tensor, batch: Mapping[str, Any]
) -> None:
    """Stop all processes where the loss of one is NaN or infinite.

    Args:
        module: in training.
        loss: of this process.
        batch: of this process.

    Raises:
        DivergenceError: names the step and the structures.
    """
    # A sum with NaN or infinity is neither finite: all processes stop at once.
    total = module.trainer.strategy.reduce(loss.detach().clone(), reduce_op="mean")
    if bool(torch.isfinite(total)):
        return
    own = not bool(torch.isfinite(loss))
    where = _describe(batch) if own else "a batch of another process"
    raise DivergenceError(
        f"the loss is {float(total)} {_step(module)}, of {where}. {_REMEDY}"
    )


def check_gradients(
    module: lightning.LightningModule, batch: Mapping[str, Any]
) -> None:
    """Stop before the weights follow a gradient that is NaN or infinite.

    Args:
        module: in training, after the gradients of all processes were averaged.
        batch: of this process.

    Raises:
        DivergenceError: names the step and the structures.
    """
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    largest = torch.nn.utils.get_total_norm(gradients, norm_type=float("inf"))
    if bool(torch.isfinite(largest)):
        return
    raise DivergenceError(
        f"the gradient is {float(largest)} {_step(module)}, of {_describe(batch)}. "
        f"{_REMEDY}"
    )


def _describe(batch: Mapping[str, Any]) -> str:
    return " and ".join(
        f"{source} structures {_names(structures)}"
        for source, structures in batch.items()
    )


_REMEDY = (
    "The training ends here: the last checkpoint is kept, no model is written. Look at "
    "the reference values of these structures, or lower optimizer.lr and start again "
    "from the base model."
)


def _step(module: lightning.LightningModule) -> str:
    trainer = module.trainer
    return (
        f"after {trainer.global_step} steps, in batch {trainer.fit_loop.batch_idx} of "
        f"epoch {trainer.current_epoch}"
    )


def _names(structures: Any) -> str:
    names = [str(name) for name in structures.to_dict().get(keys.NAME, ())]
    if not names:  # batches of MACE's own loader
        return f"({structures.num_graphs} of them)"
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return f"{', '.join(names[:_MOST])}{more}"
