"""Messages of a convolution as one fused operation, differentiable at will.

On a CPU most of the time of a Hessian step went into arrays with a row for each edge
and component, which are long and used once. Here the product of couplings, features and
radial weights is summed over neighbours as it is formed, in C (``_messages.c``). So is
every derivative of it: all are sums of one multilinear form with an argument left out.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from pft_lightning.backends._compiled import load_library
from pft_lightning.backends.message_edges import Edges
from pft_lightning.backends.message_layout import Layout
from pft_lightning.errors import ShapeError
from pft_lightning.physics.direction import current_direction


# The arguments of the form, in the order of ``_messages.c``.
COUPLING, FEATURE, WEIGHT, MESSAGE = range(4)

# ``MAX_M`` of ``_messages.c`` holds its components.
_HIGHEST_DEGREE = 7

# Products of numbers for which it is worth to wake another thread (0.1 ms).
_LEAST_SHARE = 1 << 22

_SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}


def can_fuse(dtype: torch.dtype, device: torch.device, degree: int) -> bool:
    """Whether the compiled form is to be had.

    Args:
        dtype: of the network.
        device: of the network.
        degree: highest one of features and messages.
    """
    return (
        dtype in _SUFFIXES
        and not torch.is_autocast_enabled("cpu")
        and degree <= _HIGHEST_DEGREE
        and device.type == "cpu"
        and load_library("_messages") is not None
    )


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
    terms = (_Sum(MESSAGE, ((0, 1, 2, -1),)),)
    roles = tuple(_Role(argument) for argument in (COUPLING, FEATURE, WEIGHT))
    received: torch.Tensor
    (received,) = _Sums.apply(layout, edges, terms, roles, couplings, features, weights)
    return received


class _Role(NamedTuple):
    """What a tensor is.

    Attributes:
        argument: of the form.
        still: (number of rows,), bool, rows that are zero whatever the weights of the
            network are; None where there are none. Nobody needs their gradient.
    """

    argument: int
    still: np.ndarray | None = None


class _Sum(NamedTuple):
    """Derivative by the argument ``slot`` of a sum of forms.

    Attributes:
        slot: the argument that is left out.
        terms: for each form the places of its four arguments in a list of tensors,
            -1 for the one that is left out.
        own: place of the tensor whose gradient this is, if it has rows that are still;
            else -1.
    """

    slot: int
    terms: tuple[tuple[int, ...], ...]
    own: int = -1

    @property
    def places(self) -> list[int]:
        """Of the tensors that it needs."""
        return sorted({self.own, *(i for term in self.terms for i in term)} - {-1})


class _Sums(torch.autograd.Function):
    """Several sums of forms of the same tensors.

    The derivatives of these are such sums again. What reaches one tensor in several
    ways comes out as one sum, instead of as many arrays to be added up.
    """

    @staticmethod
    def forward(
        layout: Layout,
        edges: Edges,
        sums: tuple[_Sum, ...],
        roles: tuple[_Role, ...],
        *tensors: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        return tuple(_contract(layout, edges, each, roles, tensors) for each in sums)

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
        sums: dict[int, _Sum] = {}
        for place, (role, still) in enumerate(ctx.roles):
            if not _is_wanted(ctx, place):
                continue
            terms = [
                _replace(_replace(term, role, -1), each.slot, cotangent)
                for each, cotangent in zip(ctx.sums, added, strict=True)
                for term in each.terms
                if cotangent >= 0 and term[role] == place
            ]
            if terms:
                own = -1 if still is None else place
                sums[place] = _Sum(role, tuple(terms), own)
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
            _Sum(
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
        sums: tuple[_Sum, ...],
        roles: tuple[_Role, ...],
        *tensors: torch.Tensor,
    ) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
        each_one = [
            _Sums.apply(
                layout,
                edges,
                sums,
                roles,
                *(
                    tensor if dim is None else tensor.select(dim, k)
                    for tensor, dim in zip(tensors, in_dims[4:], strict=True)
                ),
            )
            for k in range(info.batch_size)
        ]
        stacked = tuple(torch.stack(parts) for parts in zip(*each_one, strict=True))
        return stacked, (0,) * len(stacked)


class _Collected:
    """Tensors, and what each is, to which others are added."""

    def __init__(
        self, edges: Edges, tensors: Sequence[torch.Tensor], roles: Sequence[_Role]
    ) -> None:
        self.edges = edges
        self.tensors, self.roles = list(tensors), list(roles)

    def add(self, tensor: torch.Tensor, argument: int) -> int:
        """Add a tangent or cotangent and return its place."""
        still = _still_pairs(self.edges) if argument == WEIGHT else None
        self.tensors.append(tensor)
        self.roles.append(_Role(argument, still))
        return len(self.tensors) - 1

    def apply(self, layout: Layout, sums: tuple[_Sum, ...]) -> tuple[torch.Tensor, ...]:
        """Compute sums, with the tensors that they name and no others."""
        if not sums:
            return ()
        named = sorted({place for each in sums for place in each.places})
        places = {-1: -1} | {old: new for new, old in enumerate(named)}
        found: tuple[torch.Tensor, ...] = _Sums.apply(
            layout,
            self.edges,
            tuple(_renamed(each, places) for each in sums),
            tuple(self.roles[i] for i in named),
            *(self.tensors[i] for i in named),
        )
        return found


def _renamed(each: _Sum, places: Mapping[int, int]) -> _Sum:
    terms = tuple(tuple(places[i] for i in term) for term in each.terms)
    return _Sum(each.slot, terms, places[each.own])


def _still_pairs(edges: Edges) -> np.ndarray | None:
    """Pairs of atoms that do not move against each other along a direction.

    While a derivative along one is taken, tangents and cotangents in the place of
    weights are their directional derivatives.
    """
    direction = current_direction()
    if direction is None:
        return None
    if edges not in direction.known:
        tangents = direction.tangents
        moves = (tangents[edges.centre] != tangents[edges.neighbour]).any(axis=(1, 2))
        still = np.ones(len(edges.groups[2][0]) - 1, dtype=bool)
        still[edges.pair[moves]] = False
        direction.known[edges] = still
    return direction.known[edges]


def _replace(term: tuple[int, ...], role: int, place: int) -> tuple[int, ...]:
    return (*term[:role], place, *term[role + 1 :])


def _is_wanted(ctx: Any, place: int) -> bool:
    """Whether the running backward pass needs the gradient of a tensor.

    ``needs_input_grad`` also counts those that lead to the positions alone, which the
    gradients to the weights have no use for.
    """
    if not ctx.needs_input_grad[4 + place]:
        return False
    node = ctx.next_functions[place][0]
    # The question is not answered for leaves.
    if node is None or node.name().endswith("AccumulateGrad"):
        return True
    return bool(torch._C._will_engine_execute_node(node))


_INTEGERS = ("slot", "n_paths", "n_tensors", "n_terms")
_POINTERS = (
    *("paths", "roles", "terms", "tensors", "out", "own", "still"),
    *("start", "order", "centre", "neighbour", "pair"),
)


class _CSum(ctypes.Structure):
    """``struct sum`` of ``_messages.c``."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in _INTEGERS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("widths", ctypes.c_int64 * 4),
    )


def _contract(
    layout: Layout,
    edges: Edges,
    each: _Sum,
    roles: tuple[_Role, ...],
    tensors: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    """Call the compiled form; groups are shared among torch's threads."""
    by_centre, by_neighbour, by_pair = edges.groups
    n_atoms = len(by_centre[0]) - 1
    lengths = (len(edges.centre), n_atoms, len(by_pair[0]) - 1, n_atoms)
    named = each.places
    still = roles[each.own].still if each.own >= 0 else None
    kinds = np.array([roles[i].argument for i in named], dtype=np.int32)
    needed = [tensors[i] for i in named]
    dtype = tensors[0].dtype
    for role, tensor in zip(kinds, needed, strict=True):
        # What follows reads memory without asking.
        if (
            tensor.dtype != dtype
            or tensor.device.type != "cpu"
            or tensor.shape != (lengths[role], layout.widths[role])
        ):
            raise ShapeError(
                f"argument {role} is {tensor.dtype} of shape {tuple(tensor.shape)} on "
                f"{tensor.device}; expected {dtype} of shape "
                f"{(lengths[role], layout.widths[role])} on the CPU."
            )
    needed = [_in_memory(tensor) for tensor in needed]
    each = _renamed(each, {-1: -1} | {old: new for new, old in enumerate(named)})
    slot = each.slot
    start, order = {FEATURE: by_neighbour, WEIGHT: by_pair}.get(slot, by_centre)
    out = torch.empty(lengths[slot], layout.widths[slot], dtype=dtype)
    # Those next to each other with the same cotangents make couplings as one.
    in_order = sorted(each.terms, key=lambda term: term[MESSAGE])
    terms = np.array(in_order, dtype=np.int32)
    addresses = np.array([tensor.data_ptr() for tensor in needed], dtype=np.uintp)
    arrays = (layout.table, kinds, terms, addresses)
    index = (start, order, edges.centre, edges.neighbour, edges.pair)
    job = _CSum(
        slot,
        len(layout.table),
        len(needed),
        len(terms),
        *(array.ctypes.data for array in arrays),
        out.data_ptr(),
        None if still is None else int(addresses[each.own]),
        None if still is None else still.ctypes.data,
        *(array.ctypes.data for array in index),
        (ctypes.c_int64 * 4)(*layout.widths),
    )
    # After Ctrl-C a thread may still work on them.
    job.memory = (needed, out, arrays, index, still)
    function = _function(out.dtype)

    def work(first: int, last: int) -> None:
        function(ctypes.byref(job), first, last)

    n_groups, n_threads = len(start) - 1, torch.get_num_threads()
    products = len(edges.centre) * len(terms) * layout.products
    n_shares = max(1, min(n_threads, n_groups, 1 + products // _LEAST_SHARE))
    shares = np.linspace(0, len(edges.centre), n_shares + 1)
    bounds = np.searchsorted(start, shares)
    bounds[[0, -1]] = 0, n_groups
    others = []
    if n_shares > 1:
        pool = _threads(n_threads, os.getpid())
        others = [pool.submit(work, *bounds[i : i + 2]) for i in range(1, n_shares)]
    work(*bounds[:2])
    for other in others:
        other.result()
    return out


def _in_memory(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor whose numbers are where its address says."""
    if tensor._is_zerotensor():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    return tensor.resolve_neg().contiguous()


@cache
def _function(dtype: torch.dtype) -> Any:
    library = load_library("_messages")
    assert library is not None  # can_fuse asked
    function = getattr(library, f"contract_{_SUFFIXES[dtype]}")
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    function.restype = None
    return function


@cache
def _threads(number: int, process: int) -> ThreadPoolExecutor:
    del process  # a fork inherits the pool but none of its threads
    return ThreadPoolExecutor(number)
