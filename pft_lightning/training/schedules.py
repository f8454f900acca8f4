"""Schedules of the learning rate."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from pft_lightning.option_types import AtLeastZero, Given, Natural


class Cosine(LRScheduler):
    """The learning rate falls to the end as a cosine, after a rise if one is asked for.

    With base rate ``a``, at step ``t``: ``a (t + 1) / n_warmup`` before ``n_warmup``,
    then ``eta_min + (a - eta_min) (1 + cos(π s)) / 2`` with ``s = (t - n_warmup) /
    (T_max - n_warmup)``, and ``eta_min`` after ``T_max``. A run that is resumed with
    more steps goes on at the rate that the longer cosine has there.

    Args:
        optimizer: Whose rate it is.
        T_max: Steps until eta_min.
        eta_min: The last learning rate.
        n_warmup: Steps over which the rate rises. The first steps of Adam move every
            weight by the whole rate, wherever the gradient of a few structures points.

    Raises:
        ValueError: There is no length, or it is not longer than the rise.

    Source: ``torch.optim.lr_scheduler.CosineAnnealingLR``, whose steps depend on those
    before them, and which rises again after its end.
    """

    def __init__(
        self,
        optimizer: Annotated[torch.optim.Optimizer, Given],
        T_max: int,
        eta_min: AtLeastZero = 1e-6,
        n_warmup: Natural = 0,
    ) -> None:
        if T_max < 1:
            raise ValueError(
                f"T_max is {T_max}; a cosine needs to know its length. Set "
                "trainer.max_steps or scheduler.T_max"
            )
        if n_warmup >= T_max:
            raise ValueError(
                f"n_warmup is {n_warmup} of {T_max} steps. Let the rate rise over "
                "a part of them"
            )
        self._schedule = {"T_max": T_max, "eta_min": eta_min, "n_warmup": n_warmup}
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Rates of the parameter groups at this step."""
        step, n_warmup = self.last_epoch, self._schedule["n_warmup"]
        if step < n_warmup:
            return [rate * (step + 1) / n_warmup for rate in self.base_lrs]
        share = (step - n_warmup) / (self._schedule["T_max"] - n_warmup)
        height = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        last = self._schedule["eta_min"]
        return [last + (rate - last) * height for rate in self.base_lrs]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the step of a checkpoint, by the schedule of this run."""
        super().load_state_dict({**state_dict, "_schedule": self._schedule})
        # The optimiser was loaded before, with the rate of the checkpoint's schedule.
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate
