"""Loss terms on energies, forces, stresses and Hessian-vector products."""

from pft_lightning.losses.energy_force_stress import (
    PAPER_KINDS,
    QUANTITIES,
    EnergyForceStressLoss,
    residuals,
)
from pft_lightning.losses.hvp import HessianRequest
from pft_lightning.losses.terms import TermSum, global_mean


__all__ = [
    "PAPER_KINDS",
    "QUANTITIES",
    "EnergyForceStressLoss",
    "HessianRequest",
    "TermSum",
    "global_mean",
    "residuals",
]
