"""Phonon fine-tuning inside ``nequip-train``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pft_lightning.integrations.nequip.hessian_loss import HessianLoss


if TYPE_CHECKING:
    from pft_lightning.integrations.nequip.datamodule import (
        PhononASEDataModule,
        PhononNequIPDataModule,
    )
    from pft_lightning.integrations.nequip.module import (
        PhononEMALightningModule,
        PhononLightningModule,
    )


__all__ = [
    "HessianLoss",
    "PhononASEDataModule",
    "PhononEMALightningModule",
    "PhononLightningModule",
    "PhononNequIPDataModule",
]

# Subclasses of NequIP's; the callback alone does not import NequIP.
_MODULES = {
    "PhononASEDataModule": "datamodule",
    "PhononEMALightningModule": "module",
    "PhononLightningModule": "module",
    "PhononNequIPDataModule": "datamodule",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
