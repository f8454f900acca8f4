"""Tables of moduli, with or without their crystals, as matcalc's benchmarks have them.

A table is JSON, also compressed: a list of entries with a name (``mp_id``,
``material_id`` or ``name``), ``bulk_modulus_vrh`` and ``shear_modulus_vrh`` in GPa, and
where the crystals are in it, ``structure`` as pymatgen writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.data.readers.content import check_unit_cell
from pft_lightning.data.sources import Spec
from pft_lightning.errors import DataFormatError, PFTError
from pft_lightning.evaluation.fingerprints import digest
from pft_lightning.evaluation.reference import (
    Material,
    file_name,
    number_names,
)
from pft_lightning.files import read_data
from pft_lightning.json_files import parse_json


BULK: Final = "bulk_modulus"
SHEAR: Final = "shear_modulus"

_NAMES: Final = ("mp_id", "material_id", "name")
_ENDINGS: Final = (".json", ".json.gz")

# Å; relaxed positions of databases are rounded, and symmetry is lost below it.
_LOOSE: Final = 1e-3


def is_table(structures: Spec) -> bool:
    """Tell whether crystals are asked for from a table."""
    return isinstance(structures, (str, Path)) and str(structures).endswith(_ENDINGS)


def read_moduli(path: str | Path) -> dict[str, dict[str, float]]:
    """Read the moduli of a table, by the name of the material.

    Args:
        path: JSON, also compressed.

    Returns:
        ``BULK`` and ``SHEAR`` of each, GPa, where they are finite.

    Raises:
        DataFormatError: it is no table, or has no moduli.
    """
    found: dict[str, dict[str, float]] = {}
    columns = {BULK: "bulk_modulus_vrh", SHEAR: "shear_modulus_vrh"}
    for index, entry in enumerate(_read_entries(path)):
        values = {
            modulus: float(value)
            for modulus, column in columns.items()
            if isinstance(value := entry.get(column), (int, float))
            and np.isfinite(value)
        }
        if values:
            found[file_name(_name(entry, index))] = values
    if not found:
        raise DataFormatError(
            f"{path}: no entry has {' or '.join(columns.values())} in GPa. Is it a "
            "table of elastic moduli?"
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
    entries = _read_entries(path)
    if not entries:
        raise DataFormatError(f"{path}: holds no entry; expected crystals.")
    return number_names(
        [
            Material(
                name=file_name(_name(entry, index)),
                source=f"{path}, entry {index}",
                fingerprint=digest([entry.get("structure")]),
                read=partial(_crystal, entry, f"{path}, entry {index}"),
            )
            for index, entry in enumerate(entries)
        ]
    )


def _name(entry: Mapping[str, Any], index: int) -> str:
    names = (str(entry[key]) for key in _NAMES if entry.get(key))
    return next(names, f"entry-{index}")


def _read_entries(path: str | Path) -> list[dict[str, Any]]:
    try:
        entries = parse_json(read_data(path))
    except FileNotFoundError as error:
        raise DataFormatError(
            f"{path}: does not exist; expected a table of elastic moduli, in JSON."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, PFTError):
            raise
        raise DataFormatError(
            f"{path}: cannot be read as JSON ({_in_a_line(error)}). It was truncated "
            "on the way, or is no table of elastic moduli: copy it again, or give one."
        ) from error
    if not isinstance(entries, list):
        raise DataFormatError(
            f"{path}: holds a {type(entries).__name__}; expected a list of entries, "
            "one for each material."
        )
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataFormatError(
                f"{path}: entry {index} is of type {type(entry).__name__}; expected "
                "the name, moduli and structure of a material."
            )
    return entries


def _in_a_line(error: Exception) -> str:
    """What an error of a library says, which may be several lines."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _crystal(entry: Mapping[str, Any], where: str) -> Phonopy:
    """The crystal of an entry.

    Raises:
        DataFormatError: it has none, or one that cannot be used.
    """
    try:
        structure = entry["structure"]
        if "lattice" not in structure or not all(structure["lattice"].get("pbc", [1])):
            raise DataFormatError(
                f"{where}: is not periodic along three axes; expected a crystal. A "
                "molecule or slab has no elastic constants."
            )
        cell = np.array(structure["lattice"]["matrix"], dtype=np.float64)
        species = [site["species"] for site in structure["sites"]]
        if any(len(one) != 1 or one[0].get("occu", 1) != 1 for one in species):
            raise DataFormatError(
                f"{where}: sites are partly occupied or shared; expected one element "
                "on each."
            )
        unitcell = PhonopyAtoms(
            symbols=[str(one[0]["element"]) for one in species],
            cell=cell,
            scaled_positions=[site["abc"] for site in structure["sites"]],
        )
        if not (np.isfinite(unitcell.positions).all() and unitcell.volume > 0):
            raise ValueError("numbers that are not finite, or no volume")
        check_unit_cell(unitcell, 1.0, where)
        return Phonopy(unitcell, np.eye(3), primitive_matrix=np.eye(3), symprec=_LOOSE)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if isinstance(error, DataFormatError):
            raise
        # RuntimeError: phonopy does not know an element.
        raise DataFormatError(
            f"{where}: has no structure as pymatgen writes it ({_in_a_line(error)})."
        ) from error
