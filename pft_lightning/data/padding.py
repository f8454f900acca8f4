"""Batches of few sizes, for a GPU that repeats what it did for one of the same size.

Structures that do not count fill a batch up: atoms with images of themselves as
neighbours, so that edges have lengths for which every model is defined. They do not
interact with the others, so what is computed of those stays the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch_geometric.data import Data

from pft_lightning import keys


# From one size to the next. Edges are the work, of which a tenth is for nothing then;
# atoms are little work, and few sizes of them make few sizes of batches.
EDGE_RATIO, ATOM_RATIO = 1.2, 1.5

# Images of an atom that a padding atom is bound to, one of each two that are opposite.
_REACH = 2
_IMAGES = [
    image
    for image in itertools.product(range(-_REACH, _REACH + 1), repeat=3)
    if image > (0, 0, 0)
]

_OF_ATOMS = (keys.FORCES, keys.TANGENTS, keys.TARGETS)


def round_up(size: int, ratio: float) -> int:
    """The next of the sizes that batches are filled up to; even.

    Args:
        size: atoms or edges.
        ratio: of a size to the one before.
    """
    found = 8
    while found < size:
        found = 2 * math.ceil(found * ratio / 2)
    return found


@dataclass(frozen=True, slots=True)
class Padding:
    """Fills batches up; pickled into the processes of a loader.

    Attributes:
        structures: that a batch holds at most, before it is filled up.
        cutoff: of the model, Å.
    """

    structures: int
    cutoff: float

    def __call__(self, structures: Sequence[Data]) -> list[Data]:
        """The structures of a batch, and others that fill it up.

        There is one more structure than fits, at least, and at least one more atom.

        Args:
            structures: with the edges that the model needs and no others.
        """
        first = structures[0]
        n_edges = sum(data.num_edges for data in structures)
        n_atoms = sum(data.num_nodes for data in structures)
        n_fill = self.structures + 1 - len(structures)
        more_edges = round_up(n_edges, EDGE_RATIO) - n_edges
        # Edges lie on the atoms of the last, at most so many on each.
        least = math.ceil(more_edges / (2 * len(_IMAGES)))
        needed = n_atoms + n_fill - 1 + max(least, 1)
        more_atoms = round_up(needed, ATOM_RATIO) - n_atoms
        alone = [self._fill(first, 1, 0) for _ in range(n_fill - 1)]
        return [
            *structures,
            *alone,
            self._fill(first, more_atoms - n_fill + 1, more_edges),
        ]

    def _fill(self, first: Data, n_atoms: int, n_edges: int) -> Data:
        """A structure that does not count.

        Args:
            first: another one of the batch, whose fields it has.
            n_atoms: its atoms, far from each other.
            n_edges: its edges, even.
        """
        data = first.clone()
        data.num_nodes = n_atoms
        for name, value in first.to_dict().items():
            if isinstance(value, torch.Tensor) and name in _OF_ATOMS:
                data[name] = value.new_zeros(n_atoms, *value.shape[1:])
            elif isinstance(value, torch.Tensor):
                data[name] = torch.zeros_like(value)
        for name in (keys.WEIGHTS, keys.SHARE):
            if name in data:
                data[name] = torch.ones_like(data[name])
        # The farthest image is a tenth of the cutoff within it.
        length = 0.9 * self.cutoff / math.sqrt(3 * _REACH**2)
        data[keys.CELL] = length * torch.eye(3, dtype=first[keys.CELL].dtype)[None]
        data[keys.PBC] = torch.ones_like(first[keys.PBC])
        data[keys.POSITIONS] = first[keys.POSITIONS].new_zeros(n_atoms, 3)
        data[keys.ATOMIC_NUMBERS] = first[keys.ATOMIC_NUMBERS][:1].repeat(n_atoms)
        pair = torch.arange(n_edges // 2)
        atom, image = pair % n_atoms, torch.tensor(_IMAGES)[pair // n_atoms]
        both = torch.cat([atom, atom])
        data[keys.EDGE_INDEX] = torch.stack([both, both])
        data[keys.EDGE_SHIFTS] = torch.cat([image, -image]).to(
            first[keys.EDGE_SHIFTS].dtype
        )
        data[keys.NAME] = keys.PADDING
        return data
