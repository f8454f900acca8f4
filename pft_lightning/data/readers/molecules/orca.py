"""Reader of ORCA's ``.hess`` files: masses and positions, and the Hessian as computed.

ORCA projects translations and rotations out of the frequencies, not of the matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from ase import units
from ase.data import atomic_numbers

from pft_lightning.data.readers.molecules.record import MolecularHessian
from pft_lightning.data.readers.molecules.text import (
    number_of,
    numbers_of,
    read_lines,
    repeated,
    truncated,
)
from pft_lightning.data.readers.names import file_stem
from pft_lightning.data.readers.species import read_element
from pft_lightning.errors import DataFormatError


# Most atoms of a molecule: their Hessian has 81 million numbers.
MAX_ATOMS = 3000

# What is read of a file; other blocks may be there several times.
_BLOCKS: Final = ("$hessian", "$atoms")


def read_orca(path: Path) -> MolecularHessian:
    """Read the blocks ``$atoms`` and ``$hessian``.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    lines = read_lines(path, ends=True)
    blocks: dict[str, int] = {}
    for number, line in enumerate(lines):
        name = line.split()[0].lower() if line.startswith("$") else ""
        if name in blocks:
            raise repeated(path, name)
        if name in _BLOCKS:
            blocks[name] = number
    for name in _BLOCKS:
        if name not in blocks:
            raise DataFormatError(
                f"{path}: has no {name} block, so it is no .hess file of ORCA, or was "
                "cut off. Copy it again."
            )
    numbers, masses, positions = _read_atoms(iter(lines[blocks["$atoms"] + 1 :]), path)
    hessian = _read_matrix(iter(lines[blocks["$hessian"] + 1 :]), len(numbers), path)
    return MolecularHessian(
        name=file_stem(path),
        atomic_numbers=numbers,
        positions=positions * units.Bohr,
        hessian=hessian,
        unit="hartree/bohr2",
        unit_from="ORCA .hess",
        masses=masses,
    )


def _read_atoms(
    lines: Iterator[str], path: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read atomic numbers, masses (AMU) and positions (bohr)."""
    n_atoms = number_of(next(lines, ""), "the number of atoms", path)
    if not 0 < n_atoms <= MAX_ATOMS:
        raise DataFormatError(
            f"{path}: $atoms claims {n_atoms:.6g} atoms; 1 to {MAX_ATOMS} are read."
        )
    numbers, rows = [], []
    for index in range(n_atoms):
        words = next(lines, "").split()
        if len(words) != 5:
            raise truncated(path, f"$atoms lists {index} of {n_atoms} atoms")
        symbol, _ = read_element(words[0], f"atom {index + 1}", str(path))
        numbers.append(atomic_numbers[symbol.rstrip("0123456789")])
        rows.append(numbers_of(words[1:], f"atom {index + 1}", path))
    table = np.array(rows)
    return np.array(numbers), table[:, 0], table[:, 1:]


def _read_matrix(lines: Iterator[str], n_atoms: int, path: Path) -> np.ndarray:
    """Read a matrix in blocks of columns, each row with its number before it."""
    n = number_of(next(lines, ""), "the size of the Hessian", path)
    if n != 3 * n_atoms:
        raise DataFormatError(
            f"{path}: $hessian has {n:.6g} rows; {3 * n_atoms} are expected for the "
            f"{n_atoms} atoms of $atoms. The file mixes two molecules: write it again."
        )
    matrix = np.full((n, n), np.nan)
    known = 0
    while known < n:
        header = next(lines, "").split()
        columns = [int(word) for word in header if word.isdecimal()]
        if not columns or columns != list(range(known, known + len(columns))):
            raise truncated(path, f"$hessian has {known} of {n} columns")
        for row in range(n):
            words = next(lines, "").split()
            if len(words) != len(columns) + 1 or words[0] != str(row):
                raise truncated(
                    path, f"$hessian has {row} of {n} rows in columns {columns}"
                )
            matrix[row, columns] = numbers_of(words[1:], f"$hessian row {row}", path)
        known += len(columns)
    return matrix
