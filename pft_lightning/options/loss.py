"""The options of the loss of a training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pft_lightning.losses.elastic import CONSTANTS, ELASTIC_WEIGHTS, MODULI
from pft_lightning.losses.properties import Assignment
from pft_lightning.losses.terms import LossKind, Reduction
from pft_lightning.option_types import (
    Added,
    AtLeastZero,
    Count,
    Kelvin,
    Natural,
    Options,
    Positive,
    Unit,
    Words,
)
from pft_lightning.physics.pair_probes import PairKind


Temperatures = Annotated[
    list[Kelvin],
    Field(min_length=1),
    Words("temperatures above 0 in a list, e.g. [100,300], K"),
]
Smearing = Annotated[float, Field(gt=0, allow_inf_nan=False), Unit("THz")]
Balanced = Annotated[
    AtLeastZero | Literal["auto"], Words("a number of at least 0, or auto")
]
PropertyShare = Annotated[float, Field(gt=0, le=1)]


class PhononWeights(Options):
    """Weights of the losses of phonon structures; those of arXiv:2601.07742."""

    energy: AtLeastZero = 0.0
    """Weight of energies, per eV/atom; only where the source has them."""
    forces: Balanced = 20.0
    """Weight of forces, per eV/Å; auto as of hvp."""
    stress: AtLeastZero = 5.0
    """Weight of stresses, per eV/Å³."""
    hvp: Balanced = 100.0
    """Weight of Hessian-vector products, per eV/Å²; auto sets itself in the first steps
    so that the gradients of the terms have the shares of recipes that were measured."""
    third_order: AtLeastZero = 0.0
    """Weight of third derivatives along pairs of directions, per eV/Å³."""
    frequencies: AtLeastZero = 0.0
    """Weight of frequencies at the q-points that fit the cell, per THz."""
    free_energy: AtLeastZero = 0.0
    """Weight of free energies, per kJ/mol of primitive cells."""
    entropy: AtLeastZero = 0.0
    """Weight of entropies, per J/K/mol of primitive cells."""
    heat_capacity: AtLeastZero = 0.0
    """Weight of heat capacities, per J/K/mol of primitive cells."""
    dos: AtLeastZero = 0.0
    """Weight of densities of states, for all modes in the wrong place."""
    element_dos: AtLeastZero = 0.0
    """Weight of densities of states of each element, for all of their motion in the
    wrong place."""
    frequency_moments: AtLeastZero = 0.0
    """Weight of moments of the density of states, per THz."""
    omega_max: AtLeastZero = 0.0
    """Weight of highest frequencies, per THz."""


class UpstreamWeights(Options):
    """Weights of the losses of upstream frames; those of arXiv:2601.07742."""

    energy: Balanced = 500.0
    """Weight of energies, per eV/atom; auto as of loss.phonon.hvp."""
    forces: Balanced = 200.0
    """Weight of forces, per eV/Å; auto as well."""
    stress: Balanced = 50.0
    """Weight of stresses, per eV/Å³; auto as well."""


class ElasticWeights(Options):
    """Weights of the losses of crystals with elastic constants or moduli."""

    constants: AtLeastZero = ELASTIC_WEIGHTS[CONSTANTS]
    """Weight of elastic constants, per GPa."""
    moduli: AtLeastZero = ELASTIC_WEIGHTS[MODULI]
    """Weight of bulk and shear modulus, per GPa."""


class MeasuredWeights(Options):
    """Weights of the losses of measured values; their mean errors, by uncertainty."""

    frequencies: AtLeastZero = 20.0
    """Weight of frequencies, per THz."""
    free_energy: AtLeastZero = 1.0
    """Weight of free energies, per kJ/mol of primitive cells."""
    entropy: AtLeastZero = 1.0
    """Weight of entropies, per J/K/mol of primitive cells."""
    heat_capacity: AtLeastZero = 1.0
    """Weight of heat capacities, per J/K/mol of primitive cells."""
    dos: AtLeastZero = 20.0
    """Weight of densities of states, for all modes in the wrong place."""


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
    properties: LossKind = "mae"
    """Loss of frequencies and of what follows from them, measured ones too."""


class Loss(Options):
    """Weights of arXiv:2601.07742 with co-training."""

    phonon: PhononWeights
    upstream: UpstreamWeights
    elastic: ElasticWeights
    measured: MeasuredWeights
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
    temperatures: Temperatures = Field(default_factory=lambda: [300.0])
    """Temperatures of free energies, entropies and heat capacities."""
    frequency_assignment: Assignment = "order"
    """How modes are paired with those of force constants: in their order at each
    q-point, or by the overlap of eigenvectors."""
    dos_smearing: Smearing = 0.3
    """Standard deviation of the Gaussian of each mode in densities of states."""
    property_share: PropertyShare = 1.0
    """Share of the phonon structures of a step whose frequencies are computed."""
    n_property_probes: Count = 1
    """Directions per structure and step that sample the gradient of properties, and of
    measured values."""


# Older runs have no third order, no elastic constants, no properties and no measured
# values.


class _TrainedPhononWeights(PhononWeights):
    third_order: Annotated[AtLeastZero, Added()] = 0.0
    frequencies: Annotated[AtLeastZero, Added()] = 0.0
    free_energy: Annotated[AtLeastZero, Added()] = 0.0
    entropy: Annotated[AtLeastZero, Added()] = 0.0
    heat_capacity: Annotated[AtLeastZero, Added()] = 0.0
    dos: Annotated[AtLeastZero, Added()] = 0.0
    element_dos: Annotated[AtLeastZero, Added()] = 0.0
    frequency_moments: Annotated[AtLeastZero, Added()] = 0.0
    omega_max: Annotated[AtLeastZero, Added()] = 0.0


class _TrainedKinds(Kinds):
    third_order: Annotated[LossKind, Added()] = "mae"
    elastic: Annotated[LossKind, Added()] = "mae"
    properties: Annotated[LossKind, Added()] = "mae"


class TrainedLoss(Loss):
    """The same in the configuration of a run, maybe of an earlier version."""

    phonon: _TrainedPhononWeights
    upstream: UpstreamWeights | None  # type: ignore[assignment]
    elastic: Annotated[ElasticWeights, Added()] = Field(default_factory=ElasticWeights)
    measured: Annotated[MeasuredWeights, Added()] = Field(
        default_factory=MeasuredWeights
    )
    kind: _TrainedKinds
    third_order_pairs: Annotated[PairKind, Added()] = "atoms"
    n_third_order_pairs: Annotated[Count, Added()] = 1
    temperatures: Annotated[Temperatures, Added()] = Field(
        default_factory=lambda: [300.0]
    )
    frequency_assignment: Annotated[Assignment, Added()] = "order"
    dos_smearing: Annotated[Smearing, Added()] = 0.3
    property_share: Annotated[PropertyShare, Added()] = 1.0
    n_property_probes: Annotated[Count, Added()] = 1
