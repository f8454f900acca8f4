"""What a training step asks of each of its batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.base import EnergyModel
from pft_lightning.losses import (
    ElasticTarget,
    EnergyForceStressLoss,
    HvpTarget,
    PropertyTarget,
    ThirdOrderTarget,
)
from pft_lightning.losses.terms import Reduction
from pft_lightning.training.splitting import Work


class HvpTargetSource(Protocol):
    """Gives the training step its targets of products; ``HessianLoss`` is one."""

    def request(self, batch: Batch, step: int) -> HvpTarget | None:
        """Tangents and targets of one step, or None where the term is not due."""


class ThirdOrderTargetSource(Protocol):
    """Gives the step its targets of third order; ``ThirdOrderLoss`` is one."""

    def request(self, batch: Batch, step: int) -> ThirdOrderTarget | None:
        """Pairs and targets of one step, or None where no structure has a target."""


class PropertyTargetSource(Protocol):
    """Gives the step its losses on properties; ``SpectralLoss`` is one."""

    def request(self, batch: Batch, step: int, model: EnergyModel) -> PropertyTarget:
        """Losses of one step, and directions that give their gradient."""

    def errors(self, model: EnergyModel, batch: Batch) -> dict[str, torch.Tensor]:
        """Mean absolute errors of a validation, one value per structure that counts."""


@dataclass(slots=True)
class TargetSources:
    """What adds terms to those of energies, forces and stresses; None adds none.

    Attributes:
        hessian: of products.
        third_order: of third derivatives.
        properties: of frequencies and what follows from them.
        measured: of measured values.
    """

    hessian: HvpTargetSource | None = None
    third_order: ThirdOrderTargetSource | None = None
    properties: PropertyTargetSource | None = None
    measured: PropertyTargetSource | None = None

    def spectral_errors(
        self, model: EnergyModel, source: str, batch: Batch
    ) -> dict[str, torch.Tensor]:
        """Errors of a validation, of what is trained on beside derivatives.

        Args:
            model: the potential.
            source: of the batch.
            batch: neutral.
        """
        asked = {keys.PHONON: self.properties, keys.MEASURED: self.measured}
        found = asked.get(source)
        return {} if found is None else found.errors(model, batch)


@dataclass(frozen=True, slots=True)
class Requests:
    """The work of a step, and by term its weight and its local count."""

    work: list[Work] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    counts: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(
        self,
        source: str,
        structures: Batch,
        losses: EnergyForceStressLoss,
        hvp: HvpTarget | None,
        third: ThirdOrderTarget | None,
        properties: PropertyTarget | None,
        reduction: Reduction,
    ) -> None:
        """Ask for the terms of a batch, where there are any."""
        asked = hvp or third or properties
        if asked is None and not losses.weights:
            return
        self.work.append(Work(source, structures, hvp, third, properties=properties))
        for quantity, count in losses.counts(structures).items():
            self._count(f"{source}_{quantity}", losses.weights[quantity], count)
        for name, request in (("hvp", hvp), ("third_order", third)):
            if request is not None:
                count = request.count(structures, reduction)
                self._count(f"{source}_{name}", request.weight, count)
        if properties is not None:
            for name, count in properties.counts(structures).items():
                self._count(f"{source}_{name}", properties.weights[name], count)

    def add_elastic(self, structures: Batch, target: ElasticTarget) -> None:
        """Ask for the terms of elastic constants of a batch, where there are any."""
        if not target.active:
            return
        self.work.append(Work(keys.ELASTIC, structures, None, elastic=target))
        for name, count in target.counts(structures).items():
            self._count(f"{keys.ELASTIC}_{name}", target.weights[name], count)

    def _count(self, term: str, weight: float, count: torch.Tensor) -> None:
        self.weights[term] = weight
        self.counts[term] = count


def collect(
    batch: Mapping[str, Batch],
    losses: Mapping[str, EnergyForceStressLoss],
    targets: TargetSources,
    elastic: ElasticTarget,
    model: EnergyModel,
    step: int,
    reduction: Reduction,
) -> Requests:
    """Collect the terms of a step.

    Args:
        batch: by source.
        losses: of energies, forces and stresses, by source.
        targets: of phonon structures.
        elastic: of elastic crystals.
        model: the potential, with the output head of phonon structures.
        step: optimiser steps taken so far.
        reduction: of the means.
    """
    requests = Requests()
    for source, structures in batch.items():
        if source == keys.ELASTIC:
            requests.add_elastic(structures, elastic)
            continue
        hvp = third = properties = None
        if source == keys.PHONON:
            if targets.hessian is not None:
                hvp = targets.hessian.request(structures, step)
            if targets.third_order is not None:
                third = targets.third_order.request(structures, step)
            if targets.properties is not None:
                properties = targets.properties.request(structures, step, model)
        if source == keys.MEASURED and targets.measured is not None:
            properties = targets.measured.request(structures, step, model)
        requests.add(
            source, structures, losses[source], hvp, third, properties, reduction
        )
    return requests
