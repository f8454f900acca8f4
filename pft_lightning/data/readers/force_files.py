"""Readers of FORCE_SETS, FORCE_CONSTANTS and force_constants.hdf5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from phonopy import Phonopy
from phonopy.file_IO import parse_FORCE_SETS_from_strings
from phonopy.interface.calculator import get_force_constant_conversion_factor
from phonopy.structure.dataset import get_displacements_and_forces

from pft_lightning.data.readers.hdf5 import check_numbers, read_rows, read_unit
from pft_lightning.data.readers.names import find_file
from pft_lightning.data.readers.poscar import read_text
from pft_lightning.errors import DataFormatError
from pft_lightning.files import open_data


# Displacements in FORCE_SETS and in the yaml file may differ by this, in the file's
# unit of length: old files print fewer digits.
_SAME_DISPLACEMENT = 1e-4


def declared_atoms(folder: Path) -> int | None:
    """Number of atoms that the first line of the force file tells; None if unknown."""
    for name in ("FORCE_CONSTANTS", "FORCE_SETS"):
        file = find_file(folder, name)
        if file is not None:
            first = _first_row(file)
            told = 0 < len(first) <= 2 and all(word.isdigit() for word in first)
            return int(first[-1]) if told else None
    return None


def check_declared_atoms(folder: Path, n_atoms: int) -> None:
    """Compare a supercell with the forces on it, before it is built.

    Raises:
        DataFormatError: there are forces on another number of atoms.
    """
    told = declared_atoms(folder)
    if told is not None and told != n_atoms:
        raise DataFormatError(
            f"{folder}: holds forces on {told} atoms, but the supercell has {n_atoms}. "
            "The two belong to different calculations, or supercell_matrix is wrong."
        )
    file = find_file(folder, "FORCE_SETS")
    if told is None and file is not None:
        rows = force_rows(read_text(file))
        if rows and len(rows) % n_atoms:
            raise DataFormatError(
                f"{file}: has {len(rows)} lines of displacements and forces, no "
                f"multiple of the supercell's {n_atoms} atoms. It was truncated or "
                "belongs to another supercell."
            )


def _first_row(file: Path) -> list[str]:
    with open_data(file) as lines:
        for line in lines:
            words = line.decode("utf-8", errors="replace").split()
            if words and not words[0].startswith("#"):
                return words
    return []


def force_rows(text: str) -> list[list[str]]:
    """Give the words of each line that is neither empty nor a comment."""
    rows = [line.split() for line in text.splitlines()]
    return [row for row in rows if row and not row[0].startswith("#")]


def read_force_constants(
    file: Path, n_atoms: int, calculator: str | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read FORCE_CONSTANTS or force_constants.hdf5.

    Args:
        file: text, plain or compressed, or HDF5.
        n_atoms: of the supercell.
        calculator: whose unit the force constants are brought to, where the file says
            its own.

    Returns:
        (n_rows, n_atoms, 3, 3), and the (n_rows,) atoms that the rows belong to, or
        None where the file does not say.

    Raises:
        DataFormatError: damaged, or of another number of atoms.
    """
    if ".hdf5" in file.suffixes:
        return _read_hdf5(file, n_atoms, calculator)
    words = read_text(file).split("\n", 1)
    header = words[0].split()
    if len(header) not in (1, 2) or not all(word.isdigit() for word in header):
        raise DataFormatError(
            f"{file}: the first line is {words[0][:80]!r}; one or two numbers of atoms "
            "are expected. The file is not FORCE_CONSTANTS or is damaged."
        )
    n_rows, n_columns = int(header[0]), int(header[-1])
    _check_shape(file, (n_rows, n_columns, 3, 3), n_atoms)
    numbers = words[1].split() if len(words) > 1 else []
    # Each block: the two atoms, and three lines of three numbers.
    n_blocks = n_rows * n_columns
    if len(numbers) != 11 * n_blocks:
        raise DataFormatError(
            f"{file}: has {len(numbers)} numbers; {n_rows} x {n_columns} blocks of "
            f"force constants need {11 * n_blocks}. It was truncated: write it again."
        )
    blocks = np.array(numbers, dtype=np.float64).reshape(n_rows, n_columns, 11)
    atoms = blocks[:, :, :2].astype(np.int64) - 1
    if (atoms[:, :, 1] != np.arange(n_columns)).any() or (
        atoms[:, :, 0] != atoms[:, :1, 0]
    ).any():
        raise DataFormatError(
            f"{file}: the numbers of the atoms above its blocks are not in order. "
            "Write it again with phonopy."
        )
    array = np.ascontiguousarray(blocks[:, :, 2:].reshape(n_rows, n_columns, 3, 3))
    return array, atoms[:, 0, 0]


def _read_hdf5(
    file: Path, n_atoms: int, calculator: str | None
) -> tuple[np.ndarray, np.ndarray | None]:
    import h5py

    with h5py.File(file, "r") as content:
        name = next((key for key in ("force_constants", "fc2") if key in content), None)
        if name is None:
            raise DataFormatError(
                f"{file}: holds {sorted(content)}; force_constants or fc2 is needed."
            )
        _check_shape(file, content[name].shape, n_atoms)
        check_numbers(content[name], file)
        array = np.array(content[name], dtype=np.float64)
        n_rows, n_columns = array.shape[:2]
        rows = None if n_rows == n_columns else read_rows(content, n_rows, file)
        unit = read_unit(content, file)
    if unit is not None:
        array *= get_force_constant_conversion_factor(unit, calculator)
    return array, rows


def _check_shape(file: Path, shape: tuple[int, ...], n_atoms: int) -> None:
    if len(shape) != 4 or shape[1:] != (n_atoms, 3, 3) or not 1 <= shape[0] <= n_atoms:
        raise DataFormatError(
            f"{file}: the force constants have shape {tuple(shape)}; expected "
            f"{(n_atoms, n_atoms, 3, 3)} (full) or fewer rows (compact) for this "
            "supercell. They belong to another cell, or the supercell matrix is wrong."
        )


def read_force_sets(file: Path, phonon: Phonopy) -> dict[str, Any]:
    """Read FORCE_SETS and check it against the cells and displacements beside it.

    Returns:
        phonopy's data set, of type 1 or 2.

    Raises:
        DataFormatError: damaged, or of another calculation.
    """
    rows = force_rows(read_text(file))
    n_atoms = len(phonon.supercell)
    if not rows:
        raise DataFormatError(f"{file}: is empty. Make it again with phonopy-init -f.")
    if len(rows[0]) == 1:
        _check_type_1(file, rows, n_atoms)
    text = "\n".join(" ".join(row) for row in rows)
    dataset: Any = parse_FORCE_SETS_from_strings(text, natom=n_atoms)
    if phonon.dataset is not None:
        ours, theirs = (
            get_displacements_and_forces(data)[0] for data in (dataset, phonon.dataset)
        )
        check_displacements(file, ours, theirs)
    return dict(dataset)


def check_displacements(file: Path, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Compare the displacements of a force file with those of the yaml file beside it.

    Raises:
        DataFormatError: they are of another calculation.
    """
    if ours.shape != theirs.shape or not np.allclose(
        ours, theirs, atol=_SAME_DISPLACEMENT
    ):
        raise DataFormatError(
            f"{file}: its {len(ours)} displacements are not the {len(theirs)} of the "
            f"yaml file beside it. The two belong to different calculations: make "
            f"{file.name.split('.')[0]} again."
        )


def read_phono3py_forces(file: Path, phonon: Phonopy) -> dict[str, Any]:
    """Read FORCES_FC2, or from FORCES_FC3 what is of second order.

    Forces on displaced supercells follow each other, those of single displacements
    before those of pairs.

    Args:
        file: FORCES_FC2 of the supercell of second order, or FORCES_FC3 where there is
            one supercell for both.
        phonon: with the displacements of second order.

    Returns:
        phonopy's data set.

    Raises:
        DataFormatError: damaged, or of another calculation.
    """
    text = read_text(file)
    rows, n_atoms = force_rows(text), len(phonon.supercell)
    stated: Any = phonon.dataset or {}
    if rows and len(rows[0]) == 6:  # displacements beside forces, for a fit
        return read_force_sets(file, phonon)
    n_displacements = len(stated.get("first_atoms", ()))
    needed = n_displacements * n_atoms
    is_whole = len(rows) >= needed if "FC3" in file.name else len(rows) == needed
    if not n_displacements or not is_whole or len(rows) % n_atoms:
        raise DataFormatError(
            f"{file}: has forces in {len(rows)} lines; {n_displacements} displacements "
            f"of second order, of {n_atoms} atoms, need {needed}. Make the file again "
            "with phono3py --cf2 or --cf3, or give phono3py_params.yaml."
        )
    entries = [dict(entry) for entry in stated["first_atoms"]]
    forces = read_displaced_forces(file, rows[:needed], n_atoms)
    for entry, found in zip(entries, forces, strict=True):
        entry["forces"] = found
    # "# 1  0.03 0.0 0.0" says which atom was displaced, and by how much.
    comments = [line.split() for line in text.splitlines() if line.startswith("#")]
    told = [words[1:] for words in comments if len(words) == 5][:n_displacements]
    if len(told) == n_displacements:
        expected = np.array(
            [[entry["number"] + 1, *entry["displacement"]] for entry in entries]
        )
        check_displacements(file, np.array(told, dtype=np.float64), expected)
    return {"natom": n_atoms, "first_atoms": entries}


def read_displaced_forces(
    file: Path, rows: list[list[str]], n_atoms: int
) -> np.ndarray:
    """Take forces (n_displaced, n_atoms, 3) from the lines of a force file.

    Raises:
        DataFormatError: a line has no three finite numbers.
    """
    for row in rows:
        if len(row) != 3:
            raise DataFormatError(
                f"{file}: the line {' '.join(row)[:80]!r} has {len(row)} numbers; the "
                "three components of a force are needed. Make the file again."
            )
    forces = np.array(rows, dtype=np.float64).reshape(-1, n_atoms, 3)
    broken = np.argwhere(~np.isfinite(forces).all(axis=(1, 2)))
    if broken.size:
        raise DataFormatError(
            f"{file}: the forces of displaced supercell {broken[0][0] + 1} are not "
            "finite. Repeat that calculation."
        )
    return forces


def _check_type_1(file: Path, rows: list[list[str]], n_atoms: int) -> None:
    """Check the number of lines of displacement-wise FORCE_SETS."""
    n_displacements = int(rows[1][0]) if len(rows) > 1 else 0
    expected = 2 + n_displacements * (2 + n_atoms)
    if n_displacements < 1 or len(rows) != expected:
        raise DataFormatError(
            f"{file}: has {len(rows)} lines; {n_displacements} displacements of "
            f"{n_atoms} atoms need {expected}. Forces are missing or the file was "
            "truncated: make it again with phonopy-init -f."
        )
