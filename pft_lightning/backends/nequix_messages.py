"""Messages of a Nequix layer as one fused operation, differentiable at will.

On a CPU most of the time of a Hessian step went into arrays with a row for each edge
and component, which are long and used once. Here the product of couplings, features and
radial weights is summed over neighbours as it is formed, in C (``_messages.c``). So is
every derivative of it: all are one multilinear form with another argument left out.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from pft_lightning.backends._compiled import load_library
from pft_lightning.backends.nequix_paths import ProductPath
from pft_lightning.errors import ShapeError


# The arguments of the form, in the order of ``_messages.c``.
COUPLING, FEATURE, WEIGHT, MESSAGE = range(4)

# Atoms of a batch whose pairs have names of their own; see ``_pair_names``.
MOST_ATOMS = 1 << 19

# ``MAX_M`` of ``_messages.c`` holds its components.
_HIGHEST_DEGREE = 7

_SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where the blocks of each path lie in the rows of the four arguments.

    Attributes:
        table: (n_paths, 8), int32: ``struct path`` of ``_messages.c``.
        widths: of rows of couplings, features, weights and messages.
        message_shapes: (components, channels) of each representation of the messages,
            in the order of their rows.
    """

    table: np.ndarray
    widths: tuple[int, int, int, int]
    message_shapes: tuple[tuple[int, int], ...]


# First edge of every group (n_groups + 1,), and the edges group by group, int64.
_Groups = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """Edges sorted by centre. An edge and its reverse are a pair of one length.

    Attributes:
        order: (n_edges,), int64, place of each in the list they were sorted from.
        first_of_pair: (n_pairs,), int64, one edge of each pair.
        centre: (n_edges,), int64, ascending.
        neighbour: (n_edges,), int64.
        pair: (n_edges,), int64.
        groups: by centre, by neighbour and by pair.
    """

    order: torch.Tensor
    first_of_pair: torch.Tensor
    centre: np.ndarray
    neighbour: np.ndarray
    pair: np.ndarray
    groups: tuple[_Groups, _Groups, _Groups]


def sort_edges(edge_index: torch.Tensor, shifts: torch.Tensor, n_atoms: int) -> Edges:
    """Sort edges by centre; to be done before any transform of torch.func.

    Args:
        edge_index: (2, n_edges), int64, centre and neighbour.
        shifts: (n_edges, 3), int8, periodic image of the neighbour.
        n_atoms: number of atoms.
    """
    # Not in torch: under its transforms new tensors have no address.
    centre, neighbour = edge_index.numpy()
    order = np.argsort(centre, kind="stable")
    centre, neighbour = centre[order], neighbour[order]
    _, first, pair = np.unique(
        _pair_names(centre, neighbour, shifts.numpy()[order]),
        return_index=True,
        return_inverse=True,
    )
    return Edges(
        torch.from_numpy(order),
        torch.from_numpy(first),
        centre,
        neighbour,
        pair,
        (
            _group(centre, n_atoms),
            _group(neighbour, n_atoms),
            _group(pair, len(first)),
        ),
    )


def _pair_names(
    centre: np.ndarray, neighbour: np.ndarray, shifts: np.ndarray
) -> np.ndarray:
    """Give (n_edges,) numbers, the same ones to an edge and its reverse."""
    image = (shifts.astype(np.int64) + 128) @ (1 << 16, 1 << 8, 1)
    back = (128 - shifts.astype(np.int64)) @ (1 << 16, 1 << 8, 1)
    flip = (centre > neighbour) | ((centre == neighbour) & (image > back))
    low, high = np.minimum(centre, neighbour), np.maximum(centre, neighbour)
    # 25 bits for the image leave 19 for each atom.
    return np.asarray((low << 44) + (high << 25) + np.where(flip, back, image))


def _group(of: np.ndarray, n_groups: int) -> _Groups:
    starts = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=n_groups))])
    return starts, np.argsort(of, kind="stable")


def make_layout(
    paths: Sequence[ProductPath],
    feature_shapes: Sequence[tuple[int, int]],
    coupling_offsets: dict[tuple[int, int, int], int],
    couplings: int,
) -> Layout:
    """Lay out the arguments of a layer.

    Args:
        paths: of the layer, in the order of their weights.
        feature_shapes: (components, channels) of each representation of the features.
        coupling_offsets: first column of each (degree, harmonic, target degree).
        couplings: number of columns of couplings.
    """
    ends = np.cumsum([0] + [m * n for m, n in feature_shapes])
    targets = sorted({(path.target, path.target_degree) for path in paths})
    channels = [sum(p.channels for p in paths if p.target == t) for t, _ in targets]
    shapes = tuple(
        (2 * degree + 1, n) for (_, degree), n in zip(targets, channels, strict=True)
    )
    starts = np.cumsum([0] + [m * n for m, n in shapes])
    filled = [0] * len(targets)
    rows, weight = [], 0
    for path in paths:
        place = targets.index((path.target, path.target_degree))
        triple = (path.degree, path.harmonic, path.target_degree)
        rows.append(
            (
                2 * path.degree + 1,
                2 * path.target_degree + 1,
                path.channels,
                coupling_offsets[triple],
                ends[path.source],
                weight,
                starts[place] + filled[place],
                channels[place],
            )
        )
        weight += path.channels
        filled[place] += path.channels
    return Layout(
        table=np.ascontiguousarray(rows, dtype=np.int32),
        widths=(couplings, int(ends[-1]), weight, int(starts[-1])),
        message_shapes=shapes,
    )


def can_fuse(reference: torch.Tensor, degree: int) -> bool:
    """Whether the compiled form is to be had.

    Args:
        reference: of the dtype and on the device in question.
        degree: highest one of features and messages.
    """
    return (
        reference.dtype in _SUFFIXES
        and not torch.is_autocast_enabled("cpu")
        and degree <= _HIGHEST_DEGREE
        and reference.device.type == "cpu"
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
        weights: (n_pairs, row of weights).
    """
    received: torch.Tensor = _Form.apply(
        layout, edges, MESSAGE, couplings, features, weights
    )
    return received


class _Form(torch.autograd.Function):
    """Derivative of the multilinear form by one argument, given the other three."""

    @staticmethod
    def forward(
        layout: Layout,
        edges: Edges,
        slot: int,
        *arguments: torch.Tensor,
    ) -> torch.Tensor:
        return _contract(layout, edges, slot, arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.layout, ctx.edges, ctx.slot, *arguments = inputs
        ctx.save_for_backward(*arguments)
        ctx.save_for_forward(*arguments)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, ...]:
        (cotangent,) = cotangents
        gradients: list[torch.Tensor | None] = [None, None, None]
        if cotangent is not None:
            slots = _others(ctx.slot)
            known = dict(zip(slots, ctx.saved_tensors, strict=True))
            known[ctx.slot] = cotangent
            for place, slot in enumerate(slots):
                if _is_wanted(ctx, place):
                    rest = [known[other] for other in _others(slot)]
                    gradients[place] = _Form.apply(ctx.layout, ctx.edges, slot, *rest)
        return None, None, None, *gradients

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor:
        arguments = ctx.saved_tensors
        parts = [
            _Form.apply(
                ctx.layout,
                ctx.edges,
                ctx.slot,
                *(tangent if i == place else a for i, a in enumerate(arguments)),
            )
            for place, tangent in enumerate(tangents[3:])
            if tangent is not None
        ]
        return sum(parts[1:], start=parts[0])

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        layout: Layout,
        edges: Edges,
        slot: int,
        *arguments: torch.Tensor,
    ) -> tuple[torch.Tensor, int]:
        parts = [
            _Form.apply(
                layout,
                edges,
                slot,
                *(
                    a if dim is None else a.select(dim, k)
                    for a, dim in zip(arguments, in_dims[3:], strict=True)
                ),
            )
            for k in range(info.batch_size)
        ]
        return torch.stack(parts), 0


def _is_wanted(ctx: Any, place: int) -> bool:
    """Whether the running backward pass needs the gradient of an argument.

    ``needs_input_grad`` also counts those that lead to the positions alone, which the
    gradients to the weights have no use for.
    """
    if not ctx.needs_input_grad[3 + place]:
        return False
    node = ctx.next_functions[place][0]
    # The question is not answered for leaves.
    if node is None or node.name().endswith("AccumulateGrad"):
        return True
    return bool(torch._C._will_engine_execute_node(node))


def _others(slot: int) -> tuple[int, ...]:
    return tuple(other for other in range(4) if other != slot)


def _contract(
    layout: Layout, edges: Edges, slot: int, arguments: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """Call the compiled form; groups are shared among torch's threads."""
    by_centre, by_neighbour, by_pair = edges.groups
    n_atoms = len(by_centre[0]) - 1
    lengths = (len(edges.centre), n_atoms, len(edges.first_of_pair), n_atoms)
    dtype = arguments[0].dtype
    for other, argument in zip(_others(slot), arguments, strict=True):
        # What follows reads memory without asking.
        if (
            argument.dtype != dtype
            or argument.device.type != "cpu"
            or argument.shape != (lengths[other], layout.widths[other])
        ):
            raise ShapeError(
                f"argument {other} is {argument.dtype} of shape "
                f"{tuple(argument.shape)} on {argument.device}; expected {dtype} of "
                f"shape {(lengths[other], layout.widths[other])} on the CPU."
            )
    arguments = tuple(argument.contiguous() for argument in arguments)
    start, order = {FEATURE: by_neighbour, WEIGHT: by_pair}.get(slot, by_centre)
    n_groups = len(start) - 1
    out = arguments[0].new_zeros(lengths[slot], layout.widths[slot])
    pointers = [argument.data_ptr() for argument in arguments]
    pointers.insert(slot, out.data_ptr())
    index = (start, order, edges.centre, edges.neighbour, edges.pair)
    edge_pointers = (ctypes.c_void_p * 5)(*(array.ctypes.data for array in index))
    widths = (ctypes.c_int64 * 4)(*layout.widths)
    function = _function(out.dtype)

    def work(first: int, last: int) -> None:
        function(
            slot,
            len(layout.table),
            layout.table.ctypes.data,
            first,
            last,
            edge_pointers,
            *pointers,
            widths,
        )

    n_threads = torch.get_num_threads()
    n_shares = min(n_threads, n_groups)
    if n_shares < 2:
        work(0, n_groups)
        return out
    shares = np.linspace(0, len(edges.centre), n_shares + 1)
    bounds = np.searchsorted(start, shares)
    bounds[[0, -1]] = 0, n_groups
    list(_threads(n_threads, os.getpid()).map(work, bounds[:-1], bounds[1:]))
    return out


@cache
def _function(dtype: torch.dtype) -> Any:
    library = load_library("_messages")
    assert library is not None  # can_fuse asked
    function = getattr(library, f"contract_{_SUFFIXES[dtype]}")
    pointer = ctypes.c_void_p
    function.argtypes = [
        ctypes.c_int,
        ctypes.c_int,
        pointer,
        ctypes.c_int64,
        ctypes.c_int64,
        *[pointer] * 6,
    ]
    function.restype = None
    return function


@cache
def _threads(number: int, process: int) -> ThreadPoolExecutor:
    del process  # a fork inherits the pool but none of its threads
    return ThreadPoolExecutor(number)
