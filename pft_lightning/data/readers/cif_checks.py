"""What a CIF must tell of a crystal before ASE builds it, which guesses the rest."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.cif import CIFBlock
from ase.spacegroup.spacegroup import parse_sitesym

from pft_lightning.errors import DataFormatError


_SYMBOL: Final = re.compile(r"[A-Z][a-z]?")
_TERM: Final = r"(?:[xyz]|\d+(?:/\d+)?|\d*\.\d+)"
_PART: Final = rf"[+-]?{_TERM}(?:[+-]{_TERM})*"
_OPERATION: Final = re.compile(rf"{_PART},{_PART},{_PART}")
_OPERATIONS: Final = (
    "_space_group_symop_operation_xyz",
    "_space_group_symop.operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
)
_POSITIONS: Final = (
    tuple(f"_atom_site_fract_{axis}" for axis in "xyz"),
    tuple(f"_atom_site_cartn_{axis}" for axis in "xyz"),
)
# Of a cubic crystal with all faces centred: no space group has more.
_MOST_OPERATIONS: Final = 192
# Beyond it digits of a position are lost; no program writes such cells.
_FARTHEST: Final = 1e4
# How far a cell may be from the symmetry that is told, of its squared lengths.
_SAME_CELL: Final = 0.05


def has_positions(block: CIFBlock) -> bool:
    """Tell whether a block is of a crystal; others hold references or spectra."""
    return any(tags[0] in block for tags in _POSITIONS)


def check_block(block: CIFBlock, where: str) -> None:
    """Refuse cells, sites and operations that are no numbers, or make no crystal.

    Raises:
        DataFormatError: names the value and what is accepted.
    """
    _check_cell(block, where)
    _check_sites(block, where)
    _check_operations(block, where)
    try:
        group = block.get_spacegroup(subtrans_included=True)
    # ASE looks it up in tables, which fails in any way.
    except Exception as error:
        name = next((block[n] for n in block if "name_h-m" in n), None)
        number = next((block[n] for n in block if "it_number" in n), None)
        number = block.get("_symmetry_int_tables_number", number)
        raise DataFormatError(
            f"{where}: its space group (number {number}, name {name!r}) is not known, "
            "or number, name and setting do not fit. Correct it, or list its "
            "operations (_space_group_symop_operation_xyz)."
        ) from error
    cell = np.asarray(block.get_cell())
    metric = cell @ cell.T
    rotations = np.asarray(group.get_rotations())
    changed = np.swapaxes(rotations, 1, 2) @ metric @ rotations - metric
    if np.abs(changed).max() > _SAME_CELL * metric.diagonal().max():
        raise DataFormatError(
            f"{where}: its cell {block.get_cellpar()} has not the symmetry of its "
            f"space group {group.no} ({group.symbol}, setting {group.setting}). "
            "Correct one of them."
        )


def check_coincidences(block: CIFBlock, atoms: Atoms, where: str) -> None:
    """Refuse sites of two elements in one place, of which ASE takes the first.

    Args:
        block: checked.
        atoms: that ASE made of it.
        where: for the message.

    Raises:
        DataFormatError: names the site.
    """
    sites = block.get_unsymmetrized_structure()
    places = atoms.get_scaled_positions()
    for site, place in zip(sites, sites.get_scaled_positions(), strict=True):
        away = places - place
        nearest = np.abs(away - np.rint(away)).max(axis=1).argmin()
        if atoms.symbols[nearest] != site.symbol:
            raise DataFormatError(
                f"{where}: {site.symbol} and {atoms.symbols[nearest]} share the site "
                f"{np.round(place, 4).tolist()}. Give an ordered structure."
            )


def _check_cell(block: CIFBlock, where: str) -> None:
    values = {tag: block.get(tag) for tag in CIFBlock.cell_tags}
    for tag, value in values.items():
        largest = 180.0 if "angle" in tag else math.inf
        if not _is_real(value) or not 0 < value < largest:
            what = "from 0 to 180 degrees" if "angle" in tag else "a length in Å"
            found = "missing" if value is None else repr(value)
            raise DataFormatError(f"{where}: {tag} is {found}; {what} is needed.")
    alpha, beta, gamma = sorted(list(values.values())[3:])
    if gamma >= alpha + beta or alpha + beta + gamma >= 360:
        raise DataFormatError(
            f"{where}: no cell has the angles {[*values.values()][3:]} degrees: each "
            "must be less than the sum of the others, and all less than 360."
        )


def _check_sites(block: CIFBlock, where: str) -> None:
    labels = block.get("_atom_site_type_symbol", block.get("_atom_site_label"))
    if not isinstance(labels, list) or not labels:
        raise DataFormatError(
            f"{where}: it lists no atoms (_atom_site_type_symbol or _atom_site_label). "
            "It was truncated, or is no CIF of a structure: write it again."
        )
    for label in labels:
        match = _SYMBOL.search(str(label))
        if not match or match[0] not in {*atomic_numbers, "D"} - {"X"}:
            raise DataFormatError(
                f"{where}: the site {label!r} is of no element. Correct its symbol."
            )
    tags = next(tags for tags in _POSITIONS if tags[0] in block)
    for tag in tags:
        values = block.get(tag)
        if not isinstance(values, list) or len(values) != len(labels):
            raise DataFormatError(
                f"{where}: {tag} is not given for each of {len(labels)} sites."
            )
        for label, value in zip(labels, values, strict=True):
            if not _is_real(value) or abs(value) > _FARTHEST:
                raise DataFormatError(
                    f"{where}: {tag} of the site {label} is {value!r}; a number of at "
                    f"most {_FARTHEST:g} is needed."
                )


def _check_operations(block: CIFBlock, where: str) -> None:
    tag = next((name for name in _OPERATIONS if name in block), None)
    if tag is None:
        return
    found = block[tag]
    operations = found if isinstance(found, list) else [found]
    if len(operations) > _MOST_OPERATIONS:
        raise DataFormatError(
            f"{where}: it lists {len(operations)} operations of symmetry; no space "
            f"group has more than {_MOST_OPERATIONS}."
        )
    for operation in operations:
        text = "".join(str(operation).lower().split())
        understood = _OPERATION.fullmatch(text) and "/0" not in text
        if not understood or _volume_of(text) != 1:
            raise DataFormatError(
                f"{where}: the operation of symmetry {operation!r} is none; expected "
                "such as '-y, x-y, z+1/3'."
            )


def _volume_of(operation: str) -> int:
    """By what an operation changes a volume; 1 if it is one of symmetry."""
    rotations, _ = parse_sitesym([operation])
    return abs(round(np.linalg.det(rotations[0])))


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
