"""Optimisers that see weights as matrices: Muon and SOAP, for the comparison here.

An equivariant layer keeps the matrices of its irrep paths in one flat parameter, so
that optimisers of matrices need to be told them: ``Matrices`` does, a callback.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from pft_lightning.adaptation.weights import describe_weights


# Of the five steps of Newton and Schulz (Jordan et al., 2024).
_STEP = (3.4445, -4.7750, 2.0315)

# SOAP: largest side of a matrix that gets a basis of its own; steps between two turns
# of the bases; memory of their covariances; most that an entry moves, in rates.
_LARGEST, _TURN, _MEMORY, _CLIP = 300, 10, 0.95, 4.0


class Matrices(Callback):
    """Notes at each parameter of an unadapted potential which matrices it holds."""

    def setup(
        self, trainer: Trainer, pl_module: LightningModule, stage: str | None = None
    ) -> None:
        """Note them before the optimiser is made."""
        for weight in describe_weights(pl_module.model):
            weight.parameter.matrices = weight.blocks  # type: ignore[attr-defined]


class MatrixOptimizer(torch.optim.Optimizer):
    """AdamW for vectors, and another step for matrices.

    Args:
        params: groups of parameters.
        lr: rate.
        weight_decay: share of a weight that a step takes away, times the rate.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, weight_decay: float = 1e-3
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move all parameters that have a gradient."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    change = self._change(parameter, parameter.grad.flatten())
                    parameter.add_(change.view_as(parameter), alpha=-group["lr"])
        return loss

    @abstractmethod
    def move(self, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        """Change of matrices (n, rows, columns) of one shape, in rates."""

    def _change(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        change = torch.zeros_like(gradient)
        for name, shape, entries in _parts(parameter):
            state = self.state[parameter].setdefault(name, {})
            part = gradient[entries]
            moved = adam(part, state) if shape is None else None
            if moved is None:
                moved = self.move(part.view(-1, *shape), state)
            change[entries] = moved.view_as(part)
        return change


class Muon(MatrixOptimizer):
    """Momentum made orthogonal, as large as a step of AdamW (arXiv:2502.16982)."""

    def move(self, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        """See ``MatrixOptimizer``."""
        momentum = state.setdefault("momentum", torch.zeros_like(gradient))
        momentum.lerp_(gradient, 0.05)
        size = 0.2 * max(gradient.shape[1:]) ** 0.5
        return size * orthogonalise(gradient.lerp(momentum, 0.95))


class Soap(MatrixOptimizer):
    """AdamW in the eigenvectors of the gradients' covariances (arXiv:2409.11321)."""

    def move(self, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        """See ``MatrixOptimizer``."""
        n = state["n"] = state.get("n", 0) + 1
        sides = [i for i in (1, 2) if gradient.shape[i] <= _LARGEST]
        products = {1: gradient @ gradient.mT, 2: gradient.mT @ gradient}
        for side in sides:
            known = state.setdefault(f"covariance_{side}", products[side].double())
            known.lerp_(products[side].double(), 1 - _MEMORY)
            if n == 1 or n % _TURN == 0:
                state[f"basis_{side}"] = _basis(known, state.get(f"basis_{side}"))
        bases = [state.get(f"basis_{side}") for side in (1, 2)]
        if n == 1:  # the first gradient only chooses the bases
            return torch.zeros_like(gradient)
        moved = adam(_turn(gradient, bases), state)
        return _turn(moved.clamp(-_CLIP, _CLIP), bases, back=True)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Matrices (n, rows, columns) with all singular values at about 1."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    found = matrices.mT if is_tall else matrices
    found = found / (found.norm(dim=(1, 2), keepdim=True) + 1e-12)
    a, b, c = _STEP
    for _ in range(5):
        square = found @ found.mT
        found = a * found + (b * square + c * square @ square) @ found
    return found.mT if is_tall else found


def adam(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """Change by Adam, in rates."""
    t = state["t"] = state.get("t", 0) + 1
    first = state.setdefault("first", torch.zeros_like(gradient))
    second = state.setdefault("second", torch.zeros_like(gradient))
    first.lerp_(gradient, 0.1)
    second.lerp_(gradient.square(), 0.001)
    return (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)


def _parts(
    parameter: Tensor,
) -> Iterator[tuple[str, tuple[int, int] | None, Tensor]]:
    """Entries of a parameter by the shape of their matrices; None for vectors."""
    found: dict[tuple[int, int] | None, list[Tensor]] = {}
    start = 0
    for shape in getattr(parameter, "matrices", ((1, parameter.numel()),)):
        size = shape[0] * shape[1]
        key = shape if min(shape) > 1 else None
        found.setdefault(key, []).append(torch.arange(start, start + size))
        start += size
    for key, entries in found.items():
        yield str(key), key, torch.cat(entries)


def _basis(covariance: Tensor, known: Tensor | None) -> Tensor:
    """Eigenvectors, or those that are known after one step of the power method."""
    size = covariance.shape[-1]
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    # Directions without any gradient are told apart, without which LAPACK may fail.
    ramp = 1e-10 * torch.linspace(1, 2, size, dtype=torch.float64).diag()
    matrix = covariance / (trace + 1e-300) + ramp
    if known is None:
        return torch.linalg.eigh(matrix)[1].float()
    return torch.linalg.qr(matrix @ known.double())[0].float()


def _turn(
    matrices: Tensor, bases: list[Tensor | None], *, back: bool = False
) -> Tensor:
    left, right = bases
    if left is not None:
        matrices = (left if back else left.mT) @ matrices
    if right is not None:
        matrices = matrices @ (right.mT if back else right)
    return matrices
