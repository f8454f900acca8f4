"""Which reader reads which source, found by its name."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from pft_lightning.data.readers.aselmdb import list_rows, read_row
from pft_lightning.data.readers.folder import read_folder
from pft_lightning.data.readers.names import STORE_INDEX, SUFFIXES, is_store
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.readers.phonopy import material_name, read_yaml
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import DataFormatError


def list_entries(path: Path) -> list[int | None]:
    """List the structures of a source: numbers in a database or store, else [None].

    Raises:
        DataFormatError: the database cannot be read.
    """
    if is_store(path):
        return list(range(len(_open_store(str(path), _index_time(path)))))
    if path.suffix == ".aselmdb":
        return list(list_rows(path))
    return [None]


def entry_name(path: Path, entry: int | None) -> str:
    """Name one structure of a source without reading its force constants.

    Raises:
        DataFormatError: the database or store cannot be read.
    """
    if is_store(path):
        return str(_open_store(str(path), _index_time(path)).names[entry or 0])
    if path.is_dir():
        return path.absolute().name
    if entry is not None:
        return f"{path.stem}-{entry}"
    return material_name(path)


def read_entry(
    path: Path, entry: int | None, options: PhononReadOptions
) -> StructureRecord:
    """Read one structure of a source.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    if not path.exists():
        raise DataFormatError(f"{path}: no such file or folder. Check the path.")
    if is_store(path):
        return _open_store(str(path), _index_time(path)).record(entry or 0)
    if path.is_dir():
        return read_folder(path, options)
    if entry is not None:
        return read_row(path, entry, options)
    if path.name.endswith(SUFFIXES):
        return read_yaml(path, options)
    raise DataFormatError(
        f"{path}: not a kind of phonon data that is known. Accepted: phonopy yaml "
        "(plain, .xz, .bz2, .gz), a folder with FORCE_SETS or FORCE_CONSTANTS, or with "
        "phono3py_disp.yaml and FORCES_FC2 or FORCES_FC3, .aselmdb with a 'hessian' "
        "entry."
    )


@lru_cache(maxsize=8)
def _open_store(path: str, time: int) -> Any:
    """Open a store once per state of its index, not once per structure."""
    del time
    from pft_lightning.data.store.reading import PhononStore

    return PhononStore(path)


def _index_time(path: Path) -> int:
    index = path / STORE_INDEX
    return index.stat().st_mtime_ns if index.is_file() else 0
