"""Densities of states by element, as functions of matrices.

``g_e(ω) = Σ_q w_q tr(P_e δ(ω - f(D_q)))``, with the projector P_e on the atoms of an
element, counts a mode by the share ``|u_e|²`` of its motion. Eigenvectors of degenerate
modes are arbitrary, and their gradient has none; that of such a trace exists
everywhere (Daleckii and Krein, 1956): ``U ((U† P U) ∘ h[λ_i, λ_j]) U†`` with divided
differences ``h[x, y] = (h(x) - h(y)) / (x - y)``, ``h[x, x] = h'(x)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch

from pft_lightning.physics.functions import Function
from pft_lightning.physics.vibrations import (
    gaussian_lines,
    signed_frequencies,
    square_unit,
)


# THz²; of eigenvalues that are nearer the derivative stands for the difference, which
# rounds. What is compared varies over 0.05² THz² and more: an error of 1e-7.
_NEAR: Final = 1e-6


def element_densities(
    matrices: torch.Tensor,
    weights: torch.Tensor,
    elements: torch.Tensor,
    points: torch.Tensor,
    smearing: float,
) -> torch.Tensor:
    """Density of states of every element, per THz and primitive cell.

    Translations of the crystal are modes like all others here: lines at 0 THz, which
    masses alone divide among the elements.

    Args:
        matrices: (n_q, 3n, 3n), Hermitian, eV/Å²/AMU, of ``Waves.matrices``.
        weights: (n_q,), sum 1.
        elements: (n,), int64, of the atoms of the primitive cell, numbered from 0.
        points: (n_points,), THz.
        smearing: THz, standard deviation of the Gaussian of each mode.

    Returns:
        (n_elements, n_points), float64; the sum over elements has the integral 3n.
    """
    n_elements = int(elements.max()) + 1
    shares = torch.nn.functional.one_hot(elements, n_elements)
    projectors = shares.T.repeat_interleave(3, dim=1).to(points)

    def lines(squares: torch.Tensor) -> torch.Tensor:
        return gaussian_lines(signed_frequencies(squares), points, smearing)

    found: torch.Tensor = _Traces.apply(
        lines, projectors, weights.to(points), matrices * square_unit()
    )
    return found


class _Traces(Function):
    """``Σ_q w_q tr(P_e f_k(D_q))``, (n_projectors, n_functions).

    Inputs are f, which gives (n_q, m, n_functions) of eigenvalues (n_q, m); diagonals
    of projectors (n_projectors, m); weights (n_q,); and matrices (n_q, m, m).
    """

    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[[torch.Tensor], torch.Tensor],
        projectors: torch.Tensor,
        weights: torch.Tensor,
        matrices: torch.Tensor,
    ) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(matrices)
        ctx.function = function
        ctx.save_for_backward(projectors, weights, values, vectors)
        shares = torch.einsum("em,qmi->eqi", projectors, vectors.abs().square())
        return torch.einsum("q,eqi,qik->ek", weights, shares, function(values))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        projectors, weights, values, vectors = ctx.saved_tensors
        with torch.enable_grad():
            leaf = values.detach().requires_grad_()
            lines = ctx.function(leaf)
            # Every eigenvalue stands in its own row alone.
            pairs = [
                (
                    summed.detach(),
                    torch.autograd.grad(summed.sum(), leaf, retain_graph=True)[0],
                )
                for summed in (lines @ weight for weight in gradient)
            ]
        found = torch.zeros_like(vectors)
        for projector, (heights, slopes) in zip(projectors, pairs, strict=True):
            inside = vectors.mH @ (projector[:, None] * vectors)
            found = found + inside * _divided(values, heights, slopes)
        found = vectors @ (weights[:, None, None] * found) @ vectors.mH
        return None, None, None, found


def _divided(
    values: torch.Tensor, heights: torch.Tensor, slopes: torch.Tensor
) -> torch.Tensor:
    """Divided differences (n, m, m) of a function of (n, m)."""
    apart = values[:, :, None] - values[:, None, :]
    near = apart.abs() < _NEAR
    rise = heights[:, :, None] - heights[:, None, :]
    slope = (slopes[:, :, None] + slopes[:, None, :]) / 2
    return torch.where(near, slope, rise / torch.where(near, 1.0, apart))
