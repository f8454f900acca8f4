"""The adaptations: all weights, some of them, a low-rank or a decayed difference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
from pydantic import Field

from pft_lightning.adaptation.parametrizations import (
    Difference,
    LowRank,
    parametrize_weight,
)
from pft_lightning.adaptation.trainable import TrainableSet, collect_trainable
from pft_lightning.adaptation.weights import (
    MATRIX_KINDS,
    Weight,
    describe_weights,
    select_weights,
)
from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.parametrized import is_adapted
from pft_lightning.errors import ConfigError
from pft_lightning.option_types import As, AtLeastZero, Patterns, Positive, Seed


DecayForm = Literal["decoupled", "l2_sp"]


class Adaptation(ABC):
    """How a potential is adapted: which numbers are trained, from where, how far.

    ``apply`` changes a model in place: weights that it does not train get
    ``requires_grad=False``, and new parameters may appear from which weights are
    computed (``torch.nn.utils.parametrize``), so that the forward code of the
    framework, its derivatives and ``EnergyModel.save`` need to know nothing of it.
    """

    @property
    def weight_decay(self) -> float | None:
        """Of all that is trained; None leaves it to the optimiser."""
        return None

    def heads(self, loaded: str | None) -> Mapping[str, str]:
        """By source of a training step, the output head that it trains.

        Args:
            loaded: head that the model was loaded with.
        """
        del loaded
        return {}

    @abstractmethod
    def apply(self, model: EnergyModel) -> TrainableSet:
        """Adapt a model in place.

        Args:
            model: as loaded.

        Returns:
            What is trained.

        Raises:
            ConfigError: the model is adapted already, or the options do not fit it.
        """

    def penalty(self, model: torch.nn.Module) -> torch.Tensor | None:
        """Term of the loss that depends on the trained parameters alone."""
        return None


def describe_unadapted(model: EnergyModel) -> list[Weight]:
    """Weights of a model that no adaptation has touched.

    Raises:
        ConfigError: one has.
    """
    if is_adapted(model):
        raise ConfigError(
            "the model is adapted already. Save it, which merges the adaptation, and "
            "load the result."
        )
    return describe_weights(model)


@dataclass(frozen=True, slots=True)
class FullFineTuning(Adaptation):
    """Train every weight: naive fine-tuning."""

    def apply(self, model: EnergyModel) -> TrainableSet:
        """See ``Adaptation.apply``."""
        weights = describe_unadapted(model)
        return collect_trainable(model, weights, weights)


@dataclass(frozen=True, slots=True)
class Scratch(Adaptation):
    """Train every weight, from the initial weights that the framework draws.

    Atomic energies, scales and shifts stay: they are statistics of data, and the
    energies of training would otherwise start some hundred eV away.

    Args:
        seed: seed of the initial weights.
    """

    seed: Seed = 0

    def apply(self, model: EnergyModel) -> TrainableSet:
        """See ``Adaptation.apply``."""
        weights = describe_unadapted(model)
        drawn = model.initial_weights(self.seed)
        with torch.no_grad():
            for weight in weights:
                if weight.name in drawn:
                    weight.parameter.copy_(drawn[weight.name])
        return collect_trainable(model, weights, weights)


@dataclass(frozen=True, slots=True)
class Freeze(Adaptation):
    """Train some weights and freeze the others.

    Args:
        freeze: shell patterns of names, parts or kinds that stay fixed.
        train: shell patterns of those that are trained, in place of ``freeze``.
    """

    freeze: Annotated[Sequence[str] | None, As(Patterns | None)] = None
    train: Annotated[Sequence[str] | None, As(Patterns | None)] = None

    def __post_init__(self) -> None:
        if (self.freeze is None) == (self.train is None):
            raise ConfigError(
                f"adaptation.freeze={self.freeze}, adaptation.train={self.train}: give "
                "exactly one of them."
            )

    def apply(self, model: EnergyModel) -> TrainableSet:
        """See ``Adaptation.apply``."""
        weights = describe_unadapted(model)
        if self.train is not None:
            chosen = select_weights(weights, self.train, option="train")
        else:
            frozen = select_weights(weights, self.freeze or (), option="freeze")
            names = {weight.name for weight in frozen}
            chosen = [weight for weight in weights if weight.name not in names]
        train_only(weights, chosen)
        return collect_trainable(model, weights, chosen)


@dataclass(frozen=True, slots=True)
class Delta(Adaptation):
    """Train a full difference from the base weights, and keep it small.

    Decay acts on the difference, so that it pulls towards the base model and not
    towards zero. ``decoupled`` is the weight decay of AdamW: each step shrinks the
    difference by lr * decay, so the two must be chosen together (Equitrain: lr 0.01,
    decay 10, a tenth per step). ``l2_sp`` adds decay / 2 * sum of squares to the loss.

    Args:
        decay: how strongly the difference shrinks: optimizer.lr * decay of it each
            step (``decoupled``), or decay / 2 * sum of squares (``l2_sp``).
        form: ``decoupled``, the decay of AdamW, or ``l2_sp``, a term of the loss.
        targets: shell patterns of names, parts or kinds of the weights to train.

    Source: arXiv:1802.01483 (L2-SP).
    """

    decay: AtLeastZero = 10.0
    form: DecayForm = "decoupled"
    targets: Annotated[Sequence[str], As(Patterns)] = ("*",)

    def __post_init__(self) -> None:
        if self.form not in get_args(DecayForm):
            raise ConfigError(
                f"adaptation.form is {self.form!r}; expected one of "
                f"{', '.join(get_args(DecayForm))}."
            )
        if self.decay < 0:
            raise ConfigError(f"adaptation.decay is {self.decay}; at least 0.")

    @property
    def weight_decay(self) -> float:
        """See ``Adaptation.weight_decay``."""
        return self.decay if self.form == "decoupled" else 0.0

    def apply(self, model: EnergyModel) -> TrainableSet:
        """See ``Adaptation.apply``."""
        weights = describe_unadapted(model)
        chosen = select_weights(weights, self.targets)
        train_only(weights, [])
        for weight in chosen:
            parametrize_weight(weight, Difference(weight.parameter))
        return collect_trainable(model, weights, chosen)

    def penalty(self, model: torch.nn.Module) -> torch.Tensor | None:
        """See ``Adaptation.penalty``; of the ``l2_sp`` form."""
        if self.form != "l2_sp":
            return None
        squares = [p.square().sum() for p in model.parameters() if p.requires_grad]
        return 0.5 * self.decay * torch.stack(squares).sum()


@dataclass(frozen=True, slots=True)
class LoRA(Adaptation):
    """Train a low-rank difference of each matrix among the weights.

    Reaches equivariant linear layers path by path, radial networks, other matrices,
    tensor products (the input channels against all other axes) and symmetric
    contractions (elements against paths and channels). Biases, norms and scalars stay.

    Args:
        rank: rank of each irrep path of an equivariant layer, of each other matrix.
        alpha: the difference is multiplied with alpha / rank; None is the rank.
        targets: shell patterns of names, parts or kinds; None takes all matrices.
        seed: seed of the factors that do not start at zero.
    """

    rank: Annotated[int, Field(ge=1, le=100_000)] = 8
    alpha: Positive | None = None
    targets: Annotated[Sequence[str] | None, As(Patterns | None)] = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"adaptation.rank is {self.rank}; at least 1.")
        if self.alpha is not None and self.alpha <= 0:
            raise ConfigError(f"adaptation.alpha is {self.alpha}; more than 0.")

    def apply(self, model: EnergyModel) -> TrainableSet:
        """See ``Adaptation.apply``."""
        weights = describe_unadapted(model)
        if self.targets is None:
            kinds = {weight.kind for weight in weights}
            targets: Sequence[str] = [kind for kind in MATRIX_KINDS if kind in kinds]
            if not targets:
                raise ConfigError(
                    f"adaptation=lora: the {model.name} model has no matrices among "
                    "its weights. Use adaptation=delta."
                )
        else:
            targets = self.targets
        chosen = select_weights(weights, targets)
        generator = torch.Generator().manual_seed(self.seed)
        train_only(weights, [])
        for weight in chosen:
            update = LowRank(
                weight.parameter,
                weight.blocks,
                rank=self.rank,
                alpha=self.rank if self.alpha is None else self.alpha,
                generator=generator,
            )
            parametrize_weight(weight, update)
        return collect_trainable(model, weights, chosen)


def train_only(weights: Sequence[Weight], chosen: Sequence[Weight]) -> None:
    """Let training change some of the weights and no other."""
    names = {weight.name for weight in chosen}
    for weight in weights:
        weight.parameter.requires_grad_(weight.name in names)
