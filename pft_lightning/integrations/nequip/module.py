"""Training modules of NequIP whose step takes frames and phonons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from nequip.train import EMALightningModule, NequIPLightningModule

from pft_lightning import keys
from pft_lightning.errors import ConfigError
from pft_lightning.integrations.nequip.datamodule import (
    FRAMES,
    PHONONS,
    PhononNequIPDataModule,
)
from pft_lightning.integrations.nequip.options import build_options
from pft_lightning.integrations.nequip.term import NequIPHvpTerm


_STATE = "pft_lightning.hessian_term"


class PhononLightningModule(NequIPLightningModule):
    """``NequIPLightningModule`` with the Hessian term in its training step.

    The term, its draws and what is logged are those of the ``HessianLoss`` callback;
    the phonons come from the data module, which is a ``PhononNequIPDataModule`` or
    ``PhononASEDataModule``. What the term needs to continue is part of the module's
    checkpoint.

    For other training modules of NequIP, inherit from this class and from them.

    Args:
        hessian: Arguments of ``NequIPHvpTerm``; ``weight`` is required.
        **kwargs: Of the training module of NequIP.

    Raises:
        ConfigError: ``hessian`` has unknown options or values, or lacks ``weight``.
    """

    def __init__(self, *, hessian: Mapping[str, Any], **kwargs: Any) -> None:
        options = build_options(NequIPHvpTerm, hessian, name="training_module.hessian")
        term = NequIPHvpTerm(**options)
        super().__init__(**kwargs)
        self.hessian_term = term
        self._phonons: PhononNequIPDataModule | None = None

    def setup(self, stage: str) -> None:
        """Have the data module open its phonons for this network.

        Raises:
            ConfigError: It is a data module without phonons, or they hold elements
                that the model lacks.
            DataFormatError: A path is missing, or nothing in it could be read.
        """
        super().setup(stage)
        if stage not in ("fit", "validate"):
            return
        self.hessian_term.attach(self)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, PhononNequIPDataModule):
            self._phonons = data
            data.open_phonons(self.hessian_term, self.trainer, stage)
        elif stage == "fit":
            raise ConfigError(
                f"training_module._target_ is {type(self).__name__}, which takes "
                f"phonons, but data._target_ is {type(data).__name__}, which brings "
                "none. Use pft_lightning.integrations.nequip.PhononASEDataModule or "
                "PhononNequIPDataModule."
            )

    def teardown(self, stage: str) -> None:
        """Let go of the phonons."""
        super().teardown(stage)
        self.hessian_term.detach()
        self._phonons = None

    def on_fit_start(self) -> None:
        """Follow the network to its device."""
        super().on_fit_start()
        self.hessian_term.start(self.trainer, self)

    def training_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> torch.Tensor:
        """NequIP's loss of the frames, plus the Hessian term of the phonons."""
        loss: torch.Tensor = super().training_step(
            batch[FRAMES], batch_idx, dataloader_idx
        )
        term = self.hessian_term.compute(
            self.trainer, self, lambda _: batch[PHONONS][keys.PHONON]
        )
        return loss if term is None else loss + term

    def on_validation_start(self) -> None:
        """Follow the network to its device, where nothing is trained before."""
        super().on_validation_start()
        self.hessian_term.model.to(self.device)

    def on_validation_epoch_end(self) -> None:
        """Log the error of the validation phonons, over all processes."""
        super().on_validation_epoch_end()
        phonons = None if self._phonons is None else self._phonons.val_phonons
        if phonons is not None and not self.trainer.sanity_checking:
            self.hessian_term.validate(self.trainer, self, phonons)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the term needs to continue."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[_STATE] = self.hessian_term.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue the term where the checkpoint stopped.

        Raises:
            ConfigError: Batches or draws would not continue those of the checkpoint.
        """
        super().on_load_checkpoint(checkpoint)
        self.hessian_term.load_state_dict(checkpoint[_STATE])


class PhononEMALightningModule(PhononLightningModule, EMALightningModule):
    """``EMALightningModule`` with the Hessian term; see ``PhononLightningModule``."""
