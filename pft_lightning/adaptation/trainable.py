"""The exact set of what is trained, for people and for checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pft_lightning.adaptation.weights import KINDS, Weight
from pft_lightning.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Coverage:
    """One kind of weights.

    Attributes:
        kind: see ``Weight``.
        n_weights: numbers in all weights of this kind.
        n_reached: those of them that training can change.
    """

    kind: str
    n_weights: int
    n_reached: int

    @property
    def share(self) -> float:
        """Of the weights of this kind that training can change."""
        return self.n_reached / self.n_weights


@dataclass(frozen=True, slots=True)
class TrainableSet:
    """What an adaptation trains; nothing else moves.

    Attributes:
        parameters: by name, how many numbers each trained parameter has.
        reached: names of the base weights that change with them.
        n_weights: numbers in all weights that the framework would train.
        coverage: by kind.
    """

    parameters: dict[str, int]
    reached: tuple[str, ...]
    n_weights: int
    coverage: tuple[Coverage, ...]

    @property
    def n_trainable(self) -> int:
        """Numbers that are trained."""
        return sum(self.parameters.values())

    @property
    def share(self) -> float:
        """Trained numbers relative to the weights of the model."""
        return self.n_trainable / self.n_weights

    def summary(self) -> dict[str, float | int]:
        """What is logged."""
        return {
            "trainable_tensors": len(self.parameters),
            "trainable_parameters": self.n_trainable,
            "model_parameters": self.n_weights,
            "trainable_share": self.share,
        }


def collect_trainable(
    model: torch.nn.Module, weights: Sequence[Weight], reached: Sequence[Weight]
) -> TrainableSet:
    """Take stock after an adaptation.

    Args:
        model: adapted.
        weights: all that it had before.
        reached: those that now change with the trained parameters.

    Raises:
        ConfigError: nothing is trained.
    """
    parameters = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ConfigError(
            "adaptation: every weight is frozen, nothing is left to train. Freeze less."
        )
    names = {weight.name for weight in reached}
    coverage = []
    for kind in KINDS:
        sizes = {w.name: w.parameter.numel() for w in weights if w.kind == kind}
        if sizes:
            n_reached = sum(size for name, size in sizes.items() if name in names)
            coverage.append(Coverage(kind, sum(sizes.values()), n_reached))
    return TrainableSet(
        parameters=parameters,
        reached=tuple(w.name for w in weights if w.name in names),
        n_weights=sum(w.parameter.numel() for w in weights),
        coverage=tuple(coverage),
    )
