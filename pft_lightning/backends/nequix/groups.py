"""Messages of a Nequix layer by matrix products over groups of neighbours.

On devices without the compiled form (``messages``): a group of neighbours of one
atom is one matrix, so that messages are contracted while they are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pft_lightning.kernels.layout import ProductPath


# Neighbours in a group. Larger ones make fewer sums and larger matrices, but more of
# their places stay empty: half a group per atom, which has some 60 neighbours.
_GROUP_SIZE = 16


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Neighbours in groups of one size; all of a group belong to one atom.

    Attributes:
        vectors: (n_groups * size, 3), Å. Empty places hold vectors longer than the
            cutoff, so that their messages are exactly zero.
        index: (n_groups * size,), int64, atom at the end of each vector.
        owner: (n_groups,), int64, atom that a group belongs to.
    """

    vectors: torch.Tensor
    index: torch.Tensor
    owner: torch.Tensor


class NeighbourGroups(NamedTuple):
    """Which edge is where in the groups; moves to a device with its batch.

    Attributes:
        edge: (n_groups * size,), int64, places in the list of edges; those of empty
            places are one behind the last edge.
        neighbour: (n_groups * size,), int64, ``index`` of ``Neighbours``.
        owner: (n_groups,), int64, see ``Neighbours``.
    """

    edge: torch.Tensor
    neighbour: torch.Tensor
    owner: torch.Tensor

    def map_tensors(
        self, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> NeighbourGroups:
        """Copy with every tensor changed, in a fixed order."""
        return NeighbourGroups(*map(change, self))

    def arrange(self, vectors: torch.Tensor, cutoff: float) -> Neighbours:
        """Put vectors of edges (n_edges, 3), Å, in their places."""
        distant = vectors.new_full((1, 3), 2.0 * cutoff)
        ordered = torch.cat([vectors, distant]).index_select(0, self.edge)
        return Neighbours(ordered, self.neighbour, self.owner)


def group_neighbours(
    centre: torch.Tensor, neighbour: torch.Tensor, n_atoms: int
) -> NeighbourGroups:
    """Arrange edges in groups of one centre.

    Args:
        centre: (n_edges,), int64, on the CPU.
        neighbour: (n_edges,), int64.
        n_atoms: number of atoms.
    """
    n_edges = len(centre)
    counts = torch.bincount(centre, minlength=n_atoms)
    n_groups = (counts + _GROUP_SIZE - 1) // _GROUP_SIZE
    order = torch.argsort(centre, stable=True)
    centre = centre[order]
    rank = torch.arange(n_edges) - (counts.cumsum(0) - counts)[centre]
    place = (n_groups.cumsum(0) - n_groups)[centre] * _GROUP_SIZE + rank
    owner = torch.repeat_interleave(n_groups)
    # Empty places point at one more vector, behind the last edge.
    edge = torch.full((len(owner) * _GROUP_SIZE,), n_edges)
    edge[place] = order
    index = torch.cat([neighbour, neighbour.new_zeros(1)])[edge]
    return NeighbourGroups(edge, index, owner)


def grouped_messages(
    paths: Sequence[ProductPath],
    shapes: Sequence[tuple[int, int]],
    neighbours: Neighbours,
    couplings: Mapping[tuple[int, int, int], torch.Tensor],
    features: torch.Tensor,
    weights: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Sum the messages of all neighbours, (n_atoms, row of messages).

    Args:
        paths: of the layer.
        shapes: (components, channels) of each representation of the features.
        neighbours: in groups.
        couplings: see ``NequixNetwork.couplings``.
        features: (n_atoms, row of features).
        weights: (n_groups * size, channels) per path.
    """
    n_groups = len(neighbours.owner)
    rows = features.index_select(0, neighbours.index)
    parts = rows.split(
        [components * channels for components, channels in shapes], dim=1
    )
    sent = [x.unflatten(1, shape) for x, shape in zip(parts, shapes, strict=True)]
    received: dict[int, list[torch.Tensor]] = {}
    for path, weight in zip(paths, weights, strict=True):
        n_rows = _GROUP_SIZE * (2 * path.degree + 1)
        message = (sent[path.source] * weight[:, None]).view(
            n_groups, n_rows, path.channels
        )
        coupling = couplings[path.degree, path.harmonic, path.target_degree]
        coupling = coupling.view(n_groups, n_rows, 2 * path.target_degree + 1)
        received.setdefault(path.target, []).append(
            torch.bmm(coupling.transpose(1, 2), message)
        )
    blocks = [torch.cat(x, dim=2).flatten(1) for _, x in sorted(received.items())]
    groups = torch.cat(blocks, dim=1)
    zeros = groups.new_zeros(len(features), groups.shape[1])
    return zeros.index_add(0, neighbours.owner, groups)
