"""Pages of an LMDB file, checked before LMDB follows them.

LMDB takes what its pages say for granted: one flipped bit in them ends the process with
a SIGBUS or SIGSEGV, and everything that it does. The layout is that of version 0.9, in
which all files are written (``mdb.c``: ``MDB_meta``, ``MDB_db``, ``MDB_page``,
``MDB_node``), little-endian and of 64 bits.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Final, NamedTuple

from pft_lightning.errors import DataFormatError


# After the header of its page: magic number, version, then of the free list: size of a
# page, flags; of the database: flags, depth, entries, root; last page, transaction.
_META: Final = struct.Struct("<16xII16xIH42x4xHH24xQQQQ")
_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
_FIXED_ADDRESS: Final = 1  # where in memory to map the file

_PAGE: Final = struct.Struct(
    "<Q2xHHH"
)  # number, flags, end of pointers, begin of nodes
_OVERFLOW: Final = struct.Struct("<Q2xHI")  # number, flags, number of pages
_NODE: Final = struct.Struct(
    "<HHHH"
)  # size or page: two halves, flags; size of the key
_NUMBER: Final = struct.Struct("<Q")
_BRANCH, _LEAF, _LARGE, _DIRTY = 1, 2, 4, 16
_IN_OTHER_PAGES: Final = 1  # flag of a node
_NO_PAGE: Final = (1 << 64) - 1


class _Meta(NamedTuple):
    """One of the two headers of a file."""

    magic: int
    version: int
    page_size: int
    free_flags: int
    flags: int
    depth: int
    n_entries: int
    root: int
    last_page: int
    transaction: int


def check_pages(path: Path) -> None:
    """Refuse an LMDB file that would end the process, or lacks some of its entries.

    All pages with keys are looked at, values are not.

    Args:
        path: of a file with one database in it, without a name.

    Raises:
        DataFormatError: it is none, ends early, or a page is damaged.
    """
    _walk(path)


def _walk(
    path: Path, values: dict[bytes, tuple[int, int]] | None = None
) -> dict[bytes, tuple[int, int]]:
    """Check all pages, and note where values are, if a place is given for that."""
    if path.stat().st_size == 0:
        raise DataFormatError(f"{path}: is empty. Copy or download it again.")
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        meta = _newest(path, content)
        if len(content) < (needed := (meta.last_page + 1) * meta.page_size):
            raise DataFormatError(
                f"{path}: ends early, after {len(content)} of {needed} bytes. It was "
                "truncated on the way: copy or download it again."
            )
        _Tree(path, content, meta, values).check()
    return values or {}


def find_values(path: Path) -> dict[bytes, tuple[int, int]]:
    """Where in an LMDB file its values are, once its pages are checked.

    Returns:
        By key: offset and number of bytes.

    Raises:
        DataFormatError: see ``check_pages``.
    """
    return _walk(path, {})


def _newest(path: Path, content: mmap.mmap) -> _Meta:
    """The header that counts."""
    first = _unpack_meta(content, 0)
    second = _unpack_meta(content, 4096 if first is None else first.page_size)
    whole = [meta for meta in (first, second) if meta is not None]
    if not whole:
        raise DataFormatError(
            f"{path}: is no LMDB database, or its headers are damaged. Copy or "
            "download it again."
        )
    return max(whole, key=lambda meta: meta.transaction)


def _unpack_meta(content: mmap.mmap, start: int) -> _Meta | None:
    if len(content) < start + _META.size:
        return None
    meta = _Meta(*_META.unpack_from(content, start))
    good = (
        meta.magic == _MAGIC
        and meta.version == _VERSION
        and 512 <= meta.page_size <= 1 << 16
        and not meta.free_flags & _FIXED_ADDRESS
    )
    return meta if good else None


class _Tree:
    """The pages of a database, from its root to the leaves."""

    def __init__(
        self,
        path: Path,
        content: mmap.mmap,
        meta: _Meta,
        values: dict[bytes, tuple[int, int]] | None,
    ) -> None:
        self._path, self._content, self._meta = path, content, meta
        self._seen: set[int] = set()
        self._values = values

    def check(self) -> None:
        """Follow all pages.

        Raises:
            DataFormatError: one of them is damaged.
        """
        meta = self._meta
        if meta.flags:
            raise self._damaged(0, f"the database has flags {meta.flags:#x}")
        pages = [] if meta.root == _NO_PAGE else [meta.root]
        for level in range(meta.depth, 1, -1):
            pages = [below for page in pages for below in self._branch(page, level)]
        n_entries = sum(self._leaf(page) for page in pages)
        if n_entries != meta.n_entries:
            raise self._damaged(
                meta.root, f"{n_entries} entries of {meta.n_entries} are below it"
            )

    def _branch(self, page: int, level: int) -> list[int]:
        """Pages below a page."""
        below = []
        for node in self._nodes(page, _BRANCH):
            low, middle, high, _ = _NODE.unpack_from(self._content, node)
            below.append(low | middle << 16 | high << 32)
        if not below:
            raise self._damaged(page, f"nothing is below it, at level {level}")
        return below

    def _leaf(self, page: int) -> int:
        """Check the entries of a page; gives their number."""
        end = (page + 1) * self._meta.page_size
        nodes = self._nodes(page, _LEAF)
        for node in nodes:
            low, high, flags, key = _NODE.unpack_from(self._content, node)
            size, value = low | high << 16, node + _NODE.size + key
            if flags == _IN_OTHER_PAGES and value + _NUMBER.size <= end:
                (first,) = _NUMBER.unpack_from(self._content, value)
                self._check_value(page, first, size)
                value = first * self._meta.page_size + _PAGE.size
            elif flags or value + size > end:
                raise self._damaged(page, "an entry reaches beyond it")
            if self._values is not None:
                name = self._content[node + _NODE.size : node + _NODE.size + key]
                self._values[name] = (value, size)
        return len(nodes)

    def _check_value(self, page: int, first: int, size: int) -> None:
        """Check the pages that hold one large value."""
        n_pages = (_PAGE.size + size - 1) // self._meta.page_size + 1
        self._visit(first)
        if first + n_pages - 1 > self._meta.last_page:
            raise self._damaged(page, "a value reaches beyond the last page")
        start = first * self._meta.page_size
        number, flags, length = _OVERFLOW.unpack_from(self._content, start)
        if (number, flags & ~_DIRTY, length) != (first, _LARGE, n_pages):
            raise self._damaged(first, "its header is not that of a large value")

    def _nodes(self, page: int, kind: int) -> list[int]:
        """Where in the file the nodes of a page are."""
        self._visit(page)
        size = self._meta.page_size
        start = page * size
        number, flags, lower, upper = _PAGE.unpack_from(self._content, start)
        if (number, flags & ~_DIRTY) != (page, kind):
            raise self._damaged(page, "its header is that of another page")
        if not _PAGE.size <= lower <= upper <= size or lower % 2:
            raise self._damaged(page, "its pointers reach into its entries")
        count = (lower - _PAGE.size) // 2
        pointers = struct.unpack_from(f"<{count}H", self._content, start + _PAGE.size)
        for pointer in pointers:
            node = start + pointer
            if not upper <= pointer <= size - _NODE.size or (
                pointer + _NODE.size + _NODE.unpack_from(self._content, node)[3] > size
            ):
                raise self._damaged(page, "an entry reaches beyond it")
        return [start + pointer for pointer in pointers]

    def _visit(self, page: int) -> None:
        if not 2 <= page <= self._meta.last_page:
            raise self._damaged(page, "there is no such page")
        if page in self._seen:
            raise self._damaged(page, "several others lead to it")
        self._seen.add(page)

    def _damaged(self, page: int, why: str) -> DataFormatError:
        return DataFormatError(
            f"{self._path}: page {page} is damaged ({why}). Copy or download the file "
            "again."
        )
