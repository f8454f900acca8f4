"""Files of an evaluation folder; each is complete or not there."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from pft_lightning.backends.base import write_atomically
from pft_lightning.types import BandStructure, PhononProperties


_ARRAYS = (
    "commensurate_frequencies",
    "commensurate_weights",
    "mesh_frequencies",
    "mesh_weights",
    "dos_frequencies",
    "dos",
    "temperatures",
    "free_energy",
    "entropy",
    "heat_capacity",
)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON; what is not finite becomes null."""
    text = json.dumps(_plain(content), indent=2, allow_nan=False)
    _write(path, lambda file: file.write(text.encode() + b"\n"))


def read_json(path: Path) -> dict[str, Any] | None:
    """Read JSON; None where there is no file or no whole one."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def write_csv(
    path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Write rows under their columns; what is unknown stays empty."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), restval="", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if v is None else v for k, v in row.items()})
    _write(path, lambda file: file.write(text.getvalue().encode()))


def write_properties(path: Path, properties: Mapping[str, PhononProperties]) -> None:
    """Write the arrays of several properties, as ``<label>/<field>``.

    Bands are ``<label>/bands/<n>/distances`` and ``/frequencies`` for each segment n,
    and ``<label>/bands/labels``, (n_segments, 2).
    """
    arrays: dict[str, np.ndarray] = {}
    for label, one in properties.items():
        for name in _ARRAYS:
            arrays[f"{label}/{name}"] = getattr(one, name)
        arrays[f"{label}/non_analytical"] = np.array(one.non_analytical)
        if one.force_constants is not None:
            arrays[f"{label}/force_constants"] = one.force_constants
        if one.bands is not None:
            arrays[f"{label}/bands/labels"] = np.array(one.bands.labels)
            for n, pair in enumerate(
                zip(one.bands.distances, one.bands.frequencies, strict=True)
            ):
                arrays[f"{label}/bands/{n}/distances"] = pair[0]
                arrays[f"{label}/bands/{n}/frequencies"] = pair[1]
    _write(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def read_properties(path: Path) -> dict[str, PhononProperties]:
    """Read what ``write_properties`` wrote, by label."""
    with np.load(path) as stored:
        arrays = dict(stored)
    labels = dict.fromkeys(
        key.removesuffix("/mesh_weights")
        for key in arrays
        if key.endswith("/mesh_weights")
    )
    found = {}
    for label in labels:
        bands = None
        if f"{label}/bands/labels" in arrays:
            names = [(str(a), str(b)) for a, b in arrays[f"{label}/bands/labels"]]
            segments = range(len(names))
            bands = BandStructure(
                [arrays[f"{label}/bands/{n}/distances"] for n in segments],
                [arrays[f"{label}/bands/{n}/frequencies"] for n in segments],
                names,
            )
        found[label] = PhononProperties(
            **{name: arrays[f"{label}/{name}"] for name in _ARRAYS},
            bands=bands,
            force_constants=arrays.get(f"{label}/force_constants"),
            non_analytical=bool(arrays[f"{label}/non_analytical"]),
        )
    return found


def _write(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write)


def _plain(value: Any) -> Any:
    """Turn numpy scalars, tuples and numbers that JSON lacks into plain values."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value
