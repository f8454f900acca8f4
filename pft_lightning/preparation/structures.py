"""Writing structures for a DFT code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ase
import ase.io

from pft_lightning.data.readers.xyz import SUFFIXES as XYZ_SUFFIXES
from pft_lightning.errors import ConfigError
from pft_lightning.files import make_folder, replacing


def write_structures(structures: Sequence[ase.Atoms], out: Path) -> None:
    """Write one extended XYZ file, or a folder with one POSCAR per structure.

    Args:
        structures: what to write, with labels if they have any.
        out: a name ending in .xyz or .extxyz, else a folder, which must be new.

    Raises:
        ConfigError: the folder exists.
    """
    if out.suffix in XYZ_SUFFIXES:
        make_folder(out.parent)
        with replacing(out) as partial:
            ase.io.write(partial, list(structures), format="extxyz")
        return
    if out.exists():
        raise ConfigError(f"{out} exists already; choose another out=...")
    digits = len(str(len(structures) - 1))
    make_folder(out.parent)
    with replacing(out) as partial:
        for i, atoms in enumerate(structures):
            file = partial / f"{i:0{digits}d}" / "POSCAR"
            file.parent.mkdir(parents=True)
            ase.io.write(file, atoms, format="vasp", sort=True, direct=True)
