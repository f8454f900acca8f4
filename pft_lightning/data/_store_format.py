"""How a store keeps records on disk.

A store is a directory: ``store.json`` says what it was built with, one LMDB file
holds a value per structure, ``index.json`` lists the structures and is written last,
so that it marks a finished store.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import lmdb
import numpy as np
from safetensors.numpy import load, save

from pft_lightning.data.cells import PhononCells
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import DataFormatError
from pft_lightning.graphs import Graph
from pft_lightning.physics.force_constants import ForceConstants


FORMAT_VERSION = 2

HEADER_FILE = "store.json"
INDEX_FILE = "index.json"

# Prefixes of keys in the LMDB file: the structure, and the short entry of the index.
RECORD_PREFIX = b"r/"
ENTRY_PREFIX = b"e/"

# Prefix of the cells of the calculation among the tensors of a record.
_CELLS_PREFIX = "cells."

# Address space, not disk: the file grows as needed.
_MAP_SIZE = 2**40

_FORCE_CONSTANTS_MAPS = (
    "primitive_index",
    "translation_index",
    "permutations",
    "equivalent_atoms",
)

# Pages that were read stay mapped and count as memory of the process, though the
# system can take them back. After so many bytes the file is mapped anew.
_MAX_BYTES_MAPPED = 2**28


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
    text = json.loads(tensors["text"].tobytes())
    force_constants = None
    if "compact" in tensors:
        maps = {name: tensors[name].astype(np.int64) for name in _FORCE_CONSTANTS_MAPS}
        force_constants = ForceConstants(compact=tensors["compact"], **maps)
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
        info=text["info"],
    )
    graph = Graph(
        edge_index=tensors["edge_index"].astype(np.int32),
        edge_shifts=tensors["edge_shifts"],
        cutoff=cutoff,
    )
    return record, graph


class Reader:
    """Reads values of one LMDB file; one per file and process, shared by all views.

    LMDB forbids to open a file twice in a process, and to use what was inherited over
    a fork. ``Reader.of(path)`` takes care of both.

    Args:
        path: the LMDB file.
    """

    _readers: ClassVar[dict[str, Reader]] = {}

    def __init__(self, path: Path) -> None:
        self._path = os.path.realpath(path)
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._bytes_read = 0
        self.environment = self._open()

    @classmethod
    def of(cls, path: Path) -> Reader:
        """Give this process's reader of a file."""
        key = os.path.realpath(path)
        reader = cls._readers.get(key)
        if reader is None or reader._process != os.getpid():
            if reader is not None:
                # Without a lock table, closing touches this process only.
                reader.environment.close()
            reader = cls._readers[key] = cls(path)
        return reader

    @classmethod
    def close(cls, path: Path) -> None:
        """Close this process's reader of a file, if there is one."""
        reader = cls._readers.pop(os.path.realpath(path), None)
        if reader is not None:
            reader.environment.close()

    def get(self, key: bytes) -> bytes | None:
        """Read one value; None where there is none."""
        with self._lock:
            if self._bytes_read > _MAX_BYTES_MAPPED:
                self.environment.close()
                self.environment, self._bytes_read = self._open(), 0
            with self.environment.begin() as transaction:
                value = transaction.get(key)
            self._bytes_read += len(value or b"")
        return None if value is None else bytes(value)

    def _open(self) -> lmdb.Environment:
        # Read-ahead is off: batches touch records at random, and pages read ahead
        # would push out what other workers need.
        return lmdb.open(
            self._path,
            subdir=False,
            readonly=True,
            lock=False,
            readahead=False,
            meminit=False,
        )


def open_for_writing(path: Path) -> lmdb.Environment:
    """Open or create the LMDB file for writing, closing this process's reader."""
    Reader.close(path)
    # The lock of the build keeps other writers out. LMDB's own lock file, deleted with
    # its data file, would leave its inode number to a new one while readers of the old
    # are open, and py-lmdb would take the two for the same file.
    return lmdb.open(
        str(path),
        subdir=False,
        map_size=_MAP_SIZE,
        readahead=False,
        meminit=False,
        lock=False,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a store.

    Raises:
        DataFormatError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataFormatError(
            f"{path}: cannot be read ({error}). The store is damaged: delete it and "
            "build it again with pft-prepare."
        ) from error
    return dict(content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file of a store, so that it is complete or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


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
