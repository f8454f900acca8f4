"""The options of the loss of a training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pft_lightning.losses.elastic import CONSTANTS, ELASTIC_WEIGHTS, MODULI
from pft_lightning.losses.terms import LossKind, Reduction
from pft_lightning.option_types import (
    Added,
    AtLeastZero,
    Count,
    Natural,
    Options,
    Positive,
)
from pft_lightning.physics.pair_probes import PairKind


class PhononWeights(Options):
    """Weights of the losses of phonon structures; those of arXiv:2601.07742."""

    energy: AtLeastZero = 0.0
    """Weight of energies, per eV/atom; only where the source has them."""
    forces: AtLeastZero = 20.0
    """Weight of forces, per eV/Å."""
    stress: AtLeastZero = 5.0
    """Weight of stresses, per eV/Å³."""
    hvp: AtLeastZero = 100.0
    """Weight of Hessian-vector products, per eV/Å²."""
    third_order: AtLeastZero = 0.0
    """Weight of third derivatives along pairs of directions, per eV/Å³."""


class UpstreamWeights(Options):
    """Weights of the losses of upstream frames; those of arXiv:2601.07742."""

    energy: AtLeastZero = 500.0
    """Weight of energies, per eV/atom."""
    forces: AtLeastZero = 200.0
    """Weight of forces, per eV/Å."""
    stress: AtLeastZero = 50.0
    """Weight of stresses, per eV/Å³."""


class ElasticWeights(Options):
    """Weights of the losses of crystals with elastic constants or moduli."""

    constants: AtLeastZero = ELASTIC_WEIGHTS[CONSTANTS]
    """Weight of elastic constants, per GPa."""
    moduli: AtLeastZero = ELASTIC_WEIGHTS[MODULI]
    """Weight of bulk and shear modulus, per GPa."""


class Kinds(Options):
    """How an error becomes a loss: l2 is the norm of the vector."""

    energy: LossKind = "mae"
    """Loss of energies."""
    forces: LossKind = "l2"
    """Loss of forces."""
    stress: LossKind = "mae"
    """Loss of stresses."""
    hvp: LossKind = "mae"
    """Loss of Hessian-vector products."""
    third_order: LossKind = "mae"
    """Loss of third derivatives."""
    elastic: LossKind = "mae"
    """Loss of elastic constants and moduli."""


class Loss(Options):
    """Weights of arXiv:2601.07742 with co-training."""

    phonon: PhononWeights
    upstream: UpstreamWeights
    elastic: ElasticWeights
    kind: Kinds
    huber_delta: Positive = 0.01
    """Where a Huber loss turns linear, in the unit of the quantity."""
    reduction: Reduction = "structures"
    """What a mean is taken over."""
    hvp_schedule: Literal["constant", "linear"] = "constant"
    """Weight of the Hessian loss: constant, or from zero over hvp_warmup_steps."""
    hvp_warmup_steps: Natural = 0
    """Steps until the linear schedule reaches the full weight."""
    hvp_every_n_phonon_steps: Count = 1
    """Phonon steps between two with a Hessian loss."""
    third_order_pairs: PairKind = "atoms"
    """Pairs of third derivatives: two atoms, large force constants first, or signs."""
    n_third_order_pairs: Count = 1
    """Pairs of directions per structure and step."""


# Older runs have no third order and no elastic constants.


class _TrainedPhononWeights(PhononWeights):
    third_order: Annotated[AtLeastZero, Added()] = 0.0


class _TrainedKinds(Kinds):
    third_order: Annotated[LossKind, Added()] = "mae"
    elastic: Annotated[LossKind, Added()] = "mae"


class TrainedLoss(Loss):
    """The same in the configuration of a run, maybe of an earlier version."""

    phonon: _TrainedPhononWeights
    upstream: UpstreamWeights | None  # type: ignore[assignment]
    elastic: Annotated[ElasticWeights, Added()] = Field(default_factory=ElasticWeights)
    kind: _TrainedKinds
    third_order_pairs: Annotated[PairKind, Added()] = "atoms"
    n_third_order_pairs: Annotated[Count, Added()] = 1
