"""Phonon properties of one material in a file: the reference's and each model's."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np

from pft_lightning.errors import DataFormatError
from pft_lightning.files import make_folder, write_atomically
from pft_lightning.types import BandStructure, PhononProperties


_OPTIONAL = ("bands", "force_constants")
_REQUIRED = tuple(
    field.name for field in fields(PhononProperties) if field.name not in _OPTIONAL
)


def save_properties(path: Path, properties: Mapping[str, PhononProperties]) -> None:
    """Write properties as compressed arrays, ``<label>/<field>``.

    Bands are ``<label>/bands/<n>/distances`` and ``/frequencies`` for each segment n,
    and ``<label>/bands/labels``, (n_segments, 2).

    Args:
        path: file to write; its folder is created.
        properties: by label; a label has no "/".
    """
    arrays: dict[str, np.ndarray] = {}
    for label, one in properties.items():
        for name in _REQUIRED:
            arrays[f"{label}/{name}"] = np.asarray(getattr(one, name))
        if one.force_constants is not None:
            arrays[f"{label}/force_constants"] = one.force_constants
        if one.bands is not None:
            arrays[f"{label}/bands/labels"] = np.array(one.bands.labels)
            segments = zip(one.bands.distances, one.bands.frequencies, strict=True)
            for n, (distances, frequencies) in enumerate(segments):
                arrays[f"{label}/bands/{n}/distances"] = distances
                arrays[f"{label}/bands/{n}/frequencies"] = frequencies
    make_folder(path.parent)
    write_atomically(
        path,
        lambda file: np.savez_compressed(file, **arrays),  # type: ignore[arg-type]
    )


def load_properties(path: Path) -> dict[str, PhononProperties]:
    """Read what ``save_properties`` wrote, by label, in the order written.

    Nothing in the file is executed.

    Raises:
        DataFormatError: the file is missing, truncated or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        labels = dict.fromkeys(key.split("/", 1)[0] for key in arrays)
        return {label: _collect(label, arrays) for label in labels}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        problem = f"cannot be read ({error})"
    except KeyError as error:
        problem = f"lacks the array {error}"
    raise DataFormatError(
        f"{path}: phonon properties {problem}; expected a file as pft-evaluate writes "
        "it. Delete it together with the .json beside it and evaluate again."
    )


def _collect(label: str, arrays: Mapping[str, np.ndarray]) -> PhononProperties:
    found = {name: arrays[f"{label}/{name}"] for name in _REQUIRED}
    bands = None
    if f"{label}/bands/labels" in arrays:
        names = [(str(a), str(b)) for a, b in arrays[f"{label}/bands/labels"]]
        segments = range(len(names))
        bands = BandStructure(
            [arrays[f"{label}/bands/{n}/distances"] for n in segments],
            [arrays[f"{label}/bands/{n}/frequencies"] for n in segments],
            names,
        )
    non_analytical = bool(found.pop("non_analytical"))
    return PhononProperties(
        **found,
        bands=bands,
        force_constants=arrays.get(f"{label}/force_constants"),
        non_analytical=non_analytical,
    )
