"""Entries of tables of elastic data, as matcalc's benchmarks have them.

A table is JSON, also compressed: a list of entries with a name (``mp_id``,
``material_id`` or ``name``) and, where they are known, ``bulk_modulus_vrh`` and
``shear_modulus_vrh`` in GPa, ``elastic_tensor`` (6 x 6, GPa, stress by strain in Voigt
order xx, yy, zz, yz, xz, xy along the axes of the structure; of Materials Project's
``raw`` and ``ieee_format`` the first) and ``structure`` as pymatgen writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase.data import atomic_masses, atomic_numbers
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.data.readers.content import check_unit_cell
from pft_lightning.data.sources import TABLE_SUFFIXES
from pft_lightning.errors import DataFormatError, PFTError
from pft_lightning.files import read_data
from pft_lightning.json_files import parse_json


BULK: Final = "bulk_modulus"
SHEAR: Final = "shear_modulus"
MODULUS_COLUMNS: Final = {BULK: "bulk_modulus_vrh", SHEAR: "shear_modulus_vrh"}

_NAMES: Final = ("mp_id", "material_id", "name")


def is_table(path: str | Path) -> bool:
    """Tell whether a file is a table by its name."""
    return str(path).endswith(TABLE_SUFFIXES)


def name_of(entry: Mapping[str, Any], index: int) -> str:
    """The name of an entry, or its number."""
    names = (str(entry[key]) for key in _NAMES if entry.get(key))
    return next(names, f"entry-{index}")


def read_entries(path: str | Path) -> list[dict[str, Any]]:
    """Read the entries of a table.

    Raises:
        DataFormatError: it is no table.
    """
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


def moduli_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """``BULK`` and ``SHEAR`` of an entry, GPa, where they are finite."""
    return {
        modulus: float(value)
        for modulus, column in MODULUS_COLUMNS.items()
        if isinstance(value := entry.get(column), (int, float)) and np.isfinite(value)
    }


def _in_a_line(error: Exception) -> str:
    """What an error of a library says, which may be several lines."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def crystal_of(entry: Mapping[str, Any], where: str) -> PhonopyAtoms:
    """The crystal of an entry.

    Args:
        entry: of a table.
        where: path and number, for messages.

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
        symbols = [str(one[0]["element"]) for one in species]
        unitcell = PhonopyAtoms(
            symbols=symbols,
            # phonopy knows none of some actinides.
            masses=[atomic_masses[atomic_numbers[symbol]] for symbol in symbols],
            cell=cell,
            scaled_positions=[site["abc"] for site in structure["sites"]],
        )
        if not (np.isfinite(unitcell.positions).all() and unitcell.volume > 0):
            raise ValueError("numbers that are not finite, or no volume")
        check_unit_cell(unitcell, 1.0, where)
        return unitcell
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if isinstance(error, DataFormatError):
            raise
        # RuntimeError: phonopy does not know an element.
        raise DataFormatError(
            f"{where}: has no structure as pymatgen writes it ({_in_a_line(error)})."
        ) from error
