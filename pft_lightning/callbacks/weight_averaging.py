"""Exponential moving average of the weights, by Lightning's own callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import lightning
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from pydantic import Field
from torch.optim.swa_utils import AveragedModel

from pft_lightning.errors import ConfigError


# (average, current, number of earlier updates) -> average
_Average = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


class _TrainedAverage(AveragedModel):
    """Average of the parameters that are trained; the others are the module's own."""

    def __init__(self, module: lightning.LightningModule, average: _Average) -> None:
        super().__init__(module, device=module.device)
        self._average = average
        # ``n_averaged``, which is on the device, as far as the host has counted.
        self._n_averaged: int | None = None
        self.follow(module)

    def follow(self, module: lightning.LightningModule) -> None:
        """Go to the device of the module."""
        self.to(module.device)
        for averaged, current in zip(
            self.module.parameters(), module.parameters(), strict=True
        ):
            if not current.requires_grad:
                averaged.data = current.data

    @torch.no_grad()
    def update_parameters(self, model: torch.nn.Module) -> None:
        """Add the present weights to the average."""
        if self._n_averaged is None:
            self._n_averaged = int(self.n_averaged)
        for averaged, current in zip(
            self.module.parameters(), model.parameters(), strict=True
        ):
            if current.requires_grad:
                value = current.detach().to(averaged.device)
                if self._n_averaged > 0:
                    value = self._average(averaged, value, self._n_averaged)
                averaged.copy_(value)
        self.n_averaged += 1
        self._n_averaged += 1

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Count anew from what a checkpoint says."""
        super()._load_from_state_dict(*args, **kwargs)
        self._n_averaged = None


class RampedEMA(WeightAveraging):
    """Moving average whose decay ramps up as ``min(decay, (1 + t) / (10 + t))``.

    The ramp (arXiv:2601.07742; the rule of TensorFlow's ExponentialMovingAverage)
    lets the average leave the starting weights quickly. Validation during training,
    best checkpoints and the final model use the averaged weights.

    Args:
        decay: Upper limit of the decay, in [0, 1).
    """

    def __init__(self, decay: Annotated[float, Field(ge=0, lt=1)] = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"ema decay is {decay}; expected 0 <= decay < 1.")

        def average(
            averaged: torch.Tensor, current: torch.Tensor, n_averaged: int
        ) -> torch.Tensor:
            ramp = (1 + n_averaged) / (10 + n_averaged)
            return torch.lerp(current, averaged, min(decay, ramp))

        # Buffers are constants of the potential (element tables, scales): averaging
        # integers would fail, averaging equal floats can only add rounding.
        super().__init__(use_buffers=False)
        self._average = average

    def setup(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Start the average where training starts."""
        if stage == "fit":
            self._average_model = _TrainedAverage(pl_module, self._average)

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Average on the GPU that trains; the module was elsewhere at its setup."""
        assert isinstance(self._average_model, _TrainedAverage)
        self._average_model.follow(pl_module)

    def on_fit_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Give the module the average, also where a resumed run had no step left."""
        self._copy_average_to_current(pl_module)

    # Lightning keeps the average after training and would swap it in for any later
    # `trainer.validate`, whatever weights the module was given since.

    def on_validation_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Validate the average while training; else the module as it is."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Undo the swap of ``on_validation_epoch_start``."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_end(trainer, pl_module)
