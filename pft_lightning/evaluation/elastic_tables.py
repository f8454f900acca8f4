"""Tables of moduli as references and materials of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from phonopy import Phonopy

from pft_lightning.data.elastic_tables import (
    MODULUS_COLUMNS,
    crystal_of,
    is_table,
    moduli_of,
    name_of,
    read_entries,
)
from pft_lightning.data.sources import Spec
from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation.fingerprints import digest
from pft_lightning.evaluation.reference import (
    Material,
    file_name,
    number_names,
)


# Å; relaxed positions of databases are rounded, and symmetry is lost below it.
_LOOSE: Final = 1e-3


def holds_crystals(structures: Spec) -> bool:
    """Tell whether crystals are asked for from a table."""
    return isinstance(structures, (str, Path)) and is_table(structures)


def read_moduli(path: str | Path) -> dict[str, dict[str, float]]:
    """Read the moduli of a table, by the name of the material.

    Args:
        path: JSON, also compressed.

    Returns:
        ``BULK`` and ``SHEAR`` of each, GPa, where they are finite.

    Raises:
        DataFormatError: it is no table, or has no moduli.
    """
    found = {
        file_name(name_of(entry, index)): values
        for index, entry in enumerate(read_entries(path))
        if (values := moduli_of(entry))
    }
    if not found:
        raise DataFormatError(
            f"{path}: no entry has {' or '.join(MODULUS_COLUMNS.values())} in GPa. Is "
            "it a table of elastic moduli?"
        )
    return found


def list_table(structures: Spec) -> list[Material[Phonopy]]:
    """List the crystals of a table as the materials of an evaluation.

    One that cannot be used says why when it is read.

    Args:
        structures: path of the table.

    Raises:
        DataFormatError: it is no table, or is empty.
    """
    path = str(structures)
    entries = read_entries(path)
    if not entries:
        raise DataFormatError(f"{path}: holds no entry; expected crystals.")
    return number_names(
        [
            Material(
                name=file_name(name_of(entry, index)),
                source=f"{path}, entry {index}",
                fingerprint=digest([entry.get("structure")]),
                read=partial(_crystal, entry, f"{path}, entry {index}"),
            )
            for index, entry in enumerate(entries)
        ]
    )


def _crystal(entry: Mapping[str, Any], where: str) -> Phonopy:
    """The crystal of an entry in its own cell."""
    unit_cell = crystal_of(entry, where)
    return Phonopy(unit_cell, np.eye(3), primitive_matrix=np.eye(3), symprec=_LOOSE)
