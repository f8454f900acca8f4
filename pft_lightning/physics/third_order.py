"""Third derivatives along pairs of directions, by either engine.

``d3E/dR3[u, w]`` is the derivative of the Hessian-vector product ``H u`` along w. Which
of the two comes first does not matter.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def reverse_again(
    gradient: torch.Tensor,
    positions: torch.Tensor,
    pairs: torch.Tensor,
    keep_graph: bool,
) -> torch.Tensor:
    """Differentiate a gradient backwards twice: along u, and the product along w.

    Args:
        gradient: (n_atoms, 3), dE/dpositions, with its graph.
        positions: (n_atoms, 3), Å, that it was taken at.
        pairs: (n_atoms, n_pairs, 2, 3), directions u and w.
        keep_graph: to the parameters; without it the graph of ``gradient`` is freed.

    Returns:
        (n_atoms, n_pairs, 3), eV/Å³ times the unit of both directions.
    """
    found = []
    n_pairs = pairs.shape[1]
    for k in range(n_pairs):
        product = _backwards(gradient, positions, pairs[:, k, 0], True, True)
        retain = keep_graph or k + 1 < n_pairs
        found.append(_backwards(product, positions, pairs[:, k, 1], keep_graph, retain))
    return torch.stack(found, dim=1)


def _backwards(
    output: torch.Tensor,
    positions: torch.Tensor,
    direction: torch.Tensor,
    create_graph: bool,
    retain_graph: bool,
) -> torch.Tensor:
    if not output.requires_grad:  # no atoms near, or nothing beyond second order
        return torch.zeros_like(positions)
    (product,) = torch.autograd.grad(
        output,
        positions,
        grad_outputs=direction,
        create_graph=create_graph,
        retain_graph=retain_graph,
        materialize_grads=True,
    )
    return product


def forward_twice(
    gradient: Callable[[torch.Tensor], torch.Tensor],
    positions: torch.Tensor,
    pairs: torch.Tensor,
    keep_graph: bool,
) -> torch.Tensor:
    """Differentiate a gradient forwards along u, and the product forwards along w.

    Args:
        gradient: positions to dE/dpositions, by a transform of torch.func.
        positions: (n_atoms, 3), Å.
        pairs: (n_atoms, n_pairs, 2, 3), directions u and w.
        keep_graph: to the parameters.

    Returns:
        (n_atoms, n_pairs, 3), eV/Å³ times the unit of both directions.
    """

    def differentiate(u: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        def product(r: torch.Tensor) -> torch.Tensor:
            return torch.func.jvp(gradient, (r,), (u,))[1]

        return torch.func.jvp(product, (positions,), (w,))[1]

    # Without grad mode an inner level loses the tangents of an outer one.
    with torch.enable_grad():
        found = [differentiate(*pair.unbind(1)) for pair in pairs.unbind(1)]
    third = torch.stack(found, dim=1)
    return third if keep_graph else third.detach()
