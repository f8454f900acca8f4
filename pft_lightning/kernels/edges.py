"""Edges in the groups that the compiled messages work through, and pairs of edges."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from typing_extensions import Self

from pft_lightning.errors import ShapeError


# Atoms of a batch whose pairs have names of their own; see ``_pair_names``.
MOST_ATOMS = 1 << 19

# First edge of every group (n_groups + 1,), and the edges group by group, int64.
_Groups = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """Edges, and the rows that they read from and add to.

    Attributes:
        centre: (n_edges,), int64, who receives the message.
        neighbour: (n_edges,), int64, who sends it.
        pair: (n_edges,), int64, the row of radial weights.
        first_of_pair: (n_pairs,), int64, one edge of each pair.
        groups: by centre, by neighbour and by pair.
    """

    centre: torch.Tensor
    neighbour: torch.Tensor
    pair: torch.Tensor
    first_of_pair: torch.Tensor
    groups: tuple[_Groups, _Groups, _Groups]

    @property
    def lengths(self) -> tuple[int, int, int, int]:
        """Numbers of rows of couplings, features, weights and messages."""
        n_atoms = self.groups[0][0].shape[0] - 1
        n_edges, n_pairs = self.centre.shape[0], self.first_of_pair.shape[0]
        return n_edges, n_atoms, n_pairs, n_atoms

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Copy to a device; itself if it is there.

        Args:
            device: that computes.
            non_blocking: do not wait for the copy (from pinned memory).
        """
        if self.centre.device == torch.device(device):
            return self
        return self.map_tensors(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Copy to memory from which a GPU reads by itself."""
        return self.map_tensors(torch.Tensor.pin_memory)

    def map_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """Copy with every tensor changed, in a fixed order."""
        changed: dict[str, Any] = {
            field.name: change(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name != "groups"
        }
        groups: Any = tuple((change(a), change(b)) for a, b in self.groups)
        return dataclasses.replace(self, groups=groups, **changed)


@dataclass(frozen=True, slots=True, eq=False)
class PairedEdges(Edges):
    """Edges sorted by centre. An edge and its reverse are a pair of one length.

    Attributes:
        order: (n_edges,), int64, place of each in the list they were sorted from.
    """

    order: torch.Tensor


def group_edges(centre: torch.Tensor, neighbour: torch.Tensor, n_atoms: int) -> Edges:
    """Group edges as they are; each has radial weights of its own.

    Done on the CPU: what is on a GPU is waited for.

    Args:
        centre: (n_edges,), int64.
        neighbour: (n_edges,), int64.
        n_atoms: number of atoms.
    """
    # The compiled code takes addresses, of arrays without gaps.
    receivers, senders = (x.cpu().long().contiguous() for x in (centre, neighbour))
    each = torch.arange(len(receivers) + 1)
    pair = each[:-1]
    by_atoms = _group(receivers.numpy(), n_atoms), _group(senders.numpy(), n_atoms)
    edges = Edges(receivers, senders, pair, pair, (*by_atoms, (each, pair)))
    return edges.to(centre.device)


def pair_edges(
    edge_index: torch.Tensor, shifts: torch.Tensor, n_atoms: int
) -> PairedEdges:
    """Sort edges by centre and find the reverse of each.

    Done on the CPU: what is on a GPU is waited for.

    Args:
        edge_index: (2, n_edges), int64, centre and neighbour.
        shifts: (n_edges, 3), int8, periodic image of the neighbour.
        n_atoms: number of atoms.
    """
    centre, neighbour = edge_index.cpu().numpy().astype(np.int64)
    order = np.argsort(centre, kind="stable")
    centre, neighbour = centre[order], neighbour[order]
    _, first, pair = np.unique(
        _pair_names(centre, neighbour, shifts.cpu().numpy()[order]),
        return_index=True,
        return_inverse=True,
    )
    groups = (
        _group(centre, n_atoms),
        _group(neighbour, n_atoms),
        _group(pair, len(first)),
    )
    edges = PairedEdges(
        centre=torch.from_numpy(centre),
        neighbour=torch.from_numpy(neighbour),
        pair=torch.from_numpy(pair),
        first_of_pair=torch.from_numpy(first),
        groups=groups,
        order=torch.from_numpy(order),
    )
    return edges.to(edge_index.device)


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
    counts = np.bincount(of, minlength=n_groups)
    if len(counts) > n_groups:  # the compiled code would write beyond the last row
        raise ShapeError(f"an edge names atom {of.max()}; there are {n_groups}.")
    starts = np.concatenate([[0], np.cumsum(counts)])
    order = np.argsort(of, kind="stable")
    return torch.from_numpy(starts), torch.from_numpy(order)
