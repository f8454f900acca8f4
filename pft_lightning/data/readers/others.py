"""Structures of files in the other formats that ASE knows."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from pathlib import Path

import ase.io
from ase import Atoms

from pft_lightning.data.readers.ase_json import check_arrays
from pft_lightning.data.readers.names import ARCHIVES, FCHK, JSON, ORCA, holds_mark
from pft_lightning.errors import DataFormatError, PFTError
from pft_lightning.files import COMPRESSED, open_data, read_data


def read_structures_of_ase(path: Path) -> list[Atoms]:
    """Read all structures of a file.

    Raises:
        DataFormatError: it is of a kind that has another place, of none that ASE
            knows, or damaged.
    """
    _refuse_phonons(path)
    try:
        found = _read(path)
    except (PFTError, FileNotFoundError, MemoryError):
        raise
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataFormatError(
            f"{path}: is of no format that ASE knows, or damaged ({cause}). Give CIF, "
            "POSCAR or extended XYZ."
        ) from error
    if not found:
        raise DataFormatError(f"{path}: holds no structure. Write it again.")
    return found


def _refuse_phonons(path: Path) -> None:
    name = path.name.lower()
    if name.endswith(ARCHIVES):
        raise DataFormatError(
            f"{path}: is an archive, of which no structures are read. Unpack it; "
            "archives of phonons are given as phonons=."
        )
    if name.endswith((*ORCA, *FCHK)) or (
        name.endswith(JSON) and holds_mark(io.BytesIO(read_data(path)))
    ):
        raise DataFormatError(
            f"{path}: is a file of phonons or Hessians, of which no structures are "
            "read. Give it as phonons=, or the structure as CIF or extended XYZ."
        )


def _read(path: Path) -> list[Atoms]:
    """Read a file, which ASE would unpack without limits where it is compressed."""
    packing = next((end for end in COMPRESSED if path.name.endswith(end)), "")
    if path.name.lower().endswith(JSON):
        data = read_data(path)
        check_arrays(data.decode(json.detect_encoding(data)))
    if not packing:
        return _read_plain(path)
    with tempfile.TemporaryDirectory() as folder:
        # ASE tells many formats by the name.
        plain = Path(folder) / path.name.removesuffix(packing)
        with open_data(path) as packed, plain.open("wb") as file:
            shutil.copyfileobj(packed, file)
        return _read_plain(plain)


def _read_plain(path: Path) -> list[Atoms]:
    # ASE takes "postgres..." for the address of a database, and what follows @ in a
    # name for a number of a structure.
    return list(ase.io.iread(path.absolute(), ":", do_not_split_by_at_sign=True))
