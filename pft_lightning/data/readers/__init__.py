"""Readers of phonon calculations: one function for every kind of source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pft_lightning.data.readers.options import PhononReadOptions, Relaxed
from pft_lightning.data.readers.registry import list_entries, read_entry
from pft_lightning.data.records import MAX_FORCE, StructureRecord
from pft_lightning.errors import DataFormatError


__all__ = ["PhononReadOptions", "list_entries", "read_entry", "read_phonon"]


def read_phonon(
    path: str | Path,
    *,
    max_asymmetry: float = 0.1,
    max_relative_asymmetry: float = 0.05,
    relaxed: Relaxed = "full",
    units: str | None = None,
    max_force: float = MAX_FORCE,
    max_displacement: float = 0.5,
    supercell_matrix: Sequence[int] | Sequence[Sequence[int]] | None = None,
    fc_calculator: Literal["auto", "traditional", "symfc"] = "auto",
    symprec: float | None = None,
) -> StructureRecord:
    """Read the phonon calculation of one material.

    Args:
        path: phonopy or phono3py yaml (plain, .xz, .bz2, .gz), a folder with
            FORCE_SETS or FORCE_CONSTANTS, or an aselmdb with one structure.
        max_asymmetry: see ``PhononReadOptions`` for this and the following.
        max_relative_asymmetry: without a unit.
        relaxed: what vanishes: "full", "positions" or "none".
        units: of files that do not tell theirs.
        max_force: eV/Å.
        max_displacement: Å.
        supercell_matrix: for folders with a bare POSCAR.
        fc_calculator: "auto", "traditional" or "symfc".
        symprec: tolerance of the symmetry search; None: that of the file, else 1e-5.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    options = PhononReadOptions(
        max_asymmetry=max_asymmetry,
        max_relative_asymmetry=max_relative_asymmetry,
        relaxed=relaxed,
        units=units,
        max_force=max_force,
        max_displacement=max_displacement,
        supercell_matrix=supercell_matrix,  # type: ignore[arg-type]
        fc_calculator=fc_calculator,
        symprec=symprec,
    )
    entries = list_entries(Path(path))
    if len(entries) != 1:
        raise DataFormatError(
            f"{path}: holds {len(entries)} structures; read_phonon reads one. Use "
            "list_entries and read_entry, or build a store of it."
        )
    return read_entry(Path(path), entries[0], options)
