"""Sums of forms by Triton, on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pft_lightning.kernels.edges import Edges
from pft_lightning.kernels.gpu.couplings import couplings
from pft_lightning.kernels.gpu.tables import Tables, find_tables
from pft_lightning.kernels.gpu.vectors import vectors
from pft_lightning.kernels.gpu.weights import weights
from pft_lightning.kernels.interface import COUPLING, FEATURE, MESSAGE, WEIGHT
from pft_lightning.kernels.layout import Layout
from pft_lightning.kernels.sums import Role, Sum


# Of each slot the arguments of its terms, the one first whose values are shared.
_ORDER = {
    MESSAGE: (COUPLING, FEATURE, WEIGHT),
    FEATURE: (COUPLING, MESSAGE, WEIGHT),
    WEIGHT: (COUPLING, FEATURE, MESSAGE),
    COUPLING: (MESSAGE, FEATURE, WEIGHT),
}
# A tile is the work of 32 threads.
_OPTIONS = {"num_warps": 1}


class _Arguments:
    """The tensors of a sum by what they are, and its terms as constants.

    Args:
        each: the sum, with places in ``needed``.
        roles: of these.
        needed: the tensors.
    """

    def __init__(
        self, each: Sum, roles: Sequence[Role], needed: Sequence[torch.Tensor]
    ) -> None:
        in_terms = {i for term in each.terms for i in term}
        places: list[list[int]] = [[], [], [], []]
        for i, role in enumerate(roles):
            if i in in_terms:
                places[role.argument].append(i)
        order = _ORDER[each.slot]
        local = {i: n for found in places for n, i in enumerate(found)}
        self.tensors = [tuple(needed[i] for i in found) for found in places]
        self.probes = [tuple(int(x.ndim == 3) for x in found) for found in self.tensors]
        self.sparse = [
            tuple(n for n, i in enumerate(found) if roles[i].direction is not None)
            for found in places
        ]
        terms = sorted(
            tuple(local[term[role]] for role in order) for term in each.terms
        )
        moving = [
            any(term[n] in self.sparse[role] for n, role in enumerate(order))
            for term in terms
        ]
        kept = list(zip(terms, moving, strict=True))
        self.everywhere = tuple(i for term, moves in kept if not moves for i in term)
        self.moving = tuple(i for term, moves in kept if moves for i in term)


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
    tables = find_tables(layout, out.device)
    slot = each.slot
    if not each.terms or not tables.is_complete[slot]:
        out.zero_()
    n_rows, n_tiles = out.shape[-2], len(tables.tiles[slot])
    if not each.terms or n_rows == 0:
        return
    arguments = _Arguments(each, roles, needed)
    grid = (n_rows * n_tiles, len(out) if out.ndim == 3 else 1)
    own = needed[each.own] if each.own >= 0 and still is not None else None
    launch = {WEIGHT: _launch_weights, COUPLING: _launch_couplings}.get(
        slot, _launch_vectors
    )
    with torch.cuda.device_of(out):
        launch(layout, edges, slot, tables, arguments, grid, out, own, still)


def _launch_vectors(
    layout: Layout,
    edges: Edges,
    slot: int,
    tables: Tables,
    arguments: _Arguments,
    grid: tuple[int, int],
    out: torch.Tensor,
    *_: Any,
) -> None:
    by_centre, by_neighbour, _by_pair = edges.groups
    # Messages go from neighbours to centres, their cotangents back.
    other, (start, order), row = (
        (FEATURE, by_centre, edges.neighbour)
        if slot == MESSAGE
        else (MESSAGE, by_neighbour, edges.centre)
    )
    roles = (COUPLING, other, WEIGHT)
    k, x, w = (arguments.tensors[role] for role in roles)
    lengths, widths = edges.lengths, layout.widths
    vectors[grid](
        out, k, x, w, tables.tiles[slot], tables.paths[slot],
        start, order, row, edges.pair, len(tables.tiles[slot]),
        *(lengths[role] for role in (*roles, slot)),
        *(widths[role] for role in (*roles, slot)),
        EVERYWHERE=arguments.everywhere, MOVING=arguments.moving,
        SPARSE_K=arguments.sparse[COUPLING], SPARSE_W=arguments.sparse[WEIGHT],
        **_probes(arguments, "KXW", roles),
        WIDEST=tables.widest, CHANNELS=tables.channels, **_OPTIONS,
    )  # fmt: skip


def _launch_weights(
    layout: Layout,
    edges: Edges,
    slot: int,
    tables: Tables,
    arguments: _Arguments,
    grid: tuple[int, int],
    out: torch.Tensor,
    own: torch.Tensor | None,
    still: torch.Tensor | None,
) -> None:
    roles = (COUPLING, FEATURE, MESSAGE)
    k, s, g = (arguments.tensors[role] for role in roles)
    lengths, widths = edges.lengths, layout.widths
    start, order = edges.groups[2]
    weights[grid](
        out, k, s, g, out if own is None else own, order if still is None else still,
        tables.tiles[slot], start, order, edges.neighbour, edges.centre,
        len(tables.tiles[slot]),
        *(lengths[role] for role in (*roles, slot)),
        *(widths[role] for role in (*roles, slot)),
        EVERYWHERE=arguments.everywhere, MOVING=arguments.moving,
        SPARSE_K=arguments.sparse[COUPLING],
        **_probes(arguments, "KSG", roles),
        HAS_OWN=own is not None, OWN_PROBES=int(own is not None and own.ndim == 3),
        WIDEST=tables.widest, CHANNELS=tables.channels, **_OPTIONS,
    )  # fmt: skip


def _launch_couplings(
    layout: Layout,
    edges: Edges,
    slot: int,
    tables: Tables,
    arguments: _Arguments,
    grid: tuple[int, int],
    out: torch.Tensor,
    *_: Any,
) -> None:
    roles = (FEATURE, WEIGHT, MESSAGE)
    s, w, g = (arguments.tensors[role] for role in roles)
    lengths, widths = edges.lengths, layout.widths
    couplings[grid](
        out, s, w, g, tables.tiles[slot], tables.paths[slot],
        edges.neighbour, edges.pair, edges.centre, len(tables.tiles[slot]),
        *(lengths[role] for role in (*roles, slot)),
        *(widths[role] for role in (*roles, slot)),
        EVERYWHERE=arguments.everywhere, MOVING=arguments.moving,
        SPARSE_W=arguments.sparse[WEIGHT],
        **_probes(arguments, "SWG", roles),
        WIDEST=tables.widest, CHANNELS=tables.channels, **_OPTIONS,
    )  # fmt: skip


def _probes(
    arguments: _Arguments, letters: str, roles: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Of the tensors of each role, which have an axis of probes."""
    return {
        f"PROBES_{letter}": arguments.probes[role]
        for letter, role in zip(letters, roles, strict=True)
    }
