"""Reader of third-order force constants: files of phono3py, and what made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from phonopy import Phonopy

from pft_lightning.data.cells import PhononCells
from pft_lightning.data.readers.assemble import (
    build_record,
    check_displaced,
    check_enough_displacements,
    check_random_displacements,
    record_of_supercell,
)
from pft_lightning.data.readers.born import charges_beside, charges_of_content
from pft_lightning.data.readers.content import PhononContent, parse_content
from pft_lightning.data.readers.fc3_file import check_rows, read_fc3
from pft_lightning.data.readers.force_files import read_force_constants
from pft_lightning.data.readers.names import PHONO3PY_CELL_FILES, find_file, is_alone
from pft_lightning.data.readers.options import PhononReadOptions, reading
from pft_lightning.data.readers.order import find_order, reorder_dataset
from pft_lightning.data.readers.pairs import (
    add_pairs,
    displaced,
    has_forces,
    infer_cutoff,
    read_fc3_forces,
    third_order_content,
    to_ev_and_angstrom,
)
from pft_lightning.data.readers.phonopy import (
    build_phonopy,
    cells_with_charges,
    find_units,
    load_content,
    material_name,
)
from pft_lightning.data.readers.third_checks import (
    check_agreement,
    symmetrise_checked,
)
from pft_lightning.data.readers.values import read_integers
from pft_lightning.data.records import StructureRecord, validate
from pft_lightning.data.third_order import (
    ThirdOrderRecord,
    produce_third_order,
)
from pft_lightning.errors import DataFormatError
from pft_lightning.physics.third_order_constants import (
    ThirdOrderConstants,
    third_from_array,
)
from pft_lightning.units import UnitSystem, unit_system


if TYPE_CHECKING:
    from phono3py import Phono3py


# Files of a folder that hold cells of third order, those with forces first.
_CELL_FILES: Final = ("phono3py_params.yaml", *PHONO3PY_CELL_FILES)
_FORCES, _SECOND, _THIRD = "FORCES_FC3", "fc2.hdf5", "fc3.hdf5"

# Files beside one with cells that are read with it.
THIRD_ORDER_FILES: Final = (_FORCES, _SECOND, _THIRD)

_EV: Final = "vasp"  # a code whose units are eV and Å


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """A calculation of third order as its files give it, in the units of its code.

    Attributes:
        file: with the cells.
        phonon: of the supercell of third order, without displacements.
        dataset: of displacements and forces, in phonopy's order; None without forces.
        units: of all numbers.
        units_from: what told them.
        phonon_matrix: supercell of second order where it is another one.
        cells: in eV and Å, with Born charges.
        notes: on what was left out.
    """

    file: Path
    phonon: Phonopy
    dataset: dict[str, Any] | None
    units: UnitSystem
    units_from: str
    phonon_matrix: np.ndarray | None
    cells: PhononCells
    notes: list[str]


def read_phono3py(
    path: str | Path, options: PhononReadOptions | None = None
) -> Phono3py:
    """Read a calculation of third order into a ``Phono3py`` object, in eV and Å.

    Args:
        path: see ``read_third_order``.
        options: of reading.

    Returns:
        With displacements and forces where there are some, symmetrised third-order
        force constants (``fc3``, compact) and, where one supercell serves for both
        orders, those of second order (``fc2``).

    Raises:
        DataFormatError: names the file, the value and what to do.
        BackendUnavailableError: phono3py is not there, or too old.
    """
    return read_third_order(path, options).to_phono3py()


def read_third_order(
    path: str | Path, options: PhononReadOptions | None = None
) -> ThirdOrderRecord:
    """Read the third-order force constants of one crystal.

    Args:
        path: phono3py_params.yaml or alike with forces (plain, .xz, .bz2, .gz), of
            pairs of displacements or of displacements of all atoms; a folder with it,
            or with phono3py_disp.yaml and FORCES_FC3, or with phono3py.yaml and
            fc3.hdf5. Forces win over fc3.hdf5, since what they break of the rules can
            be measured.
        options: of reading.

    Raises:
        DataFormatError: names the file, the value and what to do.
        BackendUnavailableError: phono3py, or symfc where displacements of all atoms
            are fitted, is not there.
    """
    path, options = Path(path), options or PhononReadOptions()
    with reading(path):
        source = _read_source(path, options)
    name = path.absolute().name if path.is_dir() else material_name(path)
    with reading(source.file):
        second, raw, made = (
            _of_files(source)
            if source.dataset is None
            else _of_displacements(source, options)
        )
        structure = _structure(source, second, name, options)
        where = str(source.file)
        info = structure.info
        info["third_order_from"] = made
        dataset = source.dataset
        if dataset is not None:
            dataset = to_ev_and_angstrom(dataset, source.units)
            if "first_atoms" in dataset:
                assert structure.force_constants is not None
                check_agreement(dataset, structure.force_constants, where)
        third = symmetrise_checked(raw, where, options, info)
    return ThirdOrderRecord(structure, third, dataset, source.phonon_matrix)


def holds_third_order(path: Path) -> bool:
    """Tell whether a file or folder is a calculation of third order.

    Raises:
        DataFormatError: the file cannot be read.
    """
    if path.is_dir():
        beside = path
    else:
        with reading(path):
            content = load_content(path)
        if "phono3py" in content or "displacement_pairs" in content:
            return True
        if not is_alone(path):
            return False
        beside = path.parent
    return any(find_file(beside, name) for name in (_FORCES, _THIRD))


def read_both_orders(path: Path, options: PhononReadOptions) -> StructureRecord:
    """Read a calculation of third order as a structure to be trained on.

    Args:
        path: see ``read_third_order``.
        options: of reading.

    Raises:
        DataFormatError: as ``read_third_order``, or the source has no force constants
            of second order in the same supercell.
        BackendUnavailableError: phono3py is not there, or too old.
    """
    found = read_third_order(path, options)
    second = found.structure.force_constants
    if second is None:
        raise DataFormatError(
            f"{path}: force constants of second order in the supercell of third order "
            f"are missing. Put {_SECOND} of this supercell beside {_THIRD}, or give "
            "forces on displaced supercells."
        )
    both = replace(second, third_order=found.third_order)
    return replace(found.structure, force_constants=both)


def _read_source(path: Path, options: PhononReadOptions) -> _Source:
    """Read cells, displacements and forces of a file or folder."""
    file = _cell_file(path)
    whole = load_content(file)
    content = third_order_content(whole, file)
    units, units_from = find_units(content, file, options)
    parsed = parse_content(content, units, file)
    phonon = build_phonopy(
        replace(parsed, dataset=None, force_constants=None), units, file, options
    )
    nac_params, note = charges_of_content(
        content, cells_with_charges(parsed), phonon, file
    )
    notes = [note]
    if nac_params is None:
        nac_params, note = charges_beside(file, phonon)
        notes.append(note)
    matrix = whole.get("phonon_supercell_matrix")
    if matrix is not None:
        matrix = read_integers(matrix, "phonon_supercell_matrix", file, (3, 3))
    same = matrix is None or np.array_equal(matrix, phonon.supercell_matrix)
    return _Source(
        file=file,
        phonon=phonon,
        dataset=_dataset(parsed, content, phonon, units, file),
        units=units,
        units_from=units_from,
        phonon_matrix=None if same else matrix,
        cells=PhononCells.of(phonon, units, nac_params),
        notes=[note for note in notes if note],
    )


def _cell_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in _CELL_FILES:
        file = find_file(path, name)
        if file is not None:
            return file
    raise DataFormatError(f"{path}: none of {', '.join(_CELL_FILES)} is in it.")


def _dataset(
    parsed: PhononContent,
    content: Mapping[str, Any],
    phonon: Phonopy,
    units: UnitSystem,
    file: Path,
) -> dict[str, Any] | None:
    """Give displacements with forces, of the file or of FORCES_FC3 beside it."""
    dataset = parsed.dataset
    if dataset is not None and "first_atoms" in dataset:
        if not content.get("displacement_pairs"):
            dataset = None  # of second order
        else:
            add_pairs(dataset, content, file)
    if not has_forces(dataset):
        forces = find_file(file.parent, _FORCES) if is_alone(file) else None
        if forces is None:
            return None
        with_displacements = phonon if dataset is None else _with(phonon, dataset)
        dataset = read_fc3_forces(forces, dataset, with_displacements)
    assert dataset is not None
    if parsed.supercell is not None:
        order = find_order(
            parsed.supercell, phonon.supercell, units.length, f"{file}, supercell"
        )
        if order is not None:
            dataset = reorder_dataset(dataset, order)
    return dataset


def _with(phonon: Phonopy, dataset: dict[str, Any]) -> Phonopy:
    """Give a copy with displacements, which those of a force file are compared with."""
    copied = phonon.copy()
    copied.dataset = dataset  # type: ignore[assignment]
    return copied


def _structure(
    source: _Source,
    second: np.ndarray | None,
    name: str,
    options: PhononReadOptions,
) -> StructureRecord:
    """Make the record of the supercell, with force constants in eV/Å² or without."""
    phonon, units = source.cells.to_phonopy(second), unit_system(_EV)
    if second is None:
        structure = validate(
            record_of_supercell(phonon, name, units, options, cells=source.cells),
            source=str(source.file),
        )
        structure.info["source"] = str(source.file)
        structure.info["units_from"] = source.units_from
    else:
        structure = build_record(
            phonon,
            path=source.file,
            name=name,
            units=units,
            units_from=source.units_from,
            options=options,
            notes=source.notes,
        )
    structure.info["units"] = source.units.description
    return structure


def _of_displacements(
    source: _Source, options: PhononReadOptions
) -> tuple[np.ndarray | None, ThirdOrderConstants, str]:
    """Check displacements and forces, and make force constants of both orders."""
    where, phonon, units = str(source.file), source.phonon, source.units
    dataset: Any = source.dataset
    if "first_atoms" in dataset:
        check_displaced(
            displaced(dataset),
            len(phonon.supercell),
            where,
            units,
            options,
            kind="displaced supercell",
            file=_FORCES,
        )
        check_enough_displacements(phonon, dataset, where)
        infer_cutoff(dataset, phonon.supercell, where)
    else:
        check_random_displacements(phonon, dataset, where, units, options)
    second, third, primitive = produce_third_order(
        source.cells, to_ev_and_angstrom(dataset, units), where
    )
    made = "finite differences of pairs"
    if "cutoff_distance" in dataset:
        made += f" within {dataset['cutoff_distance'] * units.length:.2f} Å"
    if "displacements" in dataset:
        made = "fit by symfc"
    return second, third_from_array(third, primitive), made


def _of_files(source: _Source) -> tuple[np.ndarray | None, ThirdOrderConstants, str]:
    """Read fc3.hdf5, and fc2.hdf5 where it has the same supercell."""
    folder, phonon, units = source.file.parent, source.phonon, source.units
    file = find_file(folder, _THIRD) if is_alone(source.file) else None
    if file is None:
        raise DataFormatError(
            f"{source.file}: neither forces on pairs of displaced atoms nor on "
            f"displacements of all atoms are in it, and no {_FORCES} or {_THIRD} lies "
            "beside it. Add one of them, or give phono3py_params.yaml."
        )
    n_atoms = len(phonon.supercell)
    with reading(file):
        array = read_fc3(file, phonon)
    third = third_from_array(
        array * (units.force_constants / units.length), phonon.primitive
    )
    second = None
    beside = find_file(folder, _SECOND)
    if beside is not None and source.phonon_matrix is None:
        with reading(beside):
            found, rows = read_force_constants(beside, n_atoms, units.calculator)
            check_rows(rows, phonon, beside)
        second = found * units.force_constants
    return second, third, _THIRD
