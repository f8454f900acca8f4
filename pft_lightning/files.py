"""Files that are complete or not there, what identifies them, and how much they hold.

A compressed file of 100 kB can unpack to gigabytes, so files of others are unpacked
through ``open_data`` or ``read_data``, which stop at stated limits.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from pft_lightning.errors import (
    ConfigError,
    DataFormatError,
    PFTError,
    StorageError,
)


# Suffixes of compressed files, as ``open_data`` reads them.
COMPRESSED: Final = (".xz", ".bz2", ".gz", ".lzma")

# Most bytes that a file may hold, unpacked. The largest phonopy yaml files known, of
# full force constants of a thousand atoms, have 200 MB.
MAX_BYTES: Final = 1 << 30

# Most bytes that one byte of a compressed file may unpack to. Of 7000 files of phonon
# databases the best packed one reaches 20; force constants that vanish beyond the
# reach of a potential reach some tens; a file made of one character reaches 7000.
MAX_RATIO: Final = 250

# Unpacked size up to which the ratio does not count: what so little holds is harmless.
_HARMLESS: Final = 1 << 24

# First bytes of the formats, by suffix; .lzma has none that is certain.
_MAGIC: Final = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\x00"}

_MAGIC_LENGTH: Final = 6

_OPENERS: Final[dict[str | None, Callable[..., Any]]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".lzma": lzma.open,
}

_BLOCK: Final = 1 << 20

# How the names end of what is being written.
_PARTIAL: Final = ".partial"


# What to do about an error of the system, by its number.
_REMEDIES: Final = {
    number: remedy
    for numbers, remedy in (
        (
            (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
            "The disk, or your share of it, is full: make room and run the same "
            "command again.",
        ),
        (
            (errno.EROFS, errno.EACCES, errno.EPERM),
            "You may not write there: choose another folder, or change the rights.",
        ),
        (
            (errno.ENOTDIR, errno.EEXIST, errno.EISDIR),
            "A file lies where a folder is needed, or the reverse: choose another "
            "path.",
        ),
        ((errno.ENAMETOOLONG,), "Choose a shorter name."),
    )
    for number in numbers
}


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn an error of the system while writing into one that names the file.

    Args:
        path: file or folder that is written.

    Raises:
        StorageError: the system refused, be it in the midst of a library's work.
    """
    try:
        yield
    except PFTError:
        raise
    except Exception as error:
        cause = find_system_error(error)
        if cause is None:
            raise
        reason = os.strerror(cause.errno or 0)
        remedy = _REMEDIES.get(cause.errno or 0, "Check the disk and try again.")
        raise StorageError(f"{path}: cannot be written ({reason}). {remedy}") from error


def find_system_error(error: BaseException) -> OSError | None:
    """Find the refusal of the system that an error comes from, if it comes from one.

    torch, numpy and others raise errors of their own over a failed write or read.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno:
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def make_folder(path: str | Path) -> Path:
    """Make a folder and those above it, unless it is there.

    Raises:
        StorageError: a file is in the way, or it may not be made.
    """
    path = Path(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that a killed process leaves the old one or the new one.

    Args:
        path: file to write or replace.
        write: gets the open file.

    Raises:
        StorageError: the disk is full, or the folder cannot be written; the old file
            is untouched.
    """
    path = Path(path)
    with writing(path):
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL
        )
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                # Without it a computer that fails may keep the name of an empty file.
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes files that only their owner may read.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path to write at, whose file or folder takes its place in the end.

    As ``write_atomically``, for libraries that open a path themselves, and for folders.

    Args:
        path: to write or replace; a folder must be new.

    Yields:
        A path of the same name in a temporary folder beside it. Other files in that
        folder are removed.

    Raises:
        StorageError: the disk is full, or the folder cannot be written; what was there
            before is untouched.
    """
    path = Path(path)
    with (
        writing(path),
        tempfile.TemporaryDirectory(
            dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL
        ) as folder,
    ):
        partial = Path(folder) / path.name
        yield partial
        partial.replace(path)


def remove_partials(folder: Path) -> None:
    """Remove what killed processes left half written in a folder that is locked."""
    for left in folder.glob(f"*{_PARTIAL}"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def compute_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def open_data(path: str | Path, *, max_bytes: int = MAX_BYTES) -> io.BufferedReader:
    """Open a plain or compressed file of data, with limits on what comes out of it.

    Compression is told by the first bytes, so that a renamed file is read as well.

    Args:
        path: plain, .xz, .lzma, .gz or .bz2.
        max_bytes: most bytes that may be read, unpacked.

    Returns:
        Stream of the unpacked bytes. Reading it raises DataFormatError where a limit
        is passed or the file is damaged.

    Raises:
        DataFormatError: no regular file, too large, or not of the kind that its name
            says.
        OSError: there is none, or it may not be read.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise DataFormatError(
            f"{path}: is no regular file. Give the path of a file of data."
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        packing = _packing(file.read(_MAGIC_LENGTH), path)
    if packing is None and size > max_bytes:
        raise _too_large(path, size, f"{size}", max_bytes)
    opened = _OPENERS.get(packing, open)(path, "rb")
    bounded = _Bounded(path, opened, size, max_bytes, packing is not None)
    return io.BufferedReader(bounded, _BLOCK)


def read_data(path: str | Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a plain or compressed file of data as a whole; see ``open_data``.

    Raises:
        DataFormatError: too large when unpacked, damaged, or no regular file.
        OSError: there is none, or it may not be read.
    """
    with open_data(path, max_bytes=max_bytes) as file:
        return _read_blocks(file)


def unpack(data: bytes, path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Unpack the content of a file that is in memory, as ``read_data`` does.

    Args:
        data: plain, or compressed as ``open_data`` reads it.
        path: the name of the file, which need not be on the disk.
        max_bytes: most bytes that it may hold, unpacked.

    Raises:
        DataFormatError: too large when unpacked, damaged, or not of the kind that its
            name says.
    """
    packing = _packing(data[:_MAGIC_LENGTH], path)
    if packing is None:
        if len(data) > max_bytes:
            raise _too_large(path, len(data), f"{len(data)}", max_bytes)
        return data
    opened = _OPENERS[packing](io.BytesIO(data), "rb")
    bounded = _Bounded(path, opened, len(data), max_bytes, is_packed=True)
    with io.BufferedReader(bounded, _BLOCK) as file:
        return _read_blocks(file)


def check_ratio(path: str | Path, size: int, unpacked: int) -> None:
    """Refuse what unpacks to more than data do, before it is unpacked.

    Args:
        path: the file, for messages.
        size: bytes of it.
        unpacked: bytes that it says to hold.

    Raises:
        DataFormatError: there are too many.
    """
    if unpacked > _HARMLESS and unpacked > MAX_RATIO * size:
        raise _too_dense(path, size, unpacked - 1)


def _read_blocks(file: io.BufferedIOBase) -> bytes:
    blocks = []
    while block := file.read(_BLOCK):
        blocks.append(block)
    return b"".join(blocks)


class _Bounded(io.RawIOBase):
    """Stream that counts the bytes it gives and stops at a limit."""

    def __init__(
        self,
        path: Path,
        opened: Any,
        size: int,
        max_bytes: int,
        is_packed: bool,
    ) -> None:
        super().__init__()
        self._path, self._opened, self._size = path, opened, size
        self._max_bytes, self._is_packed = max_bytes, is_packed
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            # What there is: one that fills the buffer loses all of it over damage.
            block = self._opened.read1(len(buffer))
        except EOFError as error:
            raise DataFormatError(
                f"{self._path}: the file ends early ({error}). It was truncated on "
                "the way: copy or download it again."
            ) from error
        except (lzma.LZMAError, zlib.error, gzip.BadGzipFile, OSError) as error:
            raise DataFormatError(
                f"{self._path}: cannot be unpacked ({error}). It is damaged, or not "
                "of the kind that its name says: copy or write it again."
            ) from error
        self._count += len(block)
        if self._count > self._max_bytes:
            raise _too_large(
                self._path, self._size, f"more than {self._count}", self._max_bytes
            )
        if self._is_packed:
            check_ratio(self._path, self._size, self._count)
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._opened.close()
        super().close()


def _packing(first: bytes, path: Path) -> str | None:
    """Suffix of the compression, by the first bytes; None where there is none."""
    for suffix, magic in _MAGIC.items():
        if first.startswith(magic):
            return suffix
    if path.suffix in _MAGIC:
        raise DataFormatError(
            f"{path}: is no {path.suffix} file: it begins with {first!r}, expected "
            f"{_MAGIC[path.suffix]!r}. Copy it again, or rename it to what it is."
        )
    return path.suffix if path.suffix == ".lzma" else None


def _too_dense(path: str | Path, size: int, unpacked: int) -> DataFormatError:
    return DataFormatError(
        f"{path}: {size} bytes unpack to more than {unpacked}, over {MAX_RATIO} times "
        "as many, which no data do. If the file is sound, unpack it and give the plain "
        "file."
    )


def _too_large(path: Path, size: int, unpacked: str, max_bytes: int) -> DataFormatError:
    return DataFormatError(
        f"{path}: {size} bytes hold {unpacked} bytes of data; at most {max_bytes} are "
        "read. Check what the file is; split it if it is sound."
    )


def check_overwrites_none(out: Path, inputs: Iterable[Path]) -> None:
    """Refuse to write over what a command reads, by whatever path it is named.

    Args:
        out: file to be written.
        inputs: files that are read, and may not be there.

    Raises:
        ConfigError: the file is one of them.
    """
    for path in inputs:
        if out.exists() and path.exists() and out.samefile(path):
            raise ConfigError(
                f"out={out}: is the file {path}, which this command reads and would "
                "replace. Choose another out=..."
            )
