"""Reading a store: the index at once, structures one by one."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from torch_geometric.data import Data

from pft_lightning.data.commensurate import fold_record, q_point_orders
from pft_lightning.data.records import StructureRecord, to_data
from pft_lightning.data.store.file import PLACE
from pft_lightning.data.store.format import decode
from pft_lightning.data.store.index import open_store, unique_names
from pft_lightning.errors import DataFormatError
from pft_lightning.graphs import Graph, build_graph


class PhononStore:
    """Phonon structures on disk, with their force constants and graphs.

    Opening reads only the index. Structures are read, and verified by their
    checksums, one by one; the object can be pickled, and used by the workers of a
    data loader.

    Args:
        path: the store's directory.

    Attributes:
        path: the store's directory.
        cutoff: of the graphs that ``data`` gives, Å.
        names: one per structure, unique.
        n_atoms: (n_structures,), int64.
        n_edges: (n_structures,), int64, of the cached graphs.
        elements: for each structure, its sorted atomic numbers.
        has_third_order: (n_structures,), bool: it has third-order force constants.
        report: of the build.

    Raises:
        DataFormatError: no store, an unfinished, damaged or truncated one, or one of
            another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        cutoff, entries, self.report, self._reader = open_store(self.path)
        usable = [entry for entry in entries if "skipped" not in entry]
        self._cached_cutoff = self.cutoff = cutoff
        self.names = unique_names(entry["name"] for entry in usable)
        self._places: list[list[int]] = [entry[PLACE] for entry in usable]
        self.n_atoms = np.array([e["n_atoms"] for e in usable], dtype=np.int64)
        self.n_edges = np.array([e["n_edges"] for e in usable], dtype=np.int64)
        self.elements: list[tuple[int, ...]] = [tuple(e["elements"]) for e in usable]
        third = [bool(entry.get("third_order")) for entry in usable]
        self.has_third_order = np.array(third, dtype=bool)

    def __len__(self) -> int:
        """Number of structures."""
        return len(self._places)

    def __repr__(self) -> str:
        """Say what the store is and holds."""
        return (
            f"PhononStore({str(self.path)!r}, {len(self)} structures, "
            f"cutoff={self.cutoff:g} Å)"
        )

    @property
    def atomic_numbers(self) -> set[int]:
        """All elements that occur."""
        return {number for elements in self.elements for number in elements}

    def record(self, index: int) -> StructureRecord:
        """Read one structure."""
        return self._load(index)[0]

    def data(self, index: int) -> Data:
        """Read one structure as a graph in the neutral schema, float64."""
        record, graph = self._load(index)
        if self.cutoff < self._cached_cutoff:
            graph = _shorten(graph, record, self.cutoff)
        return to_data(record, graph)

    def folded_data(self, index: int, q_point: int) -> Data:
        """Read one structure in the commensurate cell of a q-point, as ``data`` does.

        Its neighbours are searched each time: that takes less than reading them.
        """
        record = fold_record(self.record(index), q_point)
        graph = build_graph(record.positions, record.cell, record.pbc, self.cutoff)
        return to_data(record, graph)

    def q_point_orders(self) -> list[np.ndarray]:
        """Read how many primitive cells each commensurate q-point needs.

        Returns:
            For each structure one number per q-point.
        """
        return [q_point_orders(self.record(index)) for index in range(len(self))]

    def require_cutoff(self, cutoff: float) -> None:
        """Give graphs of this cutoff from now on.

        Longer cached edges are left out.

        Args:
            cutoff: of the model, Å.

        Raises:
            DataFormatError: the cached graphs are shorter.
        """
        # Cutoffs go through text files and float32 models: 6.0 and 5.9999999 are one.
        if cutoff > self._cached_cutoff * (1 + 1e-6):
            raise DataFormatError(
                f"{self.path}: the cached graphs reach {self._cached_cutoff:g} Å, but "
                f"the model's cutoff is {cutoff:g} Å. Build the store again: "
                f"pft-prepare phonons=... out={self.path} cutoff={cutoff:g}"
            )
        self.cutoff = min(float(cutoff), self._cached_cutoff)

    def subset(self, indices: Sequence[int]) -> PhononStore:
        """Give a view of some structures, in the given order."""
        view = copy.copy(self)
        view.names = [self.names[i] for i in indices]
        view._places = [self._places[i] for i in indices]
        view.elements = [self.elements[i] for i in indices]
        view.n_atoms = self.n_atoms[list(indices)]
        view.n_edges = self.n_edges[list(indices)]
        view.has_third_order = self.has_third_order[list(indices)]
        return view

    def select(self, allowed: Iterable[int]) -> tuple[PhononStore, list[str]]:
        """Keep the structures whose elements are all allowed.

        Args:
            allowed: atomic numbers that the model knows.

        Returns:
            The view, and the names of the structures that were left out.
        """
        known = set(allowed)
        kept = [i for i, elements in enumerate(self.elements) if known >= set(elements)]
        dropped = sorted(set(range(len(self))) - set(kept))
        return self.subset(kept), [self.names[i] for i in dropped]

    def _load(self, index: int) -> tuple[StructureRecord, Graph]:
        value = self._reader.get(self._places[index], self.names[index])
        try:
            record, graph = decode(value, self._cached_cutoff)
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            # Stores of version 2 have no checksums.
            raise DataFormatError(
                f"{self.path}: structure {self.names[index]} is damaged ({error}). "
                f"Build the store again: pft-prepare phonons=... out={self.path}"
            ) from error
        if record.name != self.names[index]:
            # Two sources had the same name; the index made them unique.
            record = replace(record, name=self.names[index])
        return record, graph


def _shorten(graph: Graph, record: StructureRecord, cutoff: float) -> Graph:
    centre, neighbour = graph.edge_index
    vectors = (
        record.positions[neighbour]
        - record.positions[centre]
        + graph.edge_shifts @ record.cell
    )
    near = np.einsum("ea,ea->e", vectors, vectors) < cutoff**2
    return Graph(graph.edge_index[:, near], graph.edge_shifts[near], cutoff)
