"""Where data come from: files, folders, globs, stores, or lists of them."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pft_lightning.data.readers.names import (
    INPUT_FILES,
    is_calculation_folder,
    is_force_file,
    is_material_folder,
    is_phonon_source,
    is_store,
    is_structure_source,
    is_system,
)
from pft_lightning.errors import ConfigError, DataFormatError


_PACKED = ("", ".xz", ".gz", ".bz2")
_XYZ_SUFFIXES = tuple(
    kind + packed for kind in (".xyz", ".extxyz") for packed in _PACKED
)
UPSTREAM_SUFFIXES = (*_XYZ_SUFFIXES, ".db", ".json", ".aselmdb")

# Of tables of elastic data.
TABLE_SUFFIXES = tuple(f".json{packed}" for packed in _PACKED)

# Of measured values: tables, and what phonopy calls its results.
CSV_SUFFIXES = tuple(f".csv{packed}" for packed in _PACKED)
PHONOPY_RESULTS = tuple(
    name + packed
    for name in ("band.yaml", "mesh.yaml", "thermal_properties.yaml", "total_dos.dat")
    for packed in _PACKED
)

_EXPECTED = {
    "phonons": "phonopy yaml files (.yaml, .yaml.xz, .bz2, .gz), folders with "
    "FORCE_SETS or FORCE_CONSTANTS (of phono3py: phono3py_disp.yaml and FORCES_FC2 or "
    "FORCES_FC3), phonon documents in .json, archives of such files (.tar, .zip), "
    ".aselmdb files or stores; of molecules files with a Hessian "
    "(VibrationsData in .json, .hess, .fchk, .xyz) or DeePMD systems with hessian.npy",
    "upstream": f"files that end in {', '.join(UPSTREAM_SUFFIXES)}",
    "structure": "CIF, POSCAR or extended XYZ files, or phonopy yaml files",
    "elastic": "tables in .json, or extended XYZ files (.xyz, .extxyz), also "
    "compressed",
    "measured": "tables in .csv, or band.yaml, mesh.yaml, thermal_properties.yaml and "
    "total_dos.dat of phonopy, also compressed",
}

# Reasons shown in an error.
_MAX_REASONS = 5

# Skips that are shown one by one; a thousand would hide what is said beside them.
_MAX_SHOWN = 20

_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

Kind = Literal["phonons", "upstream", "structure", "elastic", "measured"]
Spec = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True, slots=True)
class Sources:
    """What was found.

    Attributes:
        paths: of files, folders and stores that look like data, each once.
        skipped: (path, reason) of what looks like data and cannot be used.
    """

    paths: list[Path]
    skipped: list[tuple[str, str]]


def is_upstream_source(path: Path) -> bool:
    """Tell whether a file looks like energy, force and stress data."""
    return path.name.endswith(UPSTREAM_SUFFIXES)


def is_elastic_source(path: Path) -> bool:
    """Tell whether a file looks like crystals with elastic constants."""
    return path.name.endswith((*_XYZ_SUFFIXES, *TABLE_SUFFIXES))


def is_measured_source(path: Path) -> bool:
    """Tell whether a file looks like measured values."""
    return path.name.endswith(CSV_SUFFIXES) or path.name in PHONOPY_RESULTS


def find_sources(spec: Spec, *, kind: Kind = "phonons") -> Sources:
    """Find the sources that a file, folder, glob, store or list of them stands for.

    Folders are searched to any depth, through links too. The order is that of the
    list, and sorted by path within each entry, so it does not depend on the file
    system; a source that is found twice is kept once. What cannot be read is skipped
    and named; named pipes, sockets and devices are never opened.

    Args:
        spec: one path or pattern, or a list of them.
        kind: what to look for in folders.

    Raises:
        DataFormatError: an entry matches nothing, a folder holds no source, or none of
            the sources can be read.
        ConfigError: no entry was given.
    """
    listed: list[Any] = [spec]
    if isinstance(spec, Iterable) and not isinstance(spec, (str, os.PathLike)):
        listed = list(spec)
    if not listed or listed == [None]:
        raise ConfigError(f"no source of {kind} data was given; expected a path.")
    for entry in listed:
        if not isinstance(entry, (str, os.PathLike)):
            raise ConfigError(f"source of {kind} data: {entry!r}; expected a path.")
    entries: list[str | os.PathLike[str]] = listed
    search = _Search(kind)
    for entry in entries:
        search.add(os.path.expanduser(os.fspath(entry)))
    if not search.paths:
        shown = "\n".join(skip_lines(search.skipped, most=_MAX_REASONS)[1:])
        raise DataFormatError(
            f"{', '.join(printable(entry) for entry in entries)}: none of "
            f"{len(search.skipped)} sources of {kind} data can be read:\n{shown}"
        )
    return Sources(search.paths, search.skipped)


def skip_lines(
    skipped: Sequence[tuple[str, str]], *, most: int = _MAX_SHOWN
) -> list[str]:
    """Say how many sources were skipped, and of the first ones which and why.

    Args:
        skipped: (source, reason), where the reason names the source.
        most: of them to be shown.
    """
    lines = [f"{len(skipped)} skipped" + (":" if skipped else "")]
    lines += [f"  {reason}" for _, reason in skipped[:most]]
    if len(skipped) > most:
        lines.append(f"  and {len(skipped) - most} more")
    return lines


def printable(path: str | os.PathLike[str]) -> str:
    """Write a path in signs that can be printed, also where it is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def why_unreadable(path: Path) -> str | None:
    """Say why a path cannot be read as data, None where nothing speaks against it.

    No file is opened: that of a named pipe would wait for ever.
    """
    shown = printable(path)
    try:
        str(path).encode()
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(path):
                return None
    except UnicodeEncodeError:
        return (
            f"{shown}: its name is not UTF-8, or this process knows ASCII alone. "
            "Rename it, or set PYTHONUTF8=1."
        )
    except FileNotFoundError:
        target = printable(os.path.realpath(path))
        return f"{shown}: a link to {target}, which does not exist. Mend or remove it."
    except OSError as error:
        return _denied(path, error)
    if not stat.S_ISREG(status.st_mode):
        what = _SPECIAL.get(stat.S_IFMT(status.st_mode), "no file")
        return f"{shown}: is {what}, not a file of data. Remove it."
    if status.st_size == 0:
        return f"{shown}: is empty. Write it again."
    if not os.access(path, os.R_OK):
        return f"{shown}: cannot be read (no permission). Check its permissions."
    return None


def _denied(path: Path, error: OSError) -> str:
    why = error.strerror or str(error)
    return f"{printable(path)}: cannot be read ({why}). Check its permissions."


_WANTED = {
    "phonons": is_phonon_source,
    "upstream": is_upstream_source,
    "structure": is_structure_source,
    "elastic": is_elastic_source,
    "measured": is_measured_source,
}


class _Search:
    """Sources found so far, and what was passed on the way."""

    def __init__(self, kind: Kind) -> None:
        self.paths: list[Path] = []
        self.skipped: list[tuple[str, str]] = []
        self._kind = kind
        # Files and folders by device and inode: the same through all links to it.
        self._seen: dict[tuple[int, int], Path] = {}

    def add(self, entry: str) -> None:
        """Take in one entry of the list.

        Raises:
            DataFormatError: it matches nothing, or holds nothing of the kind.
        """
        if sum(self._visit(path) for path in _matches(entry)) == 0:
            raise DataFormatError(
                f"{printable(entry)}: no {self._kind} data in it; expected "
                f"{_EXPECTED[self._kind]}."
            )

    def _visit(self, path: Path) -> int:
        """Take in a file or folder; give the number of sources met, known or not."""
        try:
            reason = why_unreadable(path)
            if reason is not None:
                return self._skip(path, reason)
            if is_store(path):
                return self._take(path) if self._kind == "phonons" else 0
            if self._kind == "phonons" and is_force_file(path):
                path = path.parent  # where its cells are
            if self._is_one_source(path):
                reason = _special_file(path)
                return self._skip(path, reason) if reason else self._take(path)
            return self._walk(path) if path.is_dir() else self._take(path)
        except OSError as error:
            return self._skip(path, _denied(path, error))

    def _is_one_source(self, path: Path) -> bool:
        """Tell whether a folder is read as one."""
        if self._kind == "structure":
            return is_calculation_folder(path)
        return self._kind == "phonons" and (is_material_folder(path) or is_system(path))

    def _take(self, path: Path) -> int:
        if not self._was_met(path):
            self.paths.append(path)
        return 1

    def _walk(self, folder: Path) -> int:
        if self._was_met(folder):
            return 1
        return sum(self._visit(path) for path in self._children(folder))

    def _was_met(self, path: Path) -> bool:
        """Tell whether this was met before, here or, which is noted, elsewhere."""
        status, place = path.stat(), Path(os.path.abspath(path))
        known = (status.st_dev, status.st_ino) in self._seen
        first = self._seen.setdefault((status.st_dev, status.st_ino), place)
        if first != place:
            shown = printable(path)
            self._skip(path, f"{shown}: the same as {first}, which is taken once.")
        return known

    def _children(self, folder: Path) -> Iterator[Path]:
        """Give what in a folder may be data, or a folder with data."""
        wanted = _WANTED[self._kind]
        paths = sorted(folder.iterdir())
        is_complete = any(path.name.startswith("phonopy_params.yaml") for path in paths)
        for path in paths:
            if path.name.startswith("."):
                continue
            if path.name == "POSCAR" and (folder / "CONTCAR").is_file():
                continue  # what VASP was started with, before it relaxed
            if is_complete and path.name.startswith(INPUT_FILES):
                # Earlier files of the same calculation, without forces.
                continue
            if path.is_symlink() and _holds(path, folder):
                self._skip(path, f"{printable(path)}: a link back to where it lies.")
            elif _is_no_file(path) or wanted(path):
                yield path

    def _skip(self, path: Path, reason: str) -> int:
        self.skipped.append((printable(path), reason))
        return 1


def _matches(entry: str) -> list[Path]:
    if os.path.lexists(entry):
        return [Path(entry)]
    seen_from = f"(seen from {printable(Path.cwd())})"
    if not glob.has_magic(entry):
        raise DataFormatError(
            f"{printable(entry)}: no such file or folder {seen_from}. Check the path."
        )
    matches = sorted(Path(match) for match in glob.glob(entry, recursive=True))
    if not matches:
        raise DataFormatError(
            f"{printable(entry)}: the pattern matches nothing {seen_from}. Check it, "
            "and quote it in the shell."
        )
    return matches


def _holds(link: Path, folder: Path) -> bool:
    """Tell whether a link leads to a folder that it lies in itself."""
    target = os.path.realpath(link)
    return Path(os.path.realpath(folder)).is_relative_to(target)


def _is_no_file(path: Path) -> bool:
    """Tell whether a path is a folder, or something that cannot be looked at."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return True


def _special_file(folder: Path) -> str | None:
    """Say which file of a material's folder is none; a reader must not open it."""
    for path in sorted(folder.iterdir()):
        if path.exists() and not path.is_dir() and not path.is_file():
            return f"{printable(folder)}: {why_unreadable(path)}"
    return None
