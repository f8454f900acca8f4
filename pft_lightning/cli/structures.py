"""Reading crystals of any format, and writing structures for a DFT code."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import ase
import ase.io
import phonopy
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.data.readers.options import reading
from pft_lightning.data.readers.registry import is_phonon_source
from pft_lightning.errors import ConfigError, DataFormatError


XYZ_SUFFIXES = (".xyz", ".extxyz")


def read_structures(spec: str | Sequence[str]) -> Iterator[ase.Atoms]:
    """All structures of files, globs or a list of them, in that order.

    Args:
        spec: of files that ASE reads (CIF, POSCAR, extended XYZ, ...) or phonopy
            yaml files, of which the unit cell is taken.

    Raises:
        DataFormatError: an entry matches nothing, or a file cannot be read.
    """
    entries = [spec] if isinstance(spec, str) else list(spec or [])
    for entry in entries:
        paths = sorted(glob.glob(os.path.expanduser(entry), recursive=True))
        if not paths:
            raise DataFormatError(
                f"{entry}: no such file (seen from {Path.cwd()}). Check the path."
            )
        for path in map(Path, paths):
            with reading(path):
                yield from _read(path)


def write_structures(structures: Sequence[ase.Atoms], out: Path) -> None:
    """Write one extended XYZ file, or a folder with one POSCAR per structure.

    Args:
        structures: what to write, with labels if they have any.
        out: a name ending in .xyz or .extxyz, else a folder, which must be new.

    Raises:
        ConfigError: the folder exists.
    """
    if out.suffix in XYZ_SUFFIXES:
        partial = out.with_name(f".{out.name}.partial")
        ase.io.write(partial, list(structures), format="extxyz")
        partial.replace(out)
        return
    if out.exists():
        raise ConfigError(f"{out} exists already; choose another out=...")
    digits = len(str(len(structures) - 1))
    for i, atoms in enumerate(structures):
        folder = out / f"{i:0{digits}d}"
        folder.mkdir(parents=True)
        ase.io.write(folder / "POSCAR", atoms, format="vasp", sort=True, direct=True)


def _read(path: Path) -> list[ase.Atoms]:
    if is_phonon_source(path):
        phonon = phonopy.load(path, produce_fc=False, is_nac=False, log_level=0)
        return [_to_ase(phonon.unitcell)]
    return list(ase.io.read(path, ":"))


def _to_ase(cell: PhonopyAtoms) -> ase.Atoms:
    return ase.Atoms(
        cell.symbols, scaled_positions=cell.scaled_positions, cell=cell.cell, pbc=True
    )
