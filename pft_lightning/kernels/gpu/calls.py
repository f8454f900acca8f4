"""Sums of forms by Triton, on a GPU."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from pft_lightning.kernels.edges import Edges
from pft_lightning.kernels.gpu.couplings import couplings
from pft_lightning.kernels.gpu.tables import find_tables
from pft_lightning.kernels.gpu.vectors import vectors
from pft_lightning.kernels.gpu.weights import weights
from pft_lightning.kernels.interface import COUPLING, FEATURE, MESSAGE, WEIGHT
from pft_lightning.kernels.layout import Layout
from pft_lightning.kernels.sums import Role, Sum


# For each slot what its kernel calls the other arguments, in its order. In that of
# features all goes the other way: x are the cotangents of messages.
_READS = {
    MESSAGE: {"K": COUPLING, "X": FEATURE, "W": WEIGHT},
    FEATURE: {"K": COUPLING, "X": MESSAGE, "W": WEIGHT},
    WEIGHT: {"K": COUPLING, "S": FEATURE, "G": MESSAGE},
    COUPLING: {"S": FEATURE, "W": WEIGHT, "G": MESSAGE},
}
# After the last term, which so has no other beside it.
_END = (-1, -1, -1)
# A tile is the work of 32 threads.
_OPTIONS = {"num_warps": 1}


class _Terms(NamedTuple):
    """A sum as a kernel has it.

    Attributes:
        places: for each argument that it reads, the tensors that stand for it.
        constants: what it is compiled for.
    """

    places: tuple[tuple[int, ...], ...]
    constants: dict[str, Any]


@functools.lru_cache(maxsize=1024)
def _find_terms(each: Sum, kinds: tuple[tuple[int, bool, int], ...]) -> _Terms:
    """Sort the terms of a sum: those with the same first argument, and those that move.

    Args:
        each: the sum, with places in a list of tensors.
        kinds: for each of these its argument, whether it came up along a direction,
            and its number of axes.
    """
    reads = _READS[each.slot]
    in_terms = {i for term in each.terms for i in term}
    places = {
        role: tuple(i for i in sorted(in_terms - {-1}) if kinds[i][0] == role)
        for role in reads.values()
    }
    local = {i: n for found in places.values() for n, i in enumerate(found)}
    sparse = {
        role: tuple(n for n, i in enumerate(found) if kinds[i][1])
        for role, found in places.items()
    }
    order = list(reads.values())
    if each.slot == COUPLING:  # what terms have in common comes first
        order = [MESSAGE, FEATURE, WEIGHT]
    terms = sorted(tuple(local[term[role]] for role in order) for term in each.terms)
    by_motion: dict[bool, list[int]] = {False: [], True: []}
    for term in terms:
        moves = any(n in sparse[role] for n, role in zip(term, order, strict=True))
        by_motion[moves] += term
    constants = {
        "EVERYWHERE": (*by_motion[False], *_END) if by_motion[False] else (),
        "MOVING": (*by_motion[True], *_END) if by_motion[True] else (),
        **{f"SPARSE_{x}": sparse[reads[x]] for x in reads if x in "KW"},
        **{
            f"PROBES_{x}": tuple(int(kinds[i][2] == 3) for i in places[role])
            for x, role in reads.items()
        },
    }
    return _Terms(tuple(places.values()), constants)


def contract(
    layout: Layout,
    edges: Edges,
    each: Sum,
    roles: Sequence[Role],
    still: torch.Tensor | None,
    needed: Sequence[torch.Tensor],
    out: torch.Tensor,
) -> None:
    """Launch the kernel of the slot, for all probes.

    Args:
        layout: of the layer.
        edges: the neighbours, on the device.
        each: the sum of forms, with places in ``needed``.
        roles: of these.
        still: (n_pairs,), bool, see ``still_pairs``; None where nothing is known.
        needed: contiguous, (n_rows, row) or (n_probes, n_rows, row).
        out: to be written, the same way.
    """
    slot, tables = each.slot, find_tables(layout, out.device)
    n_rows, n_tiles = out.shape[-2], tables.tiles[slot].shape[0]
    if not each.terms or not tables.is_complete[slot]:
        out.zero_()
    if not each.terms or n_rows == 0:
        return
    kinds = (
        (role.argument, role.direction is not None, tensor.ndim)
        for role, tensor in zip(roles, needed, strict=True)
    )
    terms = _find_terms(each, tuple(kinds))
    read = [tuple([needed[i] for i in found]) for found in terms.places]
    constants = dict(terms.constants)
    index: tuple[torch.Tensor, ...]
    by_centre, by_neighbour, by_pair = edges.groups
    if slot == MESSAGE:
        kernel: Any = vectors
        index = (tables.paths[slot], *by_centre, edges.neighbour, edges.pair)
    elif slot == FEATURE:
        kernel = vectors
        index = (tables.paths[slot], *by_neighbour, edges.centre, edges.pair)
    elif slot == COUPLING:
        kernel = couplings
        index = (tables.paths[slot], edges.neighbour, edges.pair, edges.centre)
    else:
        kernel = weights
        own = needed[each.own] if still is not None else out
        constants |= {"HAS_OWN": still is not None, "OWN_PROBES": int(own.ndim == 3)}
        index = (own, by_pair[0] if still is None else still)
        index += (*by_pair, edges.neighbour, edges.centre)
    arguments = (*_READS[slot].values(), slot)
    lengths = edges.lengths
    with torch.cuda.device_of(out):
        kernel[n_rows * n_tiles, out.shape[0] if out.ndim == 3 else 1](
            out, *read, tables.tiles[slot], *index, n_tiles,
            *[lengths[role] for role in arguments],
            *[layout.widths[role] for role in arguments],
            WIDTHS=tables.widths, WIDEST=tables.widths[-1],
            CHANNELS=tables.channels, **constants, **_OPTIONS,
        )  # fmt: skip
