"""Reader of ASE databases (.aselmdb) whose rows hold a ``hessian`` in their data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.data.cells import PhononCells
from pft_lightning.data.readers.ase_database import get_row, row_ids
from pft_lightning.data.readers.assemble import remove_asymmetry
from pft_lightning.data.readers.content import check_unit_cell
from pft_lightning.data.readers.hessian_layout import hessian_to_force_constants
from pft_lightning.data.readers.molecules.record import (
    MolecularHessian,
    build_molecule,
)
from pft_lightning.data.readers.options import PhononReadOptions, reading
from pft_lightning.data.readers.phonopy import choose_symprec, make_phonopy
from pft_lightning.data.records import StructureRecord, check_array, validate
from pft_lightning.errors import DataFormatError
from pft_lightning.physics.force_constants import from_array
from pft_lightning.units import unit_system


# Where databases keep the name of a material, in this order.
_NAME_KEYS = ("name", "material_id", "mp_id", "mpid", "sid")


def list_rows(path: Path) -> list[int]:
    """List the row ids of a database.

    Raises:
        DataFormatError: the database cannot be read or is empty.
    """
    return row_ids(path)


def read_row(path: Path, row_id: int, options: PhononReadOptions) -> StructureRecord:
    """Read the structure and Hessian of one row, a crystal or an isolated molecule.

    The lattice translations are found from the structure, and the Hessian is averaged
    over them, since a database keeps all rows of it and in single precision.

    Raises:
        DataFormatError: names the file, the row, the value and what to do.
    """
    where = f"{path}, row {row_id}"
    with reading(path):
        row = get_row(path, row_id)
        atoms = row.toatoms()
        # A missing entry counts as an entry of another kind.
        stored = row.data.get("hessian")
        if stored is None:
            raise DataFormatError(
                f"{where}: there is no 'hessian' in the row's data (it holds "
                f"{sorted(row.data) or 'nothing'}). Give an energy and force database "
                "as upstream data instead."
            )
        if not atoms.pbc.any():
            _check_is_molecule(row, where, options)
            return build_molecule(_molecule(row, path, stored), where, options)
        record = _crystal(row, path, np.asarray(stored), where, options)
        return validate(record, source=where, max_force=options.max_force)


def _crystal(
    row: Any, path: Path, hessian: np.ndarray, where: str, options: PhononReadOptions
) -> StructureRecord:
    """What a row says of a crystal."""
    atoms = row.toatoms()
    n_atoms = len(atoms)
    array = hessian_to_force_constants(hessian, n_atoms, where)
    check_array("hessian", array, (n_atoms, n_atoms, 3, 3), where)
    cell = PhonopyAtoms(
        numbers=atoms.numbers,
        cell=atoms.cell[:],
        positions=atoms.positions,
        # phonopy has no masses of Tc, Pm, Po and the like; none is used here.
        masses=atoms.get_masses(),
    )
    check_unit_cell(cell, 1.0, where)
    symprec = choose_symprec(None, options, path)
    phonon = make_phonopy(cell, np.eye(3, dtype=int), None, "vasp", symprec)
    raw, broken = from_array(array, phonon.primitive, phonon.symmetry.get_map_atoms())
    info: dict[str, str | float] = {
        "source": where,
        "units": unit_system("vasp").description,
        "units_from": "ASE database",
        "force_constants_from": "hessian",
    }
    forces, stress = _targets(row, n_atoms, options)
    return StructureRecord(
        name=_name(row, path),
        atomic_numbers=np.array(atoms.numbers, dtype=np.int64),
        positions=np.array(atoms.positions, dtype=np.float64),
        cell=np.array(atoms.cell[:], dtype=np.float64),
        pbc=np.ones(3, dtype=bool),
        energy=None if row.get("energy") is None else float(row.energy),
        forces=forces,
        stress=stress,
        force_constants=remove_asymmetry(raw, broken, where, options, info),
        cells=PhononCells.of(phonon, unit_system("vasp")),
        info=info,
    )


def _check_is_molecule(row: Any, where: str, options: PhononReadOptions) -> None:
    """Refuse a row that may be a crystal, and nothing would tell.

    With forces, known or zero, a crystal shows: its Hessian does not turn with it.
    """
    unknown = row.get("forces") is None and options.known_zeros(1)[0] is None
    if unknown and row.toatoms().cell.rank == 3:
        raise DataFormatError(
            f"{where}: has a cell and pbc F F F, as ASE's default is, so that nobody "
            "knows whether it is a crystal. Write pbc, or a molecule without a cell."
        )


def _molecule(row: Any, path: Path, hessian: Any) -> MolecularHessian:
    """What a row says of an isolated molecule."""
    atoms = row.toatoms()
    forces = row.get("forces")
    return MolecularHessian(
        name=_name(row, path),
        atomic_numbers=atoms.numbers,
        positions=atoms.positions,
        hessian=np.asarray(hessian),
        unit="eV/angstrom2",
        unit_from="ASE database",
        energy=None if row.get("energy") is None else float(row.energy),
        forces=None if forces is None else np.array(forces, dtype=np.float64),
        masses=atoms.get_masses() if atoms.has("masses") else None,
    )


def _targets(
    row: Any, n_atoms: int, options: PhononReadOptions
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Give forces and stress: those of the row, else zero where relaxed."""
    from ase.stress import voigt_6_to_full_3x3_stress

    forces, stress = options.known_zeros(n_atoms)
    if row.get("forces") is not None:
        forces = np.array(row.forces, dtype=np.float64)
    if row.get("stress") is not None:
        stored = np.array(row.stress, dtype=np.float64)
        # The reference implementation writes 3 x 3, ASE six components.
        is_full = stored.size == 9
        stress = stored.reshape(3, 3) if is_full else voigt_6_to_full_3x3_stress(stored)
    return forces, stress


def _name(row: Any, path: Path) -> str:
    for key in _NAME_KEYS:
        value = row.get(key) or row.data.get(key)
        if isinstance(value, str) and value:
            return value
    return f"{path.stem}/{row.id}"
