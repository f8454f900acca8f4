"""Readers of phonon calculations: one function for every kind of source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.readers.registry import list_entries, read_entry
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import DataFormatError


__all__ = ["PhononReadOptions", "list_entries", "read_entry", "read_phonon"]


def read_phonon(path: str | Path, **read_options: Any) -> StructureRecord:
    """Read the phonon calculation of one material, or the Hessian of a molecule.

    Args:
        path: phonopy or phono3py yaml (plain, .xz, .bz2, .gz), a folder with
            FORCE_SETS or FORCE_CONSTANTS, a phonon document in JSON, an aselmdb or an
            archive with one structure, or a molecule with its Hessian.
        **read_options: fields of ``PhononReadOptions``.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    options = PhononReadOptions(**read_options)
    entries = list_entries(Path(path))
    if len(entries) != 1:
        raise DataFormatError(
            f"{path}: holds {len(entries)} structures; read_phonon reads one. Use "
            "list_entries and read_entry, or build a store of it."
        )
    return read_entry(Path(path), entries[0], options)
