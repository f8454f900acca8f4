"""Loss terms on energies, their derivatives up to third order, and phonons."""

from pft_lightning.losses.elastic import ElasticTarget, elastic_errors
from pft_lightning.losses.energy_force_stress import (
    PAPER_KINDS,
    QUANTITIES,
    EnergyForceStressLoss,
    absolute_errors,
    residuals,
)
from pft_lightning.losses.hvp import HvpTarget
from pft_lightning.losses.plausibility import doubtful_labels
from pft_lightning.losses.properties import PropertyErrors, PropertyTarget
from pft_lightning.losses.terms import (
    TermSum,
    global_counts,
    global_mean,
    mean_over_processes,
)
from pft_lightning.losses.third_order import ThirdOrderTarget


__all__ = [
    "PAPER_KINDS",
    "QUANTITIES",
    "ElasticTarget",
    "EnergyForceStressLoss",
    "HvpTarget",
    "PropertyErrors",
    "PropertyTarget",
    "TermSum",
    "ThirdOrderTarget",
    "absolute_errors",
    "doubtful_labels",
    "elastic_errors",
    "global_counts",
    "global_mean",
    "mean_over_processes",
    "residuals",
]
