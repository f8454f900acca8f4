"""Derivatives from differences, and what compares them with exact ones."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Final, get_args

import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.base import EnergyModel
from pft_lightning.types import Derivatives, Engine


# Å; far enough apart for rounding, near enough that few edges cross the cutoff, where
# the energy of most potentials is only a few times differentiable.
_STEP: Final = 1e-3

# Products have one continuous derivative less than gradients at a cutoff: fewer edges
# may cross it.
THIRD_STEP: Final = _STEP / 5


def compute_richardson_derivative(
    function: Callable[[float], torch.Tensor], step: float = _STEP
) -> torch.Tensor:
    """Derivative at 0 from central differences at three steps, extrapolated.

    Args:
        function: of one number.
        step: largest step; the error is of its sixth power.
    """
    differences = [
        (function(h) - function(-h)) / (2 * h) for h in (step, step / 2, step / 4)
    ]
    first = [(4 * b - a) / 3 for a, b in itertools.pairwise(differences)]
    return (16 * first[1] - first[0]) / 15


def numerical_hvp(
    model: EnergyModel, batch: Batch, tangent: torch.Tensor
) -> torch.Tensor:
    """H v, (n_atoms, 3), from gradients at displaced positions."""
    start = batch[keys.POSITIONS]

    def gradient(amplitude: float) -> torch.Tensor:
        moved = copy.copy(batch)
        moved[keys.POSITIONS] = start + amplitude * tangent
        forces = model.derivatives(moved, stress=False).forces
        assert forces is not None
        return -forces.detach()

    return compute_richardson_derivative(gradient)


def numerical_third(
    model: EnergyModel, batch: Batch, pair: torch.Tensor
) -> torch.Tensor:
    """Third derivative along a pair (n_atoms, 2, 3), from products."""
    start, (first, second) = batch[keys.POSITIONS], pair.unbind(1)

    def product(amplitude: float) -> torch.Tensor:
        moved = copy.copy(batch)
        moved[keys.POSITIONS] = start + amplitude * second
        found = model.derivatives(moved, tangents=first[:, None], stress=False)
        return hvp_of(found)[:, 0]

    return compute_richardson_derivative(product, step=THIRD_STEP)


def parameter_gradient_error(
    model: EnergyModel, loss: Callable[[Engine], torch.Tensor]
) -> float:
    """Compare d(loss)/d(parameters) along a random direction with differences.

    Of the loss by one engine: that of the other has the same value.

    Args:
        model: whose parameters are moved, and put back.
        loss: by an engine, of the parameters as they are.

    Returns:
        The largest relative error of both engines.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(5)
    directions = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p)
        * p.detach().std()
        if p.numel() > 1
        else torch.ones_like(p)
        for p in parameters
    ]

    def derivative(engine: Engine) -> float:
        gradients = torch.autograd.grad(
            loss(engine), parameters, materialize_grads=True
        )
        return sum(
            float((g * d).sum()) for g, d in zip(gradients, directions, strict=True)
        )

    analytical = [derivative(engine) for engine in get_args(Engine)]
    before = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def moved_loss(amplitude: float) -> torch.Tensor:
        for p, start, d in zip(parameters, before, directions, strict=True):
            p.copy_(start + amplitude * d)
        return loss("reverse_over_reverse")

    try:
        numerical = float(compute_richardson_derivative(moved_loss))
    finally:
        moved_loss(0.0)
    error = max(abs(each - numerical) for each in analytical)
    return error / max(abs(numerical), 1e-12)


def random_tangents(n_atoms: int, n_probes: int, device: torch.device) -> torch.Tensor:
    """Drawn on the CPU: the same on every device."""
    generator = torch.Generator().manual_seed(11)
    shape = (n_atoms, n_probes, 3)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    return drawn.clamp(-2, 2).to(device)


def hvp_of(result: Derivatives) -> torch.Tensor:
    """Products, (n_atoms, n_probes, 3), without their graph."""
    assert result.hvp is not None
    return result.hvp.detach()


def third_of(result: Derivatives) -> torch.Tensor:
    """Third derivatives along the first pair, (n_atoms, 3), without their graph."""
    assert result.third is not None
    return result.third.detach()[:, 0]


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference relative to the norm; absolute where that is zero."""
    scale = float(expected.norm())
    return float((found - expected).norm()) / (scale if scale > 0 else 1.0)
