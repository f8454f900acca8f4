"""The compiled form behind ``messages``: what it is asked for, and how it is called."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from pft_lightning.errors import ShapeError
from pft_lightning.kernels.edges import Edges
from pft_lightning.kernels.interface import (
    FEATURE,
    MESSAGE,
    WEIGHT,
    CSum,
    load_messages,
)
from pft_lightning.kernels.layout import Layout


# Products of numbers for which it is worth to wake another thread (0.1 ms).
_LEAST_SHARE = 1 << 22

SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}


class Role(NamedTuple):
    """What a tensor is.

    Attributes:
        argument: of the form.
        still: (number of rows,), bool, rows that are zero whatever the weights of the
            network are; None where there are none. Nobody needs their gradient.
    """

    argument: int
    still: np.ndarray | None = None


class Sum(NamedTuple):
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


def renamed(each: Sum, places: Mapping[int, int]) -> Sum:
    """Give the tensors of a sum other places."""
    terms = tuple(tuple(places[i] for i in term) for term in each.terms)
    return Sum(each.slot, terms, places[each.own])


def contract(
    layout: Layout,
    edges: Edges,
    each: Sum,
    roles: Sequence[Role],
    tensors: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Call the compiled form; groups are shared among torch's threads.

    Args:
        layout: of the layer.
        edges: the neighbours.
        each: the sum of forms.
        roles: what each of the tensors is.
        tensors: on the CPU, of one dtype.

    Returns:
        (n_rows, row of the argument that is left out).

    Raises:
        ShapeError: a tensor is not what its role says.
    """
    named = each.places
    still = roles[each.own].still if each.own >= 0 else None
    kinds = np.array([roles[i].argument for i in named], dtype=np.int32)
    lengths = _lengths(edges)
    _check(layout, lengths, kinds, [tensors[i] for i in named], tensors[0].dtype)
    needed = [_in_memory(tensors[i]) for i in named]
    each = renamed(each, {-1: -1} | {old: new for new, old in enumerate(named)})
    out = torch.empty(
        lengths[each.slot], layout.widths[each.slot], dtype=tensors[0].dtype
    )
    start, job = _describe(layout, edges, each, kinds, still, needed, out)
    function = _function(out.dtype)

    def work(first: int, last: int) -> None:
        function(ctypes.byref(job), first, last)

    products = len(edges.centre) * len(each.terms) * layout.products
    _share_out(work, start, len(edges.centre), products)
    return out


def _lengths(edges: Edges) -> tuple[int, int, int, int]:
    """Numbers of rows of the four arguments."""
    by_centre, _, by_pair = edges.groups
    n_atoms = len(by_centre[0]) - 1
    return len(edges.centre), n_atoms, len(by_pair[0]) - 1, n_atoms


def _check(
    layout: Layout,
    lengths: Sequence[int],
    kinds: np.ndarray,
    needed: Sequence[torch.Tensor],
    dtype: torch.dtype,
) -> None:
    """Refuse what the compiled form would read beyond; it asks for nothing."""
    for role, tensor in zip(kinds, needed, strict=True):
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


def _describe(
    layout: Layout,
    edges: Edges,
    each: Sum,
    kinds: np.ndarray,
    still: np.ndarray | None,
    needed: list[torch.Tensor],
    out: torch.Tensor,
) -> tuple[np.ndarray, CSum]:
    """Say to the compiled form what to do; gives where its groups start, too."""
    by_centre, by_neighbour, by_pair = edges.groups
    start, order = {FEATURE: by_neighbour, WEIGHT: by_pair}.get(each.slot, by_centre)
    # Those next to each other with the same cotangents make couplings as one.
    in_order = sorted(each.terms, key=lambda term: term[MESSAGE])
    terms = np.array(in_order, dtype=np.int32)
    addresses = np.array([tensor.data_ptr() for tensor in needed], dtype=np.uintp)
    arrays = (layout.table, kinds, terms, addresses)
    index = (start, order, edges.centre, edges.neighbour, edges.pair)
    job = CSum(
        each.slot,
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
    return start, job


def _share_out(
    work: Callable[[int, int], None], start: np.ndarray, n_edges: int, products: int
) -> None:
    """Do all groups, from one to another, in as many threads as are worth waking."""
    n_groups, n_threads = len(start) - 1, torch.get_num_threads()
    n_shares = max(1, min(n_threads, n_groups, 1 + products // _LEAST_SHARE))
    shares = np.linspace(0, n_edges, n_shares + 1)
    bounds = np.searchsorted(start, shares)
    bounds[[0, -1]] = 0, n_groups
    others = []
    if n_shares > 1:
        pool = _threads(n_threads, os.getpid())
        others = [pool.submit(work, *bounds[i : i + 2]) for i in range(1, n_shares)]
    work(*bounds[:2])
    for other in others:
        other.result()


def _in_memory(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor whose numbers are where its address says."""
    if tensor._is_zerotensor():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    return tensor.resolve_neg().contiguous()


@cache
def _function(dtype: torch.dtype) -> Any:
    library = load_messages()
    assert library is not None  # can_fuse asked
    function = getattr(library, f"contract_{SUFFIXES[dtype]}")
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    function.restype = None
    return function


@cache
def _threads(number: int, process: int) -> ThreadPoolExecutor:
    del process  # a fork inherits the pool but none of its threads
    return ThreadPoolExecutor(number)
