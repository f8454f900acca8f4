"""Which reader reads which source, found by its name, and for JSON by its content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pft_lightning.data.readers import documents
from pft_lightning.data.readers.archives import (
    list_members,
    member_name,
    read_member,
)
from pft_lightning.data.readers.aselmdb import list_rows, read_row
from pft_lightning.data.readers.folder import read_folder
from pft_lightning.data.readers.molecules.deepmd import list_system, read_system
from pft_lightning.data.readers.molecules.frames import (
    frame_name,
    list_frames,
    read_frame,
)
from pft_lightning.data.readers.molecules.gaussian import read_fchk
from pft_lightning.data.readers.molecules.orca import read_orca
from pft_lightning.data.readers.molecules.record import (
    MolecularHessian,
    build_molecule,
)
from pft_lightning.data.readers.names import (
    ARCHIVES,
    DATABASE,
    FCHK,
    JSON,
    ORCA,
    STORE_INDEX,
    SUFFIXES,
    XYZ,
    file_stem,
    is_store,
    is_system,
)
from pft_lightning.data.readers.options import PhononReadOptions, reading
from pft_lightning.data.readers.phono3py import holds_third_order, read_both_orders
from pft_lightning.data.readers.phonopy import material_name, read_yaml
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import DataFormatError


# One structure of a source: its number in a database, a store or a file of several,
# None where the source is one structure.
Entry = int | None

_ACCEPTED = (
    "phonopy yaml (plain, .xz, .bz2, .gz); a folder with FORCE_SETS or "
    "FORCE_CONSTANTS, or with phono3py_disp.yaml and FORCES_FC2 or FORCES_FC3; phonon "
    "documents of atomate2 or the Materials Project (.json); .tar and .zip archives of "
    "these files; .aselmdb with a 'hessian' entry; of molecules VibrationsData of ASE "
    "(.json), ORCA's .hess, .fchk, extended XYZ with a Hessian, or a DeePMD system "
    "with hessian.npy"
)


@dataclass(frozen=True, slots=True)
class _Reader:
    """How one kind of source is read.

    Attributes:
        reads: tells whether a path is of the kind, by its name.
        read: reads one entry.
        entries: lists the entries.
        name: names one without reading its force constants.
    """

    reads: Callable[[Path], bool]
    read: Callable[[Path, Any, PhononReadOptions], StructureRecord]
    entries: Callable[[Path], Sequence[Entry]] = lambda path: [None]
    name: Callable[[Path, Any], str] = lambda path, entry: file_stem(path)


def list_entries(path: Path) -> list[Entry]:
    """List the structures of a source: their numbers, or [None] for a single one.

    Raises:
        DataFormatError: the source cannot be read, or is of no kind that is known.
    """
    reader = _find(path)
    return [None] if reader is None else list(reader.entries(path))


def entry_name(path: Path, entry: Entry) -> str:
    """Name one structure of a source without reading its force constants.

    Raises:
        DataFormatError: the source cannot be read.
    """
    reader = _find(path)
    return material_name(path) if reader is None else reader.name(path, entry)


def read_entry(path: Path, entry: Entry, options: PhononReadOptions) -> StructureRecord:
    """Read one structure of a source.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    if not path.exists():
        raise DataFormatError(f"{path}: no such file or folder. Check the path.")
    reader = _find(path)
    if reader is None:
        raise DataFormatError(
            f"{path}: not a kind of phonon data that is known. Accepted: {_ACCEPTED}."
        )
    return reader.read(path, entry, options)


def _find(path: Path) -> _Reader | None:
    return next((reader for reader in _READERS if reader.reads(path)), None)


def _ends(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.name.lower().endswith(suffixes)


def _single(
    read: Callable[[Path], MolecularHessian],
) -> Callable[[Path, Entry, PhononReadOptions], StructureRecord]:
    """Read a file of one molecule."""

    def read_molecule(
        path: Path, entry: Entry, options: PhononReadOptions
    ) -> StructureRecord:
        del entry
        with reading(path):
            return build_molecule(read(path), str(path), options)

    return read_molecule


def _one_of_many(
    read: Callable[[Path, int, PhononReadOptions], tuple[MolecularHessian, str]],
) -> Callable[[Path, int, PhononReadOptions], StructureRecord]:
    """Read a molecule of a file, or folder, of several."""

    def read_molecule(
        path: Path, entry: int, options: PhononReadOptions
    ) -> StructureRecord:
        with reading(path):
            found, where = read(path, entry, options)
            return build_molecule(found, where, options)

    return read_molecule


def _also_third_order(
    read: Callable[[Path, PhononReadOptions], StructureRecord],
) -> Callable[[Path, Entry, PhononReadOptions], StructureRecord]:
    """Read a crystal with its force constants of third order, where that is asked."""

    def read_crystal(
        path: Path, entry: Entry, options: PhononReadOptions
    ) -> StructureRecord:
        del entry
        if options.third_order and holds_third_order(path):
            return read_both_orders(path, options)
        return read(path, options)

    return read_crystal


@lru_cache(maxsize=8)
def _open_store(path: str, time: int) -> Any:
    """Open a store once per state of its index, not once per structure."""
    del time
    from pft_lightning.data.store.reading import PhononStore

    return PhononStore(path)


def _store(path: Path) -> Any:
    index = path / STORE_INDEX
    time = index.stat().st_mtime_ns if index.is_file() else 0
    return _open_store(str(path), time)


_READERS = (
    _Reader(
        is_store,
        lambda path, entry, options: _store(path).record(entry or 0),
        lambda path: list(range(len(_store(path)))),
        lambda path, entry: str(_store(path).names[entry or 0]),
    ),
    _Reader(
        is_system,
        _one_of_many(read_system),
        list_system,
        lambda path, entry: f"{path.absolute().name}-{entry}",
    ),
    _Reader(
        Path.is_dir,
        _also_third_order(read_folder),
        name=lambda path, entry: path.absolute().name,
    ),
    _Reader(
        _ends(DATABASE),
        lambda path, entry, options: read_row(path, entry, options),
        lambda path: list(list_rows(path)),
        lambda path, entry: f"{path.stem}-{entry}",
    ),
    _Reader(
        _ends(*SUFFIXES),
        _also_third_order(read_yaml),
        name=lambda path, entry: material_name(path),
    ),
    _Reader(_ends(*ARCHIVES), read_member, list_members, member_name),
    _Reader(_ends(*ORCA), _single(read_orca)),
    _Reader(_ends(*FCHK), _single(read_fchk)),
    _Reader(_ends(*XYZ), _one_of_many(read_frame), list_frames, frame_name),
    _Reader(
        _ends(*JSON),
        documents.read_document,
        documents.list_documents,
        documents.document_name,
    ),
)
