"""Reader of CIF files: whole, ordered crystals or an error; never a part of one."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.io.cif import CIFBlock, parse_cif

from pft_lightning.data.readers.cif_checks import (
    check_block,
    check_coincidences,
    has_positions,
)
from pft_lightning.data.readers.options import reading
from pft_lightning.errors import DataFormatError
from pft_lightning.files import COMPRESSED, read_data


_SUFFIXES: Final = tuple(f".cif{packed}" for packed in ("", *COMPRESSED))

# What an occupancy may miss one by, as digits are written.
_WHOLE: Final = 1e-3

_ELEMENT: Final = re.compile(r"([A-Z][a-z]?)(\d*\.?\d*)")


def is_cif(path: Path) -> bool:
    """Tell whether a file is CIF by its name, compressed or not."""
    return path.name.lower().endswith(_SUFFIXES)


def read_cif(path: Path) -> Iterator[tuple[int, Atoms | DataFormatError]]:
    """Give the crystals of a file with their numbers, counted from 0.

    A crystal that cannot be used is an error in its place.

    Args:
        path: plain or compressed.

    Raises:
        DataFormatError: the file holds no crystal, or is damaged.
    """
    with reading(path), warnings.catch_warnings():
        # ASE's remarks on symbols of space groups; the operations are what counts.
        warnings.filterwarnings("ignore", module="ase.io.cif")
        warnings.filterwarnings("ignore", module="ase.spacegroup")
        blocks = [block for block in _parse(path) if has_positions(block)]
        if not blocks:
            raise DataFormatError(
                f"{path}: no crystal is in it (a cell and positions of atoms). It was "
                "truncated, or is no CIF of a structure: write it again."
            )
        for index, block in enumerate(blocks):
            try:
                with reading(path):
                    yield index, _to_atoms(block, path)
            except DataFormatError as error:
                yield index, error


def _parse(path: Path) -> list[CIFBlock]:
    data = io.BytesIO(read_data(path))
    # A row of a wrong length, which ASE leaves out.
    warnings.filterwarnings("error", message="Wrong number", module="ase.io.cif")
    try:
        return list(parse_cif(data))
    except IndexError:
        reason = "a value that was begun does not end"
    except AssertionError:
        reason = "it does not begin with data_"
    except (RuntimeError, ValueError, UserWarning) as error:
        reason = str(error)[:200]
    raise DataFormatError(
        f"{path}: cannot be read ({reason}). It was truncated, or is no CIF: write it "
        "again."
    )


def _to_atoms(block: CIFBlock, path: Path) -> Atoms:
    where = f"{path}, data_{block.name}"
    check_block(block, where)
    _check_occupancies(block, where)
    atoms: Atoms = block.get_atoms()
    check_coincidences(block, atoms, where)
    _check_formula(block, atoms, where)
    atoms.info.clear()
    return atoms


def _check_occupancies(block: CIFBlock, where: str) -> None:
    found = block.get("_atom_site_occupancy", [])
    for occupancy in found if isinstance(found, list) else [found]:
        if occupancy in (".", "?"):
            continue
        if not isinstance(occupancy, (int, float)):
            raise DataFormatError(
                f"{where}: a site is occupied to {occupancy!r}; expected a number."
            )
        if abs(occupancy - 1) > _WHOLE:
            raise DataFormatError(
                f"{where}: a site is occupied to {occupancy:g}; force constants need a "
                "crystal with whole atoms. Give an ordered structure."
            )


def _check_formula(block: CIFBlock, atoms: Atoms, where: str) -> None:
    """Refuse a crystal that lacks atoms of its own formula, as truncated files do."""
    told = _parse_formula(block.get("_chemical_formula_sum"))
    if not told:
        return
    found: dict[str, float] = dict(Counter(atoms.get_chemical_symbols()))
    if "D" in told:  # ASE's symbols know hydrogen alone
        told["H"] = told.get("H", 0.0) + told.pop("D")
    ratios = [found.get(symbol, 0.0) / number for symbol, number in told.items()]
    same = found.keys() <= told.keys() and np.allclose(ratios, ratios[0], rtol=_WHOLE)
    if not same or ratios[0] == 0.0:
        raise DataFormatError(
            f"{where}: its atoms are {atoms.get_chemical_formula()}, its formula "
            f"{block.get('_chemical_formula_sum')}. Atoms are missing (hydrogen that "
            "was not located, a truncated file), or the formula is wrong: correct it."
        )


def _parse_formula(formula: Any) -> dict[str, float]:
    """Numbers of atoms by element; empty where it is no formula that is understood."""
    text = formula if isinstance(formula, str) else ""
    parts = [_ELEMENT.fullmatch(word) for word in text.split()]
    if not all(parts):
        return {}
    numbers = {p[1]: float(p[2] or 1) for p in parts if p and p[2] != "."}
    return {symbol: number for symbol, number in numbers.items() if number > 0}
