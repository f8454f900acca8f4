"""Ways to forget less, for the comparison of this folder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import ase.io
import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch_geometric.data import Batch

from pft_lightning.backends.base import EnergyModel
from pft_lightning.graphs import build_batch, build_data, build_graph
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


def warmed_cosine(
    optimizer: torch.optim.Optimizer, T_max: int, n_warmup: int, eta_min: float = 0.0
) -> torch.optim.lr_scheduler.LRScheduler:
    """Let the rate rise linearly, and then fall as a cosine.

    The first steps of Adam move every weight by the whole rate, wherever its gradient,
    of a few structures, points.

    Args:
        optimizer: whose rate it is.
        T_max: all steps.
        n_warmup: steps in which it rises.
        eta_min: the last rate.
    """

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / n_warmup
        share = (step - n_warmup) / max(1, T_max - n_warmup)
        last = eta_min / optimizer.defaults["lr"]
        return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class FisherPull(Callback):
    """Pull weights back to the base model, those that its labels rest on the most.

    Args:
        frames: extended XYZ; energies and forces of these count.
        strength: of the pull, times the rate, where the information is at its mean.
        weighted: False pulls all weights alike.
        n_frames: of the file, evenly.
    """

    def __init__(
        self,
        frames: str,
        strength: float,
        weighted: bool = True,
        n_frames: int = 60,
    ) -> None:
        self.frames, self.strength = frames, strength
        self.weighted, self.n_frames = weighted, n_frames
        self._pulls: list[tuple[Tensor, Tensor, Tensor | float]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the information at the base model."""
        weights = [p for p in pl_module.model.parameters() if p.requires_grad]
        found: Sequence[Tensor | float] = [1.0] * len(weights)
        if self.weighted:
            found = information(pl_module.model, weights, self.frames, self.n_frames)
        self._pulls = [
            (p, p.detach().clone(), f) for p, f in zip(weights, found, strict=True)
        ]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: object
    ) -> None:
        """Pull after each step."""
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        with torch.no_grad():
            for weight, start, f in self._pulls:
                kept = torch.exp(torch.as_tensor(-rate * self.strength * f))
                weight.copy_(start + (weight - start) * kept)


def information(
    model: EnergyModel, weights: Sequence[Tensor], frames: str, n_frames: int
) -> list[Tensor]:
    """Diagonal of the Fisher information of energies and forces, mean one.

    Residuals count as the recipe weighs them: 110 per eV/atom, 70 per eV/Å.
    """
    found = squares(_labels(model, frames, n_frames), weights)
    mean = sum(float(f.sum()) for f in found) / sum(f.numel() for f in found)
    return [f / mean for f in found]


def squares(values: Iterable[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Sum of the squares of the derivatives of some values by weights."""
    total = [torch.zeros_like(p) for p in weights]
    for value in values:
        gradients = torch.autograd.grad(
            value, weights, retain_graph=True, allow_unused=True
        )
        for sum_, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                sum_ += gradient.detach().square()
    return total


def _labels(model: EnergyModel, frames: str, n_frames: int) -> Iterator[Tensor]:
    """Energies, and random sums of forces, of small frames."""
    read = [a for a in ase.io.read(frames, ":") if len(a) <= 40]
    generator = torch.Generator().manual_seed(0)
    for atoms in read[:: max(1, len(read) // n_frames)][:n_frames]:
        batch = to_batch(
            model, atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc
        )
        result = model.derivatives(batch, stress=False)
        signs = torch.randn(result.forces.shape, generator=generator)
        yield 110 * result.energy.sum() / len(atoms)
        yield 70 * (result.forces * signs.to(result.forces)).sum() / len(atoms)


def to_batch(
    model: EnergyModel,
    numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: Sequence[bool],
) -> Batch:
    """One structure as the potential takes it."""
    graph = build_graph(positions, cell, np.asarray(pbc), model.cutoff)
    return build_batch([build_data(numbers, positions, cell, pbc, graph)])
