"""Reader of archives, ``.tar`` (compressed or not) and ``.zip``, as they are.

Members are materials of their own, and read one by one into memory. Nothing is written
to the disk, so that names like ``../../x`` do no harm; links, devices and sparse files
are passed over. What a member, or a compressed archive, unpacks to is bounded as for
single files.
"""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final

from pft_lightning.data.readers.documents import read_document_text
from pft_lightning.data.readers.names import (
    ARCHIVES,
    INPUT_FILES,
    JSON,
    NOT_SOURCES,
    SUFFIXES,
    file_stem,
    holds_mark,
)
from pft_lightning.data.readers.options import PhononReadOptions, reading
from pft_lightning.data.readers.phonopy import (
    check_content,
    material_name,
    read_content,
)
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import DataFormatError
from pft_lightning.files import MAX_BYTES, check_ratio, open_data, unpack
from pft_lightning.safe_yaml import parse_yaml


# An archive may hold any number of materials; a compressed one is bounded by its ratio.
_MAX_ARCHIVE: Final = 1 << 60

# Most bytes that are read at once: names and headers are shorter, and a header that
# claims more is no sound one.
_MAX_READ: Final = 1 << 24

_MAX_MEMBERS: Final = 1_000_000

_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in an archive.

    Attributes:
        name: as the archive has it, in signs that can be printed.
        size: bytes.
        place: where it begins in the unpacked tar; its number in a zip.
        problem: why nothing of it, or after it, can be read.
    """

    name: str
    size: int
    place: int
    problem: str = ""


def list_members(path: Path) -> list[int]:
    """List the members that are phonon data, by their number.

    Raises:
        DataFormatError: the archive cannot be read, or holds none.
    """
    members = _open(path).members
    if not members:
        raise DataFormatError(
            f"{path}: holds no phonopy yaml or JSON documents. Folders with FORCE_SETS "
            "and alike must be unpacked."
        )
    return list(range(len(members)))


def member_name(path: Path, entry: int) -> str:
    """Name a member by its file, or where that is generic by its folder or archive."""
    return _name(path, _open(path).members[entry])


def read_member(path: Path, entry: int, options: PhononReadOptions) -> StructureRecord:
    """Read one member.

    Raises:
        DataFormatError: names the archive, the member, the value and what to do.
    """
    archive = _open(path)
    member = archive.members[entry]
    where = _place(path, member)
    if member.problem:
        raise DataFormatError(member.problem)
    with reading(where):
        if member.size > MAX_BYTES:
            raise DataFormatError(
                f"{where}: has {member.size} bytes; at most {MAX_BYTES} are read."
            )
        packed = archive.read(member)
        if len(packed) < member.size:
            raise EOFError(f"{len(packed)} of {member.size} bytes")
        data = unpack(packed, where)
        if where.name.lower().endswith(JSON):
            record = read_document_text(data, where, options)
        else:
            content = parse_yaml(data, where, on_disk=len(packed))
            content = check_content(content, where)
            record = read_content(content, where, options, beside=False)
    return replace(record, name=_name(path, member))


def _place(path: Path, member: _Member) -> Path:
    return path / member.name.lstrip("/")


def _name(path: Path, member: _Member) -> str:
    place = _place(path, member)
    if place.name.lower().endswith(JSON):
        place = place.with_name(f"{file_stem(place)}.yaml")
    name = material_name(place)
    if name != path.name:
        return name
    ending = next(end for end in ARCHIVES[::-1] if path.name.lower().endswith(end))
    return path.name[: -len(ending)]


class _Archive:
    """An archive that is open for reading; members that come later are found fast."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found = self._list()
        self.members = [m for m in _phonon_members(found) if self._may_be_phonons(m)]

    def _list(self) -> list[_Member]:
        raise NotImplementedError

    def read(self, member: _Member) -> bytes:
        """Read the bytes of a member, fewer where the archive ends early."""
        raise NotImplementedError

    def _may_be_phonons(self, member: _Member) -> bool:
        """Look into JSON, which may be anything, as ``is_phonon_source`` does."""
        where = _place(self._path, member)
        if not where.name.lower().endswith(JSON) or member.problem:
            return True
        try:
            with reading(where):
                packed = self.read(member) if member.size <= MAX_BYTES else b""
                # What cannot be read whole is named when it is read.
                return len(packed) < member.size or holds_mark(
                    io.BytesIO(unpack(packed, where))
                )
        except DataFormatError:
            return True


class _Tar(_Archive):
    def __init__(self, path: Path) -> None:
        self._stream = _Forward(path)
        super().__init__(path)

    def _list(self) -> list[_Member]:
        found: list[_Member] = []
        try:
            # Not opened by name: tarfile has no limits on what it unpacks.
            with tarfile.open(fileobj=self._stream, mode="r:") as archive:  # type: ignore[call-overload]
                for number, info in enumerate(archive):
                    if number >= _MAX_MEMBERS:
                        raise _too_many(self._path)
                    if info.size < 0:
                        # tarfile would go back, and find the same member for ever.
                        raise tarfile.ReadError(f"a member has {info.size} bytes")
                    if info.isreg() and not info.issparse():
                        name = _printable(info.name)
                        found.append(_Member(name, info.size, info.offset_data))
                    # It keeps all members otherwise.
                    archive.members = []  # type: ignore[attr-defined]
                # tarfile takes a damaged header for the end; that is a block of zeros.
                self._stream.seek(archive.offset)
                if any(self._stream.read(tarfile.BLOCKSIZE)):
                    raise tarfile.ReadError("damaged header")
        except (tarfile.TarError, EOFError, DataFormatError) as error:
            # Whole members before the damage are sound.
            if not found:
                raise DataFormatError(
                    f"{self._path}: is no tar archive that can be read ({error}). It "
                    "is damaged or incomplete: copy or download it again."
                ) from error
            last = found[-1]
            is_whole = self._stream.tell() >= last.place + last.size
            # Material that is not whole is named when it is read.
            if is_whole or not _phonon_members([last]):
                problem = _damage(self._path, last, error)
                found.append(_Member(last.name, 0, 0, problem))
        return found

    def read(self, member: _Member) -> bytes:
        self._stream.seek(member.place)
        blocks, left = [], member.size
        while left and (block := self._stream.read(min(left, _BLOCK))):
            blocks.append(block)
            left -= len(block)
        return b"".join(blocks)


class _Zip(_Archive):
    def __init__(self, path: Path) -> None:
        try:
            # Open for all members: to open it is to read the list of them.
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DataFormatError(
                f"{path}: is no zip archive that can be read ({error}). It is damaged "
                "or incomplete: copy or download it again."
            ) from error
        self._infos = self._archive.infolist()
        super().__init__(path)

    def _list(self) -> list[_Member]:
        if len(self._infos) > _MAX_MEMBERS:
            raise _too_many(self._path)
        return [
            _Member(_printable(info.filename), info.file_size, number)
            for number, info in enumerate(self._infos)
            if not info.is_dir()
        ]

    def read(self, member: _Member) -> bytes:
        where = _place(self._path, member)
        info = self._infos[member.place]
        if info.flag_bits & 1:
            raise DataFormatError(
                f"{where}: is encrypted. Unpack the archive with its password."
            )
        check_ratio(where, info.compress_size, info.file_size)
        with self._archive.open(info) as file:
            return file.read(member.size)


class _Forward(io.RawIOBase):
    """The unpacked bytes of a file, with seeking: forward by reading on.

    Going back starts again, so that members are read in their order.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._opened = open_data(path, max_bytes=_MAX_ARCHIVE)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        if size is None or not 0 <= size <= _MAX_READ:
            raise DataFormatError(
                f"{self._path}: a header claims {size} bytes; at most {_MAX_READ} are "
                "read. It is damaged: copy or download it again."
            )
        data = self._opened.read(size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("seek from the end")
        if offset < self._at:
            self._opened.close()
            self._opened = open_data(self._path, max_bytes=_MAX_ARCHIVE)
            self._at = 0
        while self._at < offset and self.read(min(offset - self._at, _BLOCK)):
            pass
        return self._at


def _phonon_members(found: list[_Member]) -> list[_Member]:
    """Leave out what is no phonon data, and input beside what was made of it.

    Of members of one name the last replaces the others, as when they are unpacked.
    """
    paths = [PurePosixPath(member.name.lstrip("/")) for member in found]
    last = {
        path: member
        for member, path in zip(found, paths, strict=True)
        if not member.problem
    }
    complete = {
        path.parent for path in paths if path.name.startswith("phonopy_params.yaml")
    }
    return [
        member
        for member, path in zip(found, paths, strict=True)
        if member.problem
        or (
            last[path] is member
            and path.name.lower().endswith((*SUFFIXES, *JSON))
            and not path.name.startswith((".", "._"))
            and "__MACOSX" not in path.parts
            and path.name not in NOT_SOURCES
            and not (path.parent in complete and path.name.startswith(INPUT_FILES))
        )
    ]


def _too_many(path: Path) -> DataFormatError:
    return DataFormatError(
        f"{path}: has more than {_MAX_MEMBERS} members, which no archive of data has. "
        "Unpack what you need of it."
    )


def _damage(path: Path, last: _Member, error: Exception) -> str:
    cause = f"{error}".removeprefix(f"{path}: ").rstrip(".")
    return (
        f"{path}: nothing after its member {last.name} can be read ({cause}). It "
        "is damaged or incomplete: copy or download it again."
    )


def _printable(name: str) -> str:
    """Write a name in signs that can be printed, on one line."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@lru_cache(maxsize=2)
def _opened(path: Path, time: int, process: int) -> _Archive:
    """Open an archive once for all its members, not once for each.

    Each process opens its own: those that were forked share one place in a file.
    """
    del time, process
    kind: Callable[[Path], Any] = _Zip if path.name.lower().endswith(".zip") else _Tar
    with reading(path):
        archive: _Archive = kind(path)
        return archive


def _open(path: Path) -> _Archive:
    return _opened(path, path.stat().st_mtime_ns, os.getpid())
