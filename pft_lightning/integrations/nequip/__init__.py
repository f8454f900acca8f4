"""Phonon fine-tuning inside ``nequip-train``."""

from pft_lightning.integrations.nequip.hessian_loss import HessianLoss


__all__ = ["HessianLoss"]
