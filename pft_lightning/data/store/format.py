"""How a store keeps one record: its arrays and its graph as bytes."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from pft_lightning.data.cells import PhononCells
from pft_lightning.data.records import StructureRecord
from pft_lightning.graphs import Graph
from pft_lightning.json_files import parse_json
from pft_lightning.physics.force_constants import ForceConstants
from pft_lightning.physics.third_order_constants import ThirdOrderConstants


# Prefix of the cells of the calculation among the tensors of a record.
_CELLS_PREFIX = "cells."

# Blocks of third order and their places among primitive atom, atom and atom.
_THIRD_INDEX, _THIRD_BLOCKS = "third_order.index", "third_order.blocks"

_FORCE_CONSTANTS_MAPS = (
    "primitive_index",
    "translation_index",
    "permutations",
    "equivalent_atoms",
)


def encode(record: StructureRecord, graph: Graph) -> bytes:
    """Serialise a record and its graph with safetensors, in the smallest integers."""
    tensors: dict[str, np.ndarray] = {
        "atomic_numbers": record.atomic_numbers.astype(np.uint8),
        "positions": record.positions.astype(np.float64),
        "cell": record.cell.astype(np.float64),
        "pbc": record.pbc.astype(np.uint8),
        "edge_index": _small(graph.edge_index),
        "edge_shifts": graph.edge_shifts.astype(np.int8),
    }
    if record.energy is not None:
        tensors["energy"] = np.array([record.energy], dtype=np.float64)
    if record.forces is not None:
        tensors["forces"] = record.forces.astype(np.float64)
    if record.stress is not None:
        tensors["stress"] = record.stress.astype(np.float64)
    if record.force_constants is not None:
        tensors["compact"] = record.force_constants.compact.astype(np.float64)
        for name in _FORCE_CONSTANTS_MAPS:
            tensors[name] = _small(getattr(record.force_constants, name))
        third = record.force_constants.third_order
        if third is not None:
            tensors |= _encode_third(third)
    if record.masses is not None:
        tensors["masses"] = record.masses.astype(np.float64)
    if record.cells is not None:
        for field in fields(PhononCells):
            value = getattr(record.cells, field.name)
            if value is not None:
                tensors[_CELLS_PREFIX + field.name] = np.asarray(value)
    text = json.dumps({"name": record.name, "info": record.info})
    tensors["text"] = np.frombuffer(text.encode(), dtype=np.uint8)
    return save({key: np.ascontiguousarray(array) for key, array in tensors.items()})


def decode(value: bytes, cutoff: float) -> tuple[StructureRecord, Graph]:
    """Rebuild a record and its graph."""
    tensors = load(value)
    text = parse_json(tensors["text"].tobytes())
    force_constants = None
    if "compact" in tensors:
        maps: Any = {
            name: tensors[name].astype(np.int64) for name in _FORCE_CONSTANTS_MAPS
        }
        force_constants = ForceConstants(
            compact=tensors["compact"],
            third_order=_decode_third(tensors, maps, tensors["compact"].shape),
            **maps,
        )
    record = StructureRecord(
        name=text["name"],
        atomic_numbers=tensors["atomic_numbers"].astype(np.int64),
        positions=tensors["positions"],
        cell=tensors["cell"],
        pbc=tensors["pbc"].astype(bool),
        energy=float(tensors["energy"][0]) if "energy" in tensors else None,
        forces=tensors.get("forces"),
        stress=tensors.get("stress"),
        force_constants=force_constants,
        cells=_decode_cells(tensors),
        masses=tensors.get("masses"),
        info=text["info"],
    )
    graph = Graph(
        edge_index=tensors["edge_index"].astype(np.int32),
        edge_shifts=tensors["edge_shifts"],
        cutoff=cutoff,
    )
    return record, graph


def _encode_third(third: ThirdOrderConstants) -> dict[str, np.ndarray]:
    """Keep the blocks that are not zero: beyond a cutoff of the pairs all are."""
    index = np.argwhere(np.any(third.compact != 0.0, axis=(3, 4, 5)))
    blocks = third.compact[tuple(index.T)].astype(np.float64)
    return {_THIRD_INDEX: _small(index), _THIRD_BLOCKS: blocks}


def _decode_third(
    tensors: dict[str, np.ndarray],
    maps: dict[str, np.ndarray],
    shape: tuple[int, ...],
) -> ThirdOrderConstants | None:
    if _THIRD_INDEX not in tensors:
        return None
    n_primitive, n_atoms = shape[:2]
    compact = np.zeros((n_primitive, n_atoms, n_atoms, 3, 3, 3))
    index = tensors[_THIRD_INDEX].astype(np.int64)
    compact[tuple(index.T)] = tensors[_THIRD_BLOCKS]
    return ThirdOrderConstants(
        compact=compact,
        primitive_index=maps["primitive_index"],
        translation_index=maps["translation_index"],
        permutations=maps["permutations"],
    )


def _decode_cells(tensors: dict[str, np.ndarray]) -> PhononCells | None:
    found: dict[str, Any] = {
        key.removeprefix(_CELLS_PREFIX): array
        for key, array in tensors.items()
        if key.startswith(_CELLS_PREFIX)
    }
    if not found:
        return None
    return PhononCells(**{**found, "symprec": found["symprec"].item()})


def _small(indices: np.ndarray) -> np.ndarray:
    """Store indices in 16 bits where they fit."""
    fits = indices.size == 0 or indices.max() < np.iinfo(np.int16).max
    return indices.astype(np.int16 if fits else np.int32)
