"""ASE databases (.db, .json, .aselmdb), opened once per process and read row by row."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from pft_lightning.data.readers.options import reading
from pft_lightning.errors import DataFormatError


SUFFIXES = (".db", ".json", ".aselmdb")

# Header of an LMDB file, after that of its page: magic number, size of a page, last
# page, transaction.
_LMDB_META = struct.Struct("<16xI20xI92xQQ")
_LMDB_MAGIC = 0xBEEFC0DE

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
    _check_length(Path(name))
    try:
        return ase.db.connect(name, use_lock_file=False, readonly=True, readahead=False)
    except ImportError as error:
        raise DataFormatError(
            f"{name}: reading .aselmdb needs a package that is not installed: "
            "pip install ase-db-backends"
        ) from error


def _check_length(path: Path) -> None:
    """Refuse an LMDB file that ends early: what is missing would kill the process.

    The file is mapped into memory, and pages beyond its end are a SIGBUS when they
    are read. Both its headers say which page is the last; the newer one counts.
    """
    with path.open("rb") as file:
        first = _unpack_meta(file.read(_LMDB_META.size))
        page_size = first[1] if first is not None else 4096
        file.seek(page_size)
        headers = [first, _unpack_meta(file.read(_LMDB_META.size))]
        size = path.stat().st_size
    whole = [header for header in headers if header is not None]
    if not whole:
        raise DataFormatError(
            f"{path}: is no LMDB database, or its headers are damaged. Copy or "
            "download it again."
        )
    _, page_size, last_page, _ = max(whole, key=lambda header: header[3])
    if size < (needed := (last_page + 1) * page_size):
        raise DataFormatError(
            f"{path}: ends early, after {size} of {needed} bytes. It was truncated on "
            "the way: copy or download it again."
        )


def _unpack_meta(content: bytes) -> tuple[int, int, int, int] | None:
    """Give magic number, size of a page, last page and transaction of a header."""
    if len(content) < _LMDB_META.size:
        return None
    magic, page_size, last_page, transaction = _LMDB_META.unpack(content)
    if magic != _LMDB_MAGIC or not 512 <= page_size <= 1 << 16:
        return None
    return magic, page_size, last_page, transaction
