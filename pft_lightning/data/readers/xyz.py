"""Frames of extended XYZ files, one after the other; a bad one ends nothing."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ase import Atoms
from ase.io.extxyz import key_val_str_to_dict, read_xyz

from pft_lightning.data.readers.options import reading
from pft_lightning.errors import DataFormatError
from pft_lightning.files import MAX_RATIO, open_data


SUFFIXES: Final = (".xyz", ".extxyz")

# Files are read line by line, so what they hold in all needs no limit of its own; a
# compressed one may unpack to MAX_RATIO times its size.
_MAX_BYTES: Final = 1 << 60

# Longest line, characters. The first line of a frame may hold arrays of thousands of
# numbers; a file of 16 MB without a line break is no XYZ file.
_MAX_LINE: Final = 1 << 24

# Shortest line of an atom, bytes: "C 0 0 0" and the line break.
_MIN_ATOM: Final = 8

# The line that begins a frame. Lines of atoms have four columns at least.
_COUNT: Final = re.compile(r"\s*(\d+)\s*")


def is_xyz(path: Path) -> bool:
    """Tell whether a file is extended XYZ by its name, compressed or not."""
    return any(suffix in SUFFIXES for suffix in path.suffixes[-2:])


def read_frames(path: Path) -> Iterator[tuple[int, Atoms | DataFormatError]]:
    """Give the frames of a file with their numbers, counted from 0.

    A frame that cannot be read is an error in its place, and reading goes on with the
    next line that holds nothing but a number of atoms.

    Args:
        path: plain or compressed. Memory is needed for one frame at a time.

    Raises:
        DataFormatError: the file as a whole cannot be read: it is damaged, no text, or
            unpacks to more than data do.
    """
    largest = MAX_RATIO * path.stat().st_size // _MIN_ATOM
    if path.suffix not in SUFFIXES:
        # Unpacking is quick and parsing is not: damage and bombs show at once.
        with reading(path), open_data(path, max_bytes=_MAX_BYTES) as packed:
            while packed.read(_MAX_LINE):
                pass
    with (
        reading(path),
        open_data(path, max_bytes=_MAX_BYTES) as binary,
        # A sign that is no UTF-8 in a comment harms no number.
        io.TextIOWrapper(binary, encoding="utf-8-sig", errors="replace") as file,
    ):
        for number, lines in enumerate(_split(_Lines(path, file), largest)):
            where = f"{path}, frame {number}"
            if isinstance(lines, str):
                yield number, DataFormatError(f"{where}: {lines}")
            else:
                yield number, _parse(lines, where)


def _parse(lines: list[str], where: str) -> Atoms | DataFormatError:
    try:
        with reading(Path(where)):
            _check_columns(lines, where)
            atoms: Atoms = next(read_xyz(io.StringIO("".join(lines)), 0))
            return atoms
    except DataFormatError as error:
        if isinstance(error.__cause__, KeyError):
            return DataFormatError(
                f"{where}: {error.__cause__} is no chemical element, in the column of "
                "species or of pbc. Isotopes are written as their element (D as H: "
                "energies and forces are the same)."
            )
        return error


def _check_columns(lines: list[str], where: str) -> None:
    """Refuse more columns than there are: ASE would make room for them first."""
    named = key_val_str_to_dict(lines[1]).get("Properties")
    if len(lines) == 2 or not isinstance(named, str):
        return
    widths = [int(width) for width in named.split(":")[2::3]]
    n_columns = len(lines[2].split())
    if min(widths, default=1) < 1 or sum(widths) > n_columns:
        raise DataFormatError(
            f"{where}: Properties={named[:80]} claims other columns than the "
            f"{n_columns} that its atoms have. Write the frame again."
        )


class _Lines:
    """Lines of a file, one of which can be put back."""

    def __init__(self, path: Path, file: io.TextIOWrapper) -> None:
        self._path, self._file = path, file
        self._next: str | None = None

    def take(self) -> str:
        """Give the next line, empty at the end of the file."""
        line, self._next = self._next, None
        if line is None:
            line = self._file.readline(_MAX_LINE)
            if len(line) >= _MAX_LINE:
                raise DataFormatError(
                    f"{self._path}: a line has more than {_MAX_LINE} characters; this "
                    "is no extended XYZ file. Check what it is."
                )
        return line

    def look(self) -> str:
        """Give the next line and leave it there."""
        self._next = self.take()
        return self._next


def _split(lines: _Lines, largest: int) -> Iterator[list[str] | str]:
    """Give the lines of each frame, or what is wrong with it."""
    while True:
        while (first := lines.take()) and not first.strip():
            pass
        if not first:
            return
        found = _take_frame(lines, first, largest)
        if isinstance(found, str):
            # Go on where the next frame begins.
            while (line := lines.look()) and not _COUNT.fullmatch(line):
                lines.take()
        yield found


def _take_frame(lines: _Lines, first: str, largest: int) -> list[str] | str:
    count = _COUNT.fullmatch(first)
    if count is None:
        return (
            f"a frame begins with its number of atoms, not with {first.strip()[:40]!r}."
            " Write the file again."
        )
    # Its digits first: to convert a million of them takes minutes.
    digits = count.group(1).lstrip("0")
    if len(digits) > len(str(largest)) or int(digits or 0) > largest:
        return (
            f"its first line claims {digits[:20]} atoms, more than the file has room "
            "for. Write the frame again."
        )
    n_atoms = int(digits or 0)
    frame = [first, lines.take()]
    while len(frame) < n_atoms + 2:
        line = lines.look()
        if not line.strip() or _COUNT.fullmatch(line):
            return (
                f"its first line claims {n_atoms} atoms, {len(frame) - 2} follow. The "
                "file was cut off or put together wrongly: write the frame again."
            )
        frame.append(lines.take())
    while lines.look().lstrip().startswith("VEC"):
        frame.append(lines.take())
    after = lines.look()
    if len(after.split()) == len(frame[-1].split()) and not _COUNT.fullmatch(after):
        return (
            f"its first line claims {n_atoms} atoms, and more follow "
            f"({after.strip()[:40]!r}). Write the frame again."
        )
    return frame
