"""Reader of folders: FORCE_SETS or FORCE_CONSTANTS beside phonopy's cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.data.readers.assemble import build_record
from pft_lightning.data.readers.born import (
    BornCharges,
    charges_of_content,
    charges_of_file,
)
from pft_lightning.data.readers.content import (
    check_unit_cell,
    count_atoms,
    parse_content,
)
from pft_lightning.data.readers.force_files import (
    check_declared_atoms,
    declared_atoms,
    read_force_constants,
    read_force_sets,
    read_phono3py_forces,
)
from pft_lightning.data.readers.names import (
    BORN_FILE,
    CELL_FILES,
    FORCE_FILES,
    PHONO3PY_CELL_FILES,
    PHONO3PY_FORCE_FILES,
    UNIT_CELL_FILES,
    find_file,
)
from pft_lightning.data.readers.options import PhononReadOptions, reading
from pft_lightning.data.readers.order import (
    find_order,
    has_lattice,
    reorder_dataset,
    reorder_force_constants,
)
from pft_lightning.data.readers.phonopy import (
    build_phonopy,
    cells_with_charges,
    choose_symprec,
    find_units,
    load_content,
    make_phonopy,
    set_force_constants,
)
from pft_lightning.data.readers.poscar import read_poscar
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import DataFormatError
from pft_lightning.units import UnitSystem, unit_system


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """What a folder tells apart from its forces.

    Attributes:
        phonon: with the displacements of a yaml file, if it has some.
        units: of all numbers.
        units_from: what told them.
        charges: of the yaml file.
        order: (n_atoms,), see ``find_order``; of SPOSCAR, None where it is phonopy's.
        has_two: supercells, that of second order and another one of third order.
    """

    phonon: Phonopy
    units: UnitSystem
    units_from: str
    charges: BornCharges
    order: np.ndarray | None
    has_two: bool = False


def read_folder(path: Path, options: PhononReadOptions) -> StructureRecord:
    """Read one material from a folder, whose files may be compressed.

    Force constants (FORCE_CONSTANTS, force_constants.hdf5) win over FORCE_SETS, and
    these over FORCES_FC2 and FORCES_FC3 beside phono3py_disp.yaml. Otherwise the cells
    come from phonopy_disp.yaml, phonopy_params.yaml or phonopy.yaml; else from
    POSCAR together with SPOSCAR or ``options.supercell_matrix``; else SPOSCAR. Forces
    are in the order of the atoms of SPOSCAR, which need not be phonopy's. Born
    charges come from BORN, else from the yaml file.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    file, is_phono3py = _force_file(path)
    with reading(path):
        cells = _read_cells(
            path, options, PHONO3PY_CELL_FILES if is_phono3py else CELL_FILES
        )
    phonon = cells.phonon
    with reading(file):
        if is_phono3py:
            if cells.has_two and "FC3" in file.name:
                raise DataFormatError(
                    f"{file}: its forces are of third order, and those of second order "
                    "have a supercell of their own (phonon_supercell_matrix). Add "
                    "FORCES_FC2, or give phono3py_params.yaml."
                )
            phonon.dataset = read_phono3py_forces(file, phonon)  # type: ignore[assignment]
        elif file.name.startswith("FORCE_SETS"):
            dataset = read_force_sets(file, phonon)
            if cells.order is not None:
                dataset = reorder_dataset(dataset, cells.order)
            phonon.dataset = dataset  # type: ignore[assignment]
        else:
            phonon = _with_force_constants(cells, file)
    nac_params, note = _charges(path, cells, phonon)
    with reading(file):
        return build_record(
            phonon,
            path=file,
            name=path.absolute().name,
            units=cells.units,
            units_from=cells.units_from,
            options=options,
            nac_params=nac_params,
            notes=[note] if note else [],
        )


def _force_file(path: Path) -> tuple[Path, bool]:
    """Choose the file with the forces of a folder; tells whether it is phono3py's."""
    for name in (*FORCE_FILES, *PHONO3PY_FORCE_FILES):
        file = find_file(path, name)
        if file is not None:
            return file, name in PHONO3PY_FORCE_FILES
    raise DataFormatError(
        f"{path}: none of {', '.join((*FORCE_FILES, *PHONO3PY_FORCE_FILES))} is in it."
    )


def read_cells(
    path: Path, options: PhononReadOptions
) -> tuple[Phonopy, UnitSystem, dict[str, np.ndarray] | None]:
    """Read the cells of a folder, without forces, their units and Born charges.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    cells = _read_cells(path, options, (*CELL_FILES, *PHONO3PY_CELL_FILES))
    return cells.phonon, cells.units, _charges(path, cells, cells.phonon)[0]


def _charges(path: Path, cells: _Cells, phonon: Phonopy) -> BornCharges:
    """Born charges of BORN in a folder, else of its yaml file."""
    born = find_file(path, BORN_FILE)
    if born is None:
        return cells.charges
    with reading(born):
        return charges_of_file(born, phonon, phonon.symmetry.tolerance)


def _read_cells(
    path: Path, options: PhononReadOptions, names: tuple[str, ...]
) -> _Cells:
    for name in names:
        file = find_file(path, name)
        if file is not None:
            return _cells_of_yaml(file, options)
    return _cells_of_poscars(path, options)


def _cells_of_yaml(file: Path, options: PhononReadOptions) -> _Cells:
    content = load_content(file)
    units, units_from = find_units(content, file, options)
    # Those of the yaml file give way to the force files beside it.
    content.pop("force_constants", None)
    parsed = parse_content(content, units, file)
    check_declared_atoms(file.parent, parsed.n_atoms)
    phonon = build_phonopy(parsed, units, file, options)
    charges = charges_of_content(content, cells_with_charges(parsed), phonon, file)
    supercell_file = find_file(file.parent, "SPOSCAR")
    if supercell_file is not None:
        _refuse_other_order(supercell_file, phonon, units, file)
    return _Cells(
        phonon,
        units,
        f"{units_from} of {file.name}",
        charges,
        order=None,
        has_two=content.get("phonon_supercell_matrix") is not None,
    )


def _refuse_other_order(
    supercell_file: Path, phonon: Phonopy, units: UnitSystem, file: Path
) -> None:
    """Refuse a SPOSCAR with the atoms of the yaml file beside it in another order."""
    listed, lattice = read_poscar(supercell_file), np.asarray(phonon.supercell.cell)
    if len(listed) != len(phonon.supercell) or not has_lattice(
        listed, lattice * units.length
    ):
        return  # of another calculation, and not used
    built = PhonopyAtoms(
        numbers=phonon.supercell.numbers,
        cell=lattice * units.length,
        scaled_positions=phonon.supercell.scaled_positions,
    )
    if find_order(listed, built, 1.0, str(supercell_file)) is not None:
        raise DataFormatError(
            f"{supercell_file}: its atoms are in another order than those of "
            f"{file.name}, and the forces may follow either. Remove the file that the "
            "forces do not belong to."
        )


def _cells_of_poscars(path: Path, options: PhononReadOptions) -> _Cells:
    """Read POSCAR and SPOSCAR, which are VASP's own format and units."""
    supercell_file = find_file(path, "SPOSCAR")
    supercell = None if supercell_file is None else read_poscar(supercell_file)
    unit_cell, used = None, ""
    for name in UNIT_CELL_FILES:
        file = find_file(path, name)
        if file is not None:
            unit_cell, used = read_poscar(file), file.name
            break
    if unit_cell is None:
        if supercell is None:
            raise DataFormatError(
                f"{path}: the cells are missing; expected phonopy_disp.yaml, "
                "phonopy.yaml, phonopy_params.yaml, POSCAR or SPOSCAR beside "
                "the forces. Copy the file that phonopy-init -d wrote into the folder."
            )
        unit_cell, used = supercell, "SPOSCAR"
    where = str(path / used)
    check_unit_cell(unit_cell, 1.0, where)
    matrix = _supercell_matrix(path, unit_cell, used, supercell, options)
    n_atoms = count_atoms(unit_cell, matrix, where)
    if supercell is not None and len(supercell) != n_atoms:
        raise DataFormatError(
            f"{supercell_file}: has {len(supercell)} atoms; supercell_matrix "
            f"{matrix.tolist()} of {used} makes {n_atoms}. Remove the file that does "
            "not belong here, or correct supercell_matrix."
        )
    check_declared_atoms(path, n_atoms)
    symprec = choose_symprec(None, options, path)
    phonon = make_phonopy(unit_cell, matrix, None, "vasp", symprec)
    order = None
    if supercell is not None:
        order = find_order(supercell, phonon.supercell, 1.0, str(supercell_file))
    return _Cells(phonon, unit_system("vasp"), "POSCAR", (None, None), order)


def _supercell_matrix(
    path: Path,
    unit_cell: PhonopyAtoms,
    used: str,
    supercell: PhonopyAtoms | None,
    options: PhononReadOptions,
) -> np.ndarray:
    """Find the supercell matrix: of the options, or what makes SPOSCAR of POSCAR."""
    if options.supercell_matrix is not None:
        entries = np.array(options.supercell_matrix)
        return np.diag(entries) if len(entries) == 3 else entries.reshape(3, 3)
    if supercell is not None:
        ratio = supercell.cell @ np.linalg.inv(unit_cell.cell)
        if np.abs(ratio - np.rint(ratio)).max() > 1e-3:
            raise DataFormatError(
                f"{path / 'SPOSCAR'}: its lattice is no supercell of {used}. Remove "
                "the file that does not belong here, or give supercell_matrix."
            )
        return np.rint(ratio).astype(int).T
    n_atoms = declared_atoms(path)
    if n_atoms != len(unit_cell):
        raise DataFormatError(
            f"{path}: {used} has {len(unit_cell)} atoms, the forces belong to "
            f"{n_atoms}, and nothing says which supercell that is. Add "
            "phonopy_disp.yaml or SPOSCAR, or give supercell_matrix=[2,2,2] or alike."
        )
    return np.eye(3, dtype=int)


def _with_force_constants(cells: _Cells, file: Path) -> Phonopy:
    """Read force constants, full or compact, and hand them to phonopy."""
    phonon = cells.phonon
    phonon.dataset = None
    array, rows = read_force_constants(file, len(phonon.supercell), phonon.calculator)
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
            phonon.symmetry.tolerance,
        )
    if cells.order is not None:
        array = reorder_force_constants(
            array, rows, cells.order, phonon.primitive.p2s_map, str(file)
        )
    elif n_rows < array.shape[1] and n_rows == len(phonon.primitive):
        _check_rows(rows, phonon, file)
    set_force_constants(phonon, array, file)
    return phonon


def _check_rows(rows: np.ndarray | None, phonon: Phonopy, file: Path) -> None:
    expected = phonon.primitive.p2s_map
    if rows is not None and not np.array_equal(rows, expected):
        raise DataFormatError(
            f"{file}: its rows are those of the atoms {(rows + 1).tolist()}; the "
            f"primitive cell has the atoms {(expected + 1).tolist()} (p2s_map). It was "
            "made with another primitive cell: write full force constants."
        )
