"""Lightning callbacks of pft_lightning."""

from pft_lightning.callbacks.anchor import FisherAnchor
from pft_lightning.callbacks.conductivity_validation import ConductivityValidation
from pft_lightning.callbacks.hessian_loss import HessianLoss
from pft_lightning.callbacks.last_checkpoint import LastCheckpoint
from pft_lightning.callbacks.measured_loss import MeasuredLoss
from pft_lightning.callbacks.phonon_validation import PhononValidation
from pft_lightning.callbacks.property_loss import PropertyLoss
from pft_lightning.callbacks.third_order_loss import ThirdOrderLoss
from pft_lightning.callbacks.throughput import Throughput
from pft_lightning.callbacks.weight_averaging import RampedEMA


__all__ = [
    "ConductivityValidation",
    "FisherAnchor",
    "HessianLoss",
    "LastCheckpoint",
    "MeasuredLoss",
    "PhononValidation",
    "PropertyLoss",
    "RampedEMA",
    "ThirdOrderLoss",
    "Throughput",
]
