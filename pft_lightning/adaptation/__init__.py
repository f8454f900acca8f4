"""Which weights of a potential are trained, and how far they may go."""

from pft_lightning.adaptation.heads import MultiHead
from pft_lightning.adaptation.methods import (
    Adaptation,
    Delta,
    Freeze,
    FullFineTuning,
    LoRA,
    Scratch,
)
from pft_lightning.adaptation.trainable import TrainableSet
from pft_lightning.adaptation.weights import Weight, describe_weights, select_weights


__all__ = [
    "Adaptation",
    "Delta",
    "Freeze",
    "FullFineTuning",
    "LoRA",
    "MultiHead",
    "Scratch",
    "TrainableSet",
    "Weight",
    "describe_weights",
    "select_weights",
]
