"""What callbacks that add terms to the loss have in common: they register."""

from __future__ import annotations

from typing import ClassVar

import lightning
from lightning.pytorch.callbacks import Callback

from pft_lightning.errors import ConfigError
from pft_lightning.training.module import PhononFineTuning


class LossTerms(Callback):
    """Terms that the training step of ``PhononFineTuning`` computes.

    The step asks what stands in its ``targets`` for them, so that they are in one pass
    with all others, and that DDP reduces their gradient like any other.
    """

    # Of the module's targets, where the callback stands.
    slot: ClassVar[str]
    # Where else there is such a callback, for messages.
    elsewhere: ClassVar[str] = ""
    # What is refused with cuda_graphs=true; empty where that is repeated.
    not_repeated: ClassVar[str] = ""

    def setup(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Register with the module whose training step computes the terms.

        Raises:
            ConfigError: the module is another one, cannot compute them, or has a
                callback for them.
        """
        if not isinstance(pl_module, PhononFineTuning):
            raise ConfigError(
                f"{type(self).__name__} cannot add its terms to a "
                f"{type(pl_module).__name__}; use it with "
                f"pft_lightning.PhononFineTuning{self.elsewhere}."
            )
        if self.not_repeated and pl_module.replayed is not None:
            options = ", ".join(self.options_in_use())
            raise ConfigError(
                f"cuda_graphs=true does not repeat steps with {self.not_repeated}. "
                f"Leave it out, or set {options} to 0."
            )
        if getattr(pl_module.targets, self.slot) not in (None, self):
            raise ConfigError(
                f"Two {type(self).__name__} callbacks; a training step takes one."
            )
        setattr(pl_module.targets, self.slot, self)

    def teardown(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Leave the module as it was."""
        if isinstance(pl_module, PhononFineTuning):
            setattr(pl_module.targets, self.slot, None)

    def options_in_use(self) -> list[str]:
        """Weights of the terms that are above 0, as configurations name them."""
        return []
