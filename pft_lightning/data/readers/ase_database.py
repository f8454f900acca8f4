"""ASE databases (.db, .json, .aselmdb), opened once per process and read row by row."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pft_lightning.data.readers.ase_json import check_arrays
from pft_lightning.data.readers.lmdb_check import check_pages
from pft_lightning.data.readers.options import reading
from pft_lightning.errors import DataFormatError
from pft_lightning.files import read_data


SUFFIXES = (".db", ".json", ".aselmdb")

# Files (name, time of change, size) whose pages are whole; known to forks too.
_whole: set[tuple[str, int, int]] = set()

# Open databases by name, with the process and the state of the file.
_opened: dict[str, tuple[tuple[int, int, int], _Rows]] = {}


def row_ids(path: Path) -> list[int]:
    """List the ids of a database.

    Raises:
        DataFormatError: the database cannot be read or is empty.
    """
    with reading(path):
        ids = list(_rows(path).ids)
    if not ids:
        raise DataFormatError(f"{path}: the database has no rows; give another file.")
    return ids


def get_row(path: Path, row_id: int) -> Any:
    """Read one row, an ``ase.db.row.AtomsRow``.

    Raises:
        DataFormatError: the row cannot be read.
    """
    with reading(Path(f"{path}, row {row_id}")):
        return _rows(path).get(row_id)


def _rows(path: Path) -> _Rows:
    if not path.is_file():
        raise DataFormatError(f"{path}: no such file. Check the path.")
    name, stat = str(path.absolute()), path.stat()
    state = (os.getpid(), stat.st_mtime_ns, stat.st_size)
    opened = _opened.get(name)
    if opened is not None:
        if opened[0] == state:
            return opened[1]
        opened[1].close()
    rows = _Rows(name)
    _opened[name] = (state, rows)
    return rows


class _Rows:
    """Rows of one database by id, with the quickest way that its kind has."""

    def __init__(self, name: str) -> None:
        self._held: dict[int, Any] = {}
        self._database = _connect(name)
        if name.endswith(".aselmdb"):
            self.ids = sorted(self._database.ids)
        elif name.endswith(".json"):
            text = read_data(name)
            check_arrays(text.decode(json.detect_encoding(text)))
            # ASE parses the whole file for each row it is asked for.
            self._held = {row.id: row for row in self._database.select()}
            self.ids = sorted(self._held)
        else:
            rows = self._database.select(columns=["id"], include_data=False)
            self.ids = sorted(row.id for row in rows)

    def get(self, row_id: int) -> Any:
        if self._held:
            return self._held[row_id]
        return self._database.get(id=row_id)

    def close(self) -> None:
        """Close the file; also one that was inherited over a fork."""
        environment = getattr(self._database, "_env", None)
        if environment is not None:
            # LMDB allows a file to be open once per process. ``close`` of the database
            # would open it again where the process is another one.
            self._database._env_pid = os.getpid()
            environment.close()


def _connect(name: str) -> Any:
    import ase.db

    if not name.endswith(".aselmdb"):
        return ase.db.connect(name, use_lock_file=False)
    status = Path(name).stat()
    if (state := (name, status.st_mtime_ns, status.st_size)) not in _whole:
        check_pages(Path(name))
        _whole.add(state)
    try:
        return ase.db.connect(name, use_lock_file=False, readonly=True, readahead=False)
    except ImportError as error:
        raise DataFormatError(
            f"{name}: reading .aselmdb needs a package that is not installed: "
            "pip install ase-db-backends"
        ) from error
