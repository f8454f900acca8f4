"""Messages of a convolution as one fused operation, differentiable at will.

Most of the time of a Hessian step went into arrays with a row for each edge and
component, which are long and used once. Here the product of couplings, features and
radial weights is summed over neighbours as it is formed, in C on a CPU (``messages.c``)
and in Triton on a GPU (``gpu``). So is every derivative of it: all are sums of one
multilinear form with an argument left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from pft_lightning.kernels.contraction import contract
from pft_lightning.kernels.edges import Edges
from pft_lightning.kernels.gpu.trial import is_usable
from pft_lightning.kernels.interface import (
    COUPLING,
    FEATURE,
    MAX_M,
    MESSAGE,
    WEIGHT,
    load_messages,
)
from pft_lightning.kernels.layout import Layout
from pft_lightning.kernels.sums import Role, Sum, renamed
from pft_lightning.physics.direction import current_direction
from pft_lightning.physics.functions import (
    Function,
    apply_one_by_one,
    is_wanted,
    move_forward,
)


def can_fuse(dtype: torch.dtype, device: torch.device, degree: int) -> bool:
    """Whether the compiled form is to be had.

    Args:
        dtype: of the network.
        device: of the network.
        degree: highest one of features and messages.

    Raises:
        KernelError: it was changed on one side only, C or Python.
    """
    if (
        device.type not in ("cpu", "cuda")
        or dtype not in (torch.float32, torch.float64)
        or torch.is_autocast_enabled(device.type)
        or 2 * degree + 1 > MAX_M
    ):
        return False
    if device.type == "cpu":
        return load_messages() is not None
    return is_usable(device, dtype)


def messages(
    layout: Layout,
    edges: Edges,
    couplings: torch.Tensor,
    features: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Sum the messages of all neighbours, (n_atoms, row of messages).

    Args:
        layout: of the layer.
        edges: the neighbours.
        couplings: (n_edges, row of couplings).
        features: (n_atoms, row of features).
        weights: (n_pairs, row of weights), of the positions a function of the vector
            between the two atoms alone.
    """
    terms = (Sum(MESSAGE, ((0, 1, 2, -1),)),)
    roles = tuple(Role(argument) for argument in (COUPLING, FEATURE, WEIGHT))
    received: torch.Tensor
    (received,) = _Sums.apply(layout, edges, terms, roles, couplings, features, weights)
    return received


class _Sums(Function):
    """Several sums of forms of the same tensors.

    The derivatives of these are such sums again. What reaches one tensor in several
    ways comes out as one sum, instead of as many arrays to be added up.
    """

    @staticmethod
    def forward(
        layout: Layout,
        edges: Edges,
        sums: tuple[Sum, ...],
        roles: tuple[Role, ...],
        *tensors: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        return tuple(contract(layout, edges, each, roles, tensors) for each in sums)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.layout, ctx.edges, ctx.sums, ctx.roles, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, ...]:
        collected = _Collected(ctx.edges, ctx.saved_tensors, ctx.roles)
        added = [
            -1 if cotangent is None else collected.add(cotangent, each.slot)
            for cotangent, each in zip(cotangents, ctx.sums, strict=True)
        ]
        sums: dict[int, Sum] = {}
        for place, (role, direction) in enumerate(ctx.roles):
            if not is_wanted(ctx, 4, place):
                continue
            terms = [
                _replace(_replace(term, role, -1), each.slot, cotangent)
                for each, cotangent in zip(ctx.sums, added, strict=True)
                for term in each.terms
                if cotangent >= 0 and term[role] == place
            ]
            if terms:
                own = place if role == WEIGHT and direction is not None else -1
                each = Sum(role, tuple(terms), own)
                sums[place] = each._replace(
                    over_probes=collected.tensors[place].ndim == 2
                    and any(collected.tensors[i].ndim == 3 for i in each.places)
                )
        found = iter(collected.apply(ctx.layout, tuple(sums.values())))
        gradients = [
            next(found) if place in sums else None for place in range(len(ctx.roles))
        ]
        return None, None, None, None, *gradients

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[torch.Tensor, ...]:
        collected = _Collected(ctx.edges, ctx.saved_tensors, ctx.roles)
        added = [
            -1 if tangent is None else collected.add(tangent, role.argument)
            for tangent, role in zip(tangents[4:], ctx.roles, strict=True)
        ]
        sums = [
            Sum(
                each.slot,
                tuple(
                    _replace(term, role, added[term[role]])
                    for term in each.terms
                    for role in range(4)
                    if role != each.slot and added[term[role]] >= 0
                ),
            )
            for each in ctx.sums
        ]
        return collected.apply(ctx.layout, tuple(sums))

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        layout: Layout,
        edges: Edges,
        sums: tuple[Sum, ...],
        roles: tuple[Role, ...],
        *tensors: torch.Tensor,
    ) -> tuple[tuple[torch.Tensor, ...], tuple[int | None, ...]]:
        dims = in_dims[4:]
        if all(
            tensor.ndim == 2 + (dim is not None)
            for tensor, dim in zip(tensors, dims, strict=True)
        ):
            # All probes at once, those with the same tensors for all but once.
            in_front = move_forward(tensors, dims)
            found = _Sums.apply(layout, edges, sums, roles, *in_front)
            return found, tuple(0 if each.ndim == 3 else None for each in found)
        # Within another vmap.
        call = partial(_Sums.apply, layout, edges, sums, roles)
        return apply_one_by_one(call, tensors, dims)


class _Collected:
    """Tensors, and what each is, to which others are added."""

    def __init__(
        self, edges: Edges, tensors: Sequence[torch.Tensor], roles: Sequence[Role]
    ) -> None:
        self.edges = edges
        self.tensors, self.roles = list(tensors), list(roles)

    def add(self, tensor: torch.Tensor, argument: int) -> int:
        """Add a tangent or cotangent and return its place."""
        of_edges = argument in (COUPLING, WEIGHT)
        self.tensors.append(tensor)
        self.roles.append(Role(argument, current_direction() if of_edges else None))
        return len(self.tensors) - 1

    def apply(self, layout: Layout, sums: tuple[Sum, ...]) -> tuple[torch.Tensor, ...]:
        """Compute sums, with the tensors that they name and no others."""
        if not sums:
            return ()
        named = sorted({place for each in sums for place in each.places})
        places = {-1: -1} | {old: new for new, old in enumerate(named)}
        found: tuple[torch.Tensor, ...] = _Sums.apply(
            layout,
            self.edges,
            tuple(renamed(each, places) for each in sums),
            tuple(self.roles[i] for i in named),
            *(self.tensors[i] for i in named),
        )
        return found


def _replace(term: tuple[int, ...], role: int, place: int) -> tuple[int, ...]:
    return (*term[:role], place, *term[role + 1 :])
