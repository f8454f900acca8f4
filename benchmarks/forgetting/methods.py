"""Projection of gradients, for the comparison of this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from pft_lightning.training.balance import LossBalance
from pft_lightning.training.splitting import Gradients


class Projection(Callback):
    """Take from the gradient of phonons what opposes that of upstream frames."""

    def setup(
        self, trainer: Trainer, pl_module: LightningModule, stage: str | None = None
    ) -> None:
        """Weigh the terms of each step by the gradients of all."""
        pl_module.balance = _Projected({})


class _Projected(LossBalance):
    def __bool__(self) -> bool:
        return True

    def is_due(self, terms: Sequence[str]) -> bool:
        return True

    def weigh(
        self,
        given: Mapping[str, float],
        gradients: Mapping[str, Gradients],
        parameters: Sequence[Tensor],
    ) -> dict[str, float]:
        phonon, upstream = (
            _sum(given, gradients, parameters, source)
            for source in ("phonon", "upstream")
        )
        # Of one process: taking the part along g from another gradient is adding g.
        along = float(phonon @ upstream / upstream.square().sum().clamp(min=1e-30))
        return {
            term: weight * (1 - min(along, 0.0) if term.startswith("upstream") else 1)
            for term, weight in given.items()
        }


def _sum(
    weights: Mapping[str, float],
    gradients: Mapping[str, Gradients],
    parameters: Sequence[Tensor],
    source: str,
) -> Tensor:
    total = torch.zeros(sum(p.numel() for p in parameters))
    for term, of_term in gradients.items():
        if term.startswith(source):
            flat = [
                (torch.zeros_like(p) if g is None else g).flatten()
                for p, g in zip(parameters, of_term, strict=True)
            ]
            total += weights[term] * torch.cat(flat)
    return total
