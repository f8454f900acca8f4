"""What a training step asks of each of its batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.losses import (
    ElasticTarget,
    EnergyForceStressLoss,
    HvpTarget,
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
        reduction: Reduction,
    ) -> None:
        """Ask for the terms of a batch, where there are any."""
        if hvp is None and third is None and not losses.weights:
            return
        self.work.append(Work(source, structures, hvp, third))
        for quantity, count in losses.counts(structures).items():
            self._count(f"{source}_{quantity}", losses.weights[quantity], count)
        for name, request in (("hvp", hvp), ("third_order", third)):
            if request is not None:
                count = request.count(structures, reduction)
                self._count(f"{source}_{name}", request.weight, count)

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
    hessian_loss: HvpTargetSource | None,
    third_order_loss: ThirdOrderTargetSource | None,
    elastic: ElasticTarget,
    step: int,
    reduction: Reduction,
) -> Requests:
    """Collect the terms of a step.

    Args:
        batch: by source.
        losses: of energies, forces and stresses, by source.
        hessian_loss: of phonon structures.
        third_order_loss: likewise.
        elastic: of elastic crystals.
        step: optimiser steps taken so far.
        reduction: of the means.
    """
    requests = Requests()
    for source, structures in batch.items():
        if source == keys.ELASTIC:
            requests.add_elastic(structures, elastic)
            continue
        hvp = third = None
        if source == keys.PHONON:
            if hessian_loss is not None:
                hvp = hessian_loss.request(structures, step)
            if third_order_loss is not None:
                third = third_order_loss.request(structures, step)
        requests.add(source, structures, losses[source], hvp, third, reduction)
    return requests
