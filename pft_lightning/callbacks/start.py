"""What happens once, when a training starts."""

from __future__ import annotations

from collections.abc import Callable

import lightning
from lightning.pytorch.callbacks import Callback


class Start(Callback):
    """Do something before the first step, when a checkpoint was accepted.

    Args:
        does: what is done, once.
    """

    def __init__(self, does: Callable[[], None]) -> None:
        self._does = does
        self._has_happened = False

    def happens(self) -> None:
        """Do it, unless it was done."""
        if not self._has_happened:
            self._has_happened = True
            self._does()

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """The data and the checkpoint agree, or this would not be called."""
        self.happens()
