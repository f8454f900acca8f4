"""What sources that hold their entries have in common."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import numpy as np
from torch_geometric.data import Data
from typing_extensions import Self


EntryT = TypeVar("EntryT")


class Entries(ABC, Generic[EntryT]):
    """Entries of files, and views of some of them.

    A class that makes some hands them to ``_index``.

    Attributes:
        names: one per entry, unique.
        elements: for each entry, its sorted atomic numbers.
        n_atoms: (n_entries,), int64.
    """

    names: list[str]
    elements: list[tuple[int, ...]]
    n_atoms: np.ndarray
    _entries: list[EntryT]
    _n_edges: np.ndarray | None

    @abstractmethod
    def data(self, index: int) -> Data:
        """Give one entry as a graph in the neutral schema, float64."""

    @abstractmethod
    def _describe(self, entry: EntryT) -> tuple[str, tuple[int, ...], int]:
        """Name, sorted elements and number of atoms of an entry."""

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.names)

    @property
    def n_edges(self) -> np.ndarray:
        """(n_entries,), int64: builds all graphs once to count their edges."""
        if self._n_edges is None:
            edges = [self.data(i).num_edges for i in range(len(self))]
            self._n_edges = np.array(edges, dtype=np.int64)
        return self._n_edges

    def subset(self, indices: Sequence[int]) -> Self:
        """Give a view of some entries, in the given order."""
        view, chosen = copy.copy(self), list(indices)
        view._index([self._entries[i] for i in chosen])
        view._n_edges = None if self._n_edges is None else self._n_edges[chosen]
        return view

    def select(self, allowed: Iterable[int]) -> tuple[Self, list[str]]:
        """Keep the entries whose elements are all allowed.

        Args:
            allowed: atomic numbers that the model knows.

        Returns:
            The view, and the names of the entries that were left out.
        """
        permitted = set(allowed)
        fits = [permitted >= set(elements) for elements in self.elements]
        kept = [i for i, fit in enumerate(fits) if fit]
        return self.subset(kept), [
            name for name, fit in zip(self.names, fits, strict=True) if not fit
        ]

    def _index(self, entries: list[EntryT]) -> None:
        """Lay out what is asked of many entries at once."""
        self._entries = entries
        self._n_edges = None
        described = [self._describe(entry) for entry in entries]
        self.names = [name for name, _, _ in described]
        self.elements = [elements for _, elements, _ in described]
        self.n_atoms = np.array([n_atoms for *_, n_atoms in described], dtype=np.int64)


def elements_of(atomic_numbers: np.ndarray) -> tuple[int, ...]:
    """Sorted atomic numbers that occur in (n_atoms,) of them."""
    return tuple(sorted(set(atomic_numbers.tolist())))
