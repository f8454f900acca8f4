"""The data file of a store: one block per structure, each with its checksums.

A block is a head, an entry (JSON) and a value (bytes). Blocks are only ever appended,
so what a killed process or a full disk leaves behind is whole up to its last block.
The file is read, never mapped into memory: where it was cut short that is an error
like any other, and no address space is needed.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import finalize

from pft_lightning.errors import DataFormatError
from pft_lightning.files import writing
from pft_lightning.json_files import parse_json


# Mark, bytes of the entry, bytes of the value, checksum of the value, and checksum of
# all before it with the entry.
_HEAD = struct.Struct("<4sIQII")
_MARK = b"pft3"

# Where a value lies, in the entry of the index: offset, bytes, checksum.
PLACE = "place"


def read_blocks(path: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Read the entries of all whole blocks, up to the first that is not.

    Returns:
        Entries by key, each with the place of its value, the last one where a key
        occurs twice; and the size of the file up to there.
    """
    entries: dict[str, dict[str, Any]] = {}
    end = 0
    with path.open("rb") as file:
        while head := file.read(_HEAD.size):
            if len(head) < _HEAD.size or not head.startswith(_MARK):
                break
            _, n_entry, n_value, checksum, head_checksum = _HEAD.unpack(head)
            rest = os.fstat(file.fileno()).st_size - file.tell()
            if n_entry + n_value > rest:
                break
            text, value = file.read(n_entry), file.read(n_value)
            if zlib.crc32(text, zlib.crc32(head[:-4])) != head_checksum:
                break
            if zlib.crc32(value) != checksum:
                break
            place = [end + _HEAD.size + n_entry, n_value, checksum]
            entry = parse_json(text)
            entries[entry["key"]] = {**entry, PLACE: place}
            end += _HEAD.size + n_entry + n_value
    return entries, end


class BlockWriter:
    """Appends blocks to a data file.

    Args:
        path: of the file; made if need be.
        end: where the whole blocks end; what lies behind is cut off.

    Raises:
        StorageError: the file cannot be written.
    """

    def __init__(self, path: Path, end: int = 0) -> None:
        self._path = path
        with writing(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            os.ftruncate(self._descriptor, end)
            self._end = os.lseek(self._descriptor, end, os.SEEK_SET)

    def append(self, entry: dict[str, Any], value: bytes) -> dict[str, Any]:
        """Write a block at the end.

        Returns:
            The entry, with the place of the value.

        Raises:
            StorageError: the disk is full; the file ends as it did before.
        """
        entry = {name: held for name, held in entry.items() if name != PLACE}
        text = json.dumps(entry).encode()
        checksum = zlib.crc32(value)
        head = _HEAD.pack(_MARK, len(text), len(value), checksum, 0)[:-4]
        head += struct.pack("<I", zlib.crc32(text, zlib.crc32(head)))
        block = memoryview(head + text + value)
        try:
            with writing(self._path):
                while block:
                    block = block[os.write(self._descriptor, block) :]
        except BaseException:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
                os.lseek(self._descriptor, self._end, os.SEEK_SET)
            raise
        place = [self._end + len(head) + len(text), len(value), checksum]
        self._end += len(head) + len(text) + len(value)
        return {**entry, PLACE: place}

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave what was written on the disk, not in a cache of the system."""
        try:
            with writing(self._path):
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)


class BlockReader:
    """Reads values of a data file by their places, and verifies them.

    It stays usable after the file was deleted, in a forked process, and pickled.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._descriptor).st_size

    def get(self, place: Sequence[Any], name: str) -> bytes:
        """Read a value.

        Args:
            place: offset, bytes and checksum; None where there is none.
            name: of the structure, for the message.

        Raises:
            DataFormatError: the file is damaged there, or cannot be read.
        """
        offset, size, checksum = place
        try:
            if self._descriptor < 0:
                self._open()
            value = b"".join(self._parts(offset, size))
        except OSError as error:
            raise DataFormatError(
                f"{self.path}: structure {name} cannot be read ({error}). Is the disk "
                "there? If it is, the store was deleted or built again: start anew."
            ) from error
        good = checksum is None or zlib.crc32(value) == checksum
        if len(value) != size or not good:
            raise DataFormatError(
                f"{self.path}: structure {name} is damaged (its checksum is wrong). "
                f"Delete the folder {self.path.parent} and run the same command "
                "again; for a store of pft-prepare, run pft-prepare again, which reads "
                "anew what is damaged."
            )
        return value

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        finalize(self, os.close, self._descriptor)
        if hasattr(os, "posix_fadvise"):
            # Batches take records at random; pages read ahead would push out others.
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def _parts(self, offset: int, size: int) -> Iterator[bytes]:
        """Read in as many parts as the system gives; one, mostly."""
        while size > 0:
            part = os.pread(self._descriptor, size, offset)
            if not part:
                return
            yield part
            offset, size = offset + len(part), size - len(part)
