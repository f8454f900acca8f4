"""Sums of forms by the compiled C code, on a CPU."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch

from pft_lightning.kernels.edges import Edges
from pft_lightning.kernels.interface import (
    FEATURE,
    MESSAGE,
    WEIGHT,
    CSum,
    load_messages,
)
from pft_lightning.kernels.layout import Layout
from pft_lightning.kernels.sums import Role, Sum


# Products of numbers for which it is worth to wake another thread (0.1 ms).
_LEAST_SHARE = 1 << 22

_SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}


def contract(
    layout: Layout,
    edges: Edges,
    each: Sum,
    roles: Sequence[Role],
    still: torch.Tensor | None,
    needed: Sequence[torch.Tensor],
    out: torch.Tensor,
) -> None:
    """Call the compiled form, for one probe after another.

    Groups are shared among torch's threads.

    Args:
        layout: of the layer.
        edges: the neighbours.
        each: the sum of forms, with places in ``needed``.
        roles: of these.
        still: (n_pairs,), bool, see ``still_pairs``; None where nothing is known.
        needed: contiguous, (n_rows, row) or (n_probes, n_rows, row).
        out: to be written, the same way.
    """
    arguments = np.array([role.argument for role in roles], dtype=np.int32)
    function = _function(out.dtype)
    products = len(edges.centre) * len(each.terms) * layout.products
    for k in range(len(out) if out.ndim == 3 else 1):
        of_probe = [tensor[k] if tensor.ndim == 3 else tensor for tensor in needed]
        to = out[k] if out.ndim == 3 else out
        start, job = _describe(layout, edges, each, arguments, still, of_probe, to)

        def work(first: int, last: int, job: CSum = job) -> None:
            function(ctypes.byref(job), first, last)

        _share_out(work, start, len(edges.centre), products)


def _describe(
    layout: Layout,
    edges: Edges,
    each: Sum,
    arguments: np.ndarray,
    still: torch.Tensor | None,
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
    arrays = (layout.table, arguments, terms, addresses)
    index = (start, order, edges.centre, edges.neighbour, edges.pair)
    job = CSum(
        each.slot,
        len(layout.table),
        len(needed),
        len(terms),
        *(array.ctypes.data for array in arrays),
        out.data_ptr(),
        None if still is None else int(addresses[each.own]),
        None if still is None else still.data_ptr(),
        *(tensor.data_ptr() for tensor in index),
        (ctypes.c_int64 * 4)(*layout.widths),
    )
    # After Ctrl-C a thread may still work on them.
    job.memory = (needed, out, arrays, index, still)
    return start.numpy(), job


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


@cache
def _function(dtype: torch.dtype) -> Any:
    library = load_messages()
    assert library is not None  # can_fuse asked
    function = getattr(library, f"contract_{_SUFFIXES[dtype]}")
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    function.restype = None
    return function


@cache
def _threads(number: int, process: int) -> ThreadPoolExecutor:
    del process  # a fork inherits the pool but none of its threads
    return ThreadPoolExecutor(number)
