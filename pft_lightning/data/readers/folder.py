"""Reader of folders: FORCE_SETS or FORCE_CONSTANTS beside phonopy's cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from phonopy import Phonopy
from phonopy.cui.load_helper import read_force_constants_from_hdf5
from phonopy.file_IO import parse_BORN, parse_FORCE_CONSTANTS, parse_FORCE_SETS
from phonopy.interface.vasp import read_vasp
from phonopy.structure.atoms import PhonopyAtoms
from phonopy.structure.dataset import get_displacements_and_forces

from pft_lightning.data.readers.assemble import build_record
from pft_lightning.data.readers.options import PhononReadOptions, reading
from pft_lightning.data.readers.phonopy import (
    build_phonopy,
    find_units,
    load_content,
    make_phonopy,
    set_force_constants,
)
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import DataFormatError
from pft_lightning.files import COMPRESSED
from pft_lightning.units import UnitSystem, unit_system


# Files that hold the cells, best first.
_CELL_FILES = tuple(
    name + packed
    for name in ("phonopy_disp.yaml", "phonopy_params.yaml", "phonopy.yaml")
    for packed in ("", *COMPRESSED)
)
_UNIT_CELL_FILES = ("POSCAR-unitcell", "POSCAR", "POSCAR-primitive")

# Displacements in FORCE_SETS and in the yaml file may differ by this, in the file's
# unit of length: old files print fewer digits.
_SAME_DISPLACEMENT = 1e-4


def read_folder(path: Path, options: PhononReadOptions) -> StructureRecord:
    """Read one material from a folder.

    Force constants (FORCE_CONSTANTS, force_constants.hdf5) win over FORCE_SETS. The
    cells come from phonopy_disp.yaml, phonopy_params.yaml or phonopy.yaml; else from
    POSCAR together with SPOSCAR or ``options.supercell_matrix``; else SPOSCAR. Born
    charges come from BORN, else from the yaml file.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    with reading(path):
        phonon, units, units_from, nac_params = _read_cells(path, options)
    text, hdf5 = path / "FORCE_CONSTANTS", path / "force_constants.hdf5"
    if text.is_file() or hdf5.is_file():
        file = text if text.is_file() else hdf5
        with reading(file):
            phonon = _with_force_constants(phonon, file, options)
    else:
        file = path / "FORCE_SETS"
        with reading(file):
            phonon.dataset = _read_force_sets(file, phonon)
    if (path / "BORN").is_file():
        with reading(path / "BORN"):
            nac_params = parse_BORN(
                phonon.primitive, symprec=options.symprec, filename=str(path / "BORN")
            )
    with reading(file):
        return build_record(
            phonon,
            path=file,
            name=path.absolute().name,
            units=units,
            units_from=units_from,
            options=options,
            nac_params=nac_params,
        )


def _read_cells(
    path: Path, options: PhononReadOptions
) -> tuple[Phonopy, UnitSystem, str, Any]:
    for name in _CELL_FILES:
        file = path / name
        if file.is_file():
            content = load_content(file)
            units, units_from = find_units(content, file, options)
            # Those of the yaml file give way to the force files beside it.
            content.pop("force_constants", None)
            phonon, data = build_phonopy(content, units, file, options)
            return phonon, units, f"{units_from} of {name}", data.nac_params
    unit_cell, matrix = _read_poscars(path, options)
    # POSCAR is VASP's own format.
    phonon = make_phonopy(unit_cell, matrix, None, "vasp", options)
    return phonon, unit_system("vasp"), "POSCAR", None


def _read_poscars(
    path: Path, options: PhononReadOptions
) -> tuple[PhonopyAtoms, np.ndarray]:
    """Read the unit cell and find its supercell matrix."""
    supercell_file = path / "SPOSCAR"
    supercell = read_vasp(str(supercell_file)) if supercell_file.is_file() else None
    unit_cell, used = None, None
    for name in _UNIT_CELL_FILES:
        if (path / name).is_file():
            unit_cell, used = read_vasp(str(path / name)), path / name
            break
    if unit_cell is None or used is None:
        if supercell is None:
            raise DataFormatError(
                f"{path}: the cells are missing; expected phonopy_disp.yaml, "
                "phonopy.yaml, phonopy_params.yaml, POSCAR or SPOSCAR beside "
                "the forces. Copy the file that phonopy-init -d wrote into the folder."
            )
        return supercell, np.eye(3, dtype=int)
    if options.supercell_matrix is not None:
        entries = np.array(options.supercell_matrix)
        return unit_cell, np.diag(entries) if len(entries) == 3 else entries.reshape(
            3, 3
        )
    if supercell is not None:
        ratio = supercell.cell @ np.linalg.inv(unit_cell.cell)
        matrix = np.rint(ratio).astype(int).T
        if np.abs(ratio - np.rint(ratio)).max() > 1e-3:
            raise DataFormatError(
                f"{supercell_file}: its lattice is no supercell of {used.name}. Remove "
                "the file that does not belong here, or give supercell_matrix."
            )
        return unit_cell, matrix
    n_atoms = _n_atoms_of_forces(path)
    if n_atoms != len(unit_cell):
        raise DataFormatError(
            f"{path}: {used.name} has {len(unit_cell)} atoms, the forces belong to "
            f"{n_atoms}, and nothing says which supercell that is. Add "
            "phonopy_disp.yaml or SPOSCAR, or give supercell_matrix=[2,2,2] or alike."
        )
    return unit_cell, np.eye(3, dtype=int)


def _n_atoms_of_forces(path: Path) -> int | None:
    """Number of atoms that the first line of the force file tells; None if unknown."""
    for name in ("FORCE_CONSTANTS", "FORCE_SETS"):
        if (path / name).is_file():
            first = (path / name).read_text(encoding="utf-8").split("\n", 1)[0].split()
            return int(first[-1]) if len(first) <= 2 else None
    return None


def _with_force_constants(
    phonon: Phonopy, file: Path, options: PhononReadOptions
) -> Phonopy:
    """Read force constants, full or compact, and hand them to phonopy."""
    phonon.dataset = None
    if file.suffix != ".hdf5":
        _check_length(file)
    array = _parse_force_constants(file, phonon, check=False)
    n_rows = array.shape[0]
    if n_rows == len(phonon.unitcell) and n_rows not in (
        len(phonon.primitive),
        len(phonon.supercell),
    ):
        # Compact for the unit cell: no primitive cell was asked for when written.
        phonon = make_phonopy(
            phonon.unitcell,
            phonon.supercell_matrix,
            "P",
            phonon.calculator or "vasp",
            options,
        )
    if n_rows != array.shape[1] and n_rows == len(phonon.primitive):
        array = _parse_force_constants(file, phonon, check=True)
    set_force_constants(phonon, array, file)
    return phonon


def _parse_force_constants(file: Path, phonon: Phonopy, *, check: bool) -> np.ndarray:
    """Parse force constants; with ``check``, their rows must be the primitive atoms."""
    p2s_map = phonon.primitive.p2s_map if check else None
    if file.suffix == ".hdf5":
        return np.asarray(
            read_force_constants_from_hdf5(
                filename=file, p2s_map=p2s_map, calculator=phonon.calculator
            )
        )
    return np.asarray(parse_FORCE_CONSTANTS(filename=file, p2s_map=p2s_map))


def _check_length(file: Path) -> None:
    """Check that FORCE_CONSTANTS holds all the blocks that its first line promises."""
    lines = file.read_text(encoding="utf-8").splitlines()
    header = [int(word) for word in lines[0].split()] if lines else []
    if len(header) not in (1, 2):
        raise DataFormatError(
            f"{file}: the first line is {lines[:1]}; one or two numbers of atoms are "
            "expected. The file is not FORCE_CONSTANTS or is damaged."
        )
    expected = 1 + 4 * header[0] * header[-1]
    got = sum(1 for line in lines if line.strip())
    if got < expected:
        raise DataFormatError(
            f"{file}: has {got} lines; {header[0]} x {header[-1]} blocks of force "
            f"constants need {expected}. It was truncated: write it again."
        )


def _read_force_sets(file: Path, phonon: Phonopy) -> Any:
    """Read FORCE_SETS and check it against the cells and displacements beside it."""
    rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row and not row[0].startswith("#")]
    n_atoms = len(phonon.supercell)
    if not rows:
        raise DataFormatError(f"{file}: is empty. Make it again with phonopy-init -f.")
    if len(rows[0]) == 1:
        _check_type_1(file, rows, n_atoms)
    elif len(rows) % n_atoms:
        raise DataFormatError(
            f"{file}: has {len(rows)} lines of displacements and forces, no multiple "
            f"of the supercell's {n_atoms} atoms. It was truncated or belongs to "
            "another supercell."
        )
    dataset: Any = parse_FORCE_SETS(filename=file, natom=n_atoms)
    stated = phonon.dataset
    if stated is not None:
        ours, theirs = (
            get_displacements_and_forces(data)[0] for data in (dataset, stated)
        )
        same = ours.shape == theirs.shape and np.allclose(
            ours, theirs, atol=_SAME_DISPLACEMENT
        )
        if not same:
            raise DataFormatError(
                f"{file}: its {len(ours)} displacements are not the {len(theirs)} of "
                "the phonopy yaml file beside it. The two belong to different "
                "calculations: make FORCE_SETS again with phonopy-init -f."
            )
    return dataset


def _check_type_1(file: Path, rows: list[list[str]], n_atoms: int) -> None:
    """Check the numbers of atoms and of lines of displacement-wise FORCE_SETS."""
    told = int(rows[0][0])
    if told != n_atoms:
        raise DataFormatError(
            f"{file}: holds forces on {told} atoms, but the supercell has {n_atoms}. "
            "The two belong to different calculations."
        )
    n_displacements = int(rows[1][0]) if len(rows) > 1 else 0
    expected = 2 + n_displacements * (2 + n_atoms)
    if n_displacements < 1 or len(rows) != expected:
        raise DataFormatError(
            f"{file}: has {len(rows)} lines; {n_displacements} displacements of "
            f"{n_atoms} atoms need {expected}. Forces are missing or the file was "
            "truncated: make it again with phonopy-init -f."
        )
