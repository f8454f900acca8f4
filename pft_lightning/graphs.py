"""Structures as graphs: neighbour lists, and the neutral batch of ``keys.py``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ase
import numpy as np
import torch
import vesin
from torch_geometric.data import Batch, Data

from pft_lightning import keys
from pft_lightning.errors import ShapeError


_MOST_CELLS = np.iinfo(np.int8).max
_MOST_EDGES = 2e8  # 2 GB of indices and shifts


@dataclass(frozen=True, slots=True)
class Graph:
    """Edges of one structure within a cutoff.

    Attributes:
        edge_index: (2, n_edges), int32, [centre, neighbour].
        edge_shifts: (n_edges, 3), int8, periodic image of the neighbour.
        cutoff: Å.
    """

    edge_index: np.ndarray
    edge_shifts: np.ndarray
    cutoff: float

    @property
    def n_edges(self) -> int:
        """Number of directed edges."""
        return int(self.edge_index.shape[1])


def build_graph(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: Sequence[bool] | np.ndarray,
    cutoff: float,
) -> Graph:
    """List all pairs of atoms within the cutoff, with as many images as it needs.

    Args:
        positions: (n_atoms, 3), Å; atoms may lie outside the cell.
        cell: (3, 3), Å, lattice vectors as rows.
        pbc: periodic along each lattice vector.
        cutoff: Å.

    Raises:
        ShapeError: a neighbour is more than 127 cells away, or there are more than
            200 million.
    """
    _check_density(len(positions), np.asarray(cell), np.asarray(pbc, bool), cutoff)
    neighbours = vesin.NeighborList(cutoff=cutoff, full_list=True, sorted=True)
    centre, neighbour, shifts = neighbours.compute(
        points=np.ascontiguousarray(positions, dtype=np.float64),
        box=np.ascontiguousarray(cell, dtype=np.float64),
        periodic=[bool(p) for p in pbc],
        quantities="ijS",
    )
    shifts = np.asarray(shifts).reshape(-1, 3)
    if len(shifts) and np.abs(shifts).max() > _MOST_CELLS:
        raise ShapeError(
            f"a neighbour is {np.abs(shifts).max()} cells away; at most "
            f"{_MOST_CELLS}. Wrap the atoms into the cell."
        )
    return Graph(
        edge_index=np.stack([centre, neighbour]).astype(np.int32),
        edge_shifts=shifts.astype(np.int8),
        cutoff=cutoff,
    )


def _check_density(
    n_atoms: int, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> None:
    """Refuse cells so small, or so full, that listing neighbours would not end."""
    if n_atoms == 0 or not pbc.any():
        return
    inverse = np.linalg.pinv(cell[pbc])  # its columns are the reciprocal vectors
    cells = cutoff * np.linalg.norm(inverse, axis=0).max()
    if cells > _MOST_CELLS:
        raise ShapeError(
            f"the cell is {cutoff / cells:.2g} Å thick, {cells:.3g} times in the "
            f"cutoff of {cutoff:g} Å; at most {_MOST_CELLS} times. Is it in Å?"
        )
    if pbc.all():
        in_sphere = 4 / 3 * np.pi * cutoff**3 / abs(np.linalg.det(cell)) * n_atoms
        if n_atoms * in_sphere > _MOST_EDGES:
            raise ShapeError(
                f"each of {n_atoms} atoms has {in_sphere:.2g} others within the cutoff "
                f"of {cutoff:g} Å; at most {_MOST_EDGES:.0e} pairs are listed. Is the "
                "cell in Å?"
            )


def build_data(
    atomic_numbers: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: Sequence[bool] | np.ndarray,
    graph: Graph,
) -> Data:
    """Put one structure and its graph into the neutral schema, in float64.

    Targets are added by the caller under the names in ``keys.py``.
    """
    return Data(
        **{
            "num_nodes": len(atomic_numbers),
            keys.POSITIONS: torch.tensor(positions, dtype=torch.float64),
            keys.CELL: torch.tensor(cell, dtype=torch.float64).reshape(1, 3, 3),
            keys.PBC: torch.tensor(np.asarray(pbc, dtype=bool)).reshape(1, 3),
            keys.ATOMIC_NUMBERS: torch.tensor(atomic_numbers, dtype=torch.int64),
            keys.EDGE_INDEX: torch.tensor(graph.edge_index, dtype=torch.int64),
            keys.EDGE_SHIFTS: torch.tensor(graph.edge_shifts, dtype=torch.int8),
        }
    )


def build_batch(structures: Sequence[Data]) -> Batch:
    """Concatenate structures; they share no edge, so energies stay separate."""
    return Batch.from_data_list(list(structures))


def edge_vectors(
    batch: Batch, positions: torch.Tensor, cell: torch.Tensor
) -> torch.Tensor:
    """Vectors (n_edges, 3), Å, from each centre to its neighbour.

    Args:
        batch: neutral batch.
        positions: (n_atoms, 3), Å.
        cell: (n_structures, 3, 3), Å.
    """
    centre, neighbour = batch[keys.EDGE_INDEX]
    per_edge = cell[batch[keys.STRUCTURE_INDEX][centre]]
    shifts = batch[keys.EDGE_SHIFTS].to(positions.dtype)
    offsets = torch.einsum("ea,eab->eb", shifts, per_edge)
    return positions[neighbour] - positions[centre] + offsets


def count_atoms(structure_index: torch.Tensor, n_structures: int) -> torch.Tensor:
    """Number of atoms (n_structures,), int64.

    Unlike ``torch.bincount`` it lets nobody wait for a GPU.

    Args:
        structure_index: (n_atoms,), int64, structure of each atom.
        n_structures: number of structures.
    """
    ones = torch.ones_like(structure_index)
    return ones.new_zeros(n_structures).index_add(0, structure_index, ones)


def map_tensors(batch: Batch, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    """Shallow copy of a batch with every tensor changed, in the order of its fields.

    Args:
        batch: also with what an arrangement adds: what has tensors has
            ``map_tensors``.
        change: gives what stands in the place of a tensor.

    Raises:
        TypeError: a field has tensors that cannot be reached.
    """
    changed = copy.copy(batch)
    for name, value in batch.to_dict().items():
        if isinstance(value, torch.Tensor):
            changed[name] = change(value)
        elif hasattr(value, "map_tensors"):
            changed[name] = value.map_tensors(change)
        elif hasattr(value, "to") or _holds_tensors(value):
            raise TypeError(f"{name}: a {type(value).__name__} has no map_tensors.")
    return changed


def _holds_tensors(value: object) -> bool:
    """Whether a list, tuple or dict has tensors, which nobody would change."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return isinstance(value, (list, tuple)) and any(
        isinstance(item, torch.Tensor) or _holds_tensors(item) for item in value
    )


def build_crystal_batch(
    structures: Sequence[ase.Atoms],
    cutoff: float,
    device: str | torch.device = "cpu",
) -> Batch:
    """Make a neutral batch of ASE structures, in float64.

    Args:
        structures: periodic or not.
        cutoff: of the graphs, Å.
        device: of the batch.
    """
    items = []
    for atoms in structures:
        cell = atoms.cell.array
        graph = build_graph(atoms.positions, cell, atoms.pbc, cutoff)
        data = build_data(atoms.numbers, atoms.positions, cell, atoms.pbc, graph)
        data[keys.NAME] = str(atoms.symbols)
        items.append(data)
    return build_batch(items).to(device)
