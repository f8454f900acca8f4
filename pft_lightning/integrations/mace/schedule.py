"""What MACE changes between epochs: learning rate, stage two, patience."""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch

from pft_lightning.backends.mace.state import keep_global_state
from pft_lightning.errors import ConfigError
from pft_lightning.integrations.mace.prepare import default_dtype


with keep_global_state():
    from mace.tools.scripts_utils import LRScheduler, get_swa


# What a checkpoint brings back of optimiser and schedule, whatever the file says.
GOES_ON = tuple(
    f"mace.{name}"
    for name in (
        *("optimizer", "lr", "weight_decay", "amsgrad", "beta", "lr_params_factors"),
        *("scheduler", "lr_factor", "scheduler_patience", "lr_scheduler_gamma"),
    )
)


class EpochSchedule:
    """The decisions of MACE's training loop, epoch by epoch.

    Epochs are counted as MACE does: where ``patience`` runs out before stage two, it
    goes on with the epoch after the one where stage two would have begun.

    Args:
        arguments: completed options of MACE.
        network: in training.
        optimizer: whose learning rates are changed.
        loss: of stage one.
        dtype: of the network.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: torch.nn.Module,
        dtype: torch.dtype,
    ) -> None:
        self._last_epoch = arguments.max_num_epochs - 1
        self._patience = arguments.patience
        self._interval = arguments.eval_interval
        self._losses = [loss]
        self._schedulers: list[Any] = [LRScheduler(optimizer, arguments)]
        self._start_two: float = math.inf
        if arguments.swa:
            with default_dtype(dtype):
                stage_two, _ = get_swa(arguments, network, optimizer, [False])
            # Of the average of weights that comes with it MACE makes no use.
            self._losses.append(stage_two.loss_fn)
            self._schedulers.append(stage_two.scheduler)
            self._start_two = stage_two.start
        self._stage = 0
        self._skipped = 0
        self._started = -1
        self._lowest = math.inf
        self._without_progress = 0
        self._valid_loss = math.inf

    @property
    def loss(self) -> torch.nn.Module:
        """Of the frames, in the present stage."""
        return self._losses[self._stage]

    @property
    def validation_due(self) -> bool:
        """Whether the present epoch ends with a validation."""
        return (self._started + self._skipped) % self._interval == 0

    def start_epoch(self, epoch: int) -> bool:
        """Take the steps that are due before an epoch; nothing when asked again.

        Args:
            epoch: passes over the frames that are complete.

        Returns:
            Whether stage two begins here.
        """
        if epoch == self._started:
            return False
        self._started = epoch
        present = epoch + self._skipped
        begins = self._stage == 0 and present >= self._start_two
        if begins:
            self._stage, self._lowest = 1, math.inf
        if present > 0:
            if self._stage == 0:
                self._schedulers[0].step(metrics=self._valid_loss)
            else:
                self._schedulers[1].step()
        return begins

    def end_validation(self, valid_loss: float) -> bool:
        """Note the loss of the validation frames.

        Returns:
            Whether patience has run out in the last stage.
        """
        present = self._started + self._skipped
        self._valid_loss = valid_loss
        stop = False
        if valid_loss >= self._lowest:
            self._without_progress += 1
            if self._without_progress >= self._patience:
                if present < self._start_two < math.inf:
                    self._skipped += int(self._start_two) - present
                else:
                    stop = True
        else:
            self._lowest, self._without_progress = valid_loss, 0
        return stop

    @property
    def complete(self) -> bool:
        """Whether the present epoch is the last one, of which some were skipped.

        The trainer, which does not know of skipped epochs, would go on for longer.
        """
        return self._skipped > 0 and self._started + self._skipped >= self._last_epoch

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        counters = {
            name: getattr(self, f"_{name}")
            for name in ("stage", "skipped", "started", "lowest", "valid_loss")
        }
        counters["without_progress"] = self._without_progress
        return {
            "counters": counters,
            "schedulers": [_plain(s.state_dict()) for s in self._schedulers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a checkpoint stopped.

        Raises:
            ConfigError: it has no stage two, or this run has none.
        """
        for name, value in state["counters"].items():
            setattr(self, f"_{name}", value)
        if len(self._schedulers) != len(state["schedulers"]):
            raise ConfigError(
                "the run was started with stage two or without it, and is resumed the "
                "other way: MACE has no stage two where start_swa is not below "
                "max_num_epochs. Keep both, or start a new run."
            )
        for scheduler, stored in zip(
            self._schedulers, state["schedulers"], strict=True
        ):
            scheduler.load_state_dict(stored)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """Leave out functions, which a checkpoint of weights must not hold."""
    return {k: v for k, v in state.items() if not callable(v)}
