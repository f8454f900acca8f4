"""Crystals of any format: structures, and the supercells of their phonons."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import ase
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.data.cells import PhononCells
from pft_lightning.data.readers.born import charges_beside, charges_of_content
from pft_lightning.data.readers.cif import is_cif, read_cif
from pft_lightning.data.readers.content import count_atoms, parse_content
from pft_lightning.data.readers.folder import read_cells
from pft_lightning.data.readers.names import SUFFIXES, is_poscar
from pft_lightning.data.readers.options import PhononReadOptions, reading
from pft_lightning.data.readers.others import read_structures_of_ase
from pft_lightning.data.readers.phonopy import (
    build_phonopy,
    cells_with_charges,
    choose_symprec,
    declared_units,
    load_content,
    material_name,
)
from pft_lightning.data.readers.poscar import read_poscar
from pft_lightning.data.readers.targets import structure_record
from pft_lightning.data.readers.xyz import is_xyz, read_frames
from pft_lightning.data.records import validate
from pft_lightning.data.sources import Spec, find_sources, skip_lines
from pft_lightning.data.supercells import SupercellOptions, build_supercell
from pft_lightning.errors import DataFormatError
from pft_lightning.files import COMPRESSED
from pft_lightning.units import unit_system


# What phonopy files hold beside their cells.
_FORCES: Final = ("displacements", "dataset", "force_constants", "displacement_pairs")

# Names that VASP gives to any crystal: the folder then says which one it is.
_GENERIC: Final = ("POSCAR", "CONTCAR")

_OPTIONS: Final = PhononReadOptions()
_SUPERCELL: Final = SupercellOptions()


def check_bulk(n_periodic: int, where: str) -> None:
    """Refuse a molecule or slab where only crystals have what is computed.

    Args:
        n_periodic: axes along which it is periodic.
        where: of the structure, for the message.

    Raises:
        DataFormatError: there are less than three.
    """
    if n_periodic < 3:
        raise DataFormatError(
            f"{where}: is periodic along {n_periodic} axes; expected a crystal, "
            "periodic along three. A molecule or slab has no such property."
        )


@dataclass(frozen=True, slots=True)
class Crystal:
    """One crystal of a source.

    Attributes:
        name: of the crystal; not unique.
        source: where it comes from, for messages.
        path: file or folder; None where nothing is there that can be opened.
        index: number in the file.
        read: gives the supercell, in eV and Å, without force constants and with Born
            charges if known; raises DataFormatError where it cannot be used.
        n_periodic: axes along which the file says that it is periodic.
    """

    name: str
    source: str
    path: Path | None
    index: int
    read: Callable[[], Phonopy]
    n_periodic: int = 3


def read_structures(spec: Spec) -> Iterator[ase.Atoms]:
    """All structures of files, folders, globs or a list of them, in that order.

    What cannot be read is skipped; a warning at the end counts and names it.

    Args:
        spec: of files that ASE reads (CIF, POSCAR, extended XYZ, ...) or phonopy
            yaml files and folders, of which the unit cell is taken.

    Raises:
        DataFormatError: an entry matches nothing, or no structure can be read.
    """
    found = find_sources(spec, kind="structure")
    skipped = list(found.skipped)
    count = 0
    for path in found.paths:
        with _skipping(str(path), skipped):
            for where, atoms in read_file(path):
                if isinstance(atoms, DataFormatError):
                    skipped.append((where, str(atoms)))
                    continue
                count += 1
                yield atoms
    _report(skipped, count)


def read_supercells(
    spec: Spec, supercell: SupercellOptions = _SUPERCELL
) -> Iterator[tuple[str, Phonopy]]:
    """Name and supercell of every crystal, in eV and Å, without force constants.

    What cannot be read is skipped; a warning at the end counts and names it.

    Args:
        spec: as of ``read_structures``. Phonopy files bring their own supercell.
        supercell: of the crystals of other files, or of all where one is asked for.

    Raises:
        DataFormatError: an entry matches nothing, or no structure can be read.
    """
    skipped: list[tuple[str, str]] = []
    count = 0
    for crystal in list_crystals(spec, supercell):
        with _skipping(crystal.source, skipped):
            phonon = crystal.read()
            count += 1
            yield crystal.name, phonon
    _report(skipped, count)


def list_crystals(
    spec: Spec,
    supercell: SupercellOptions = _SUPERCELL,
    options: PhononReadOptions = _OPTIONS,
) -> list[Crystal]:
    """List crystals; each that cannot be used says why when it is read.

    Args:
        spec: as of ``read_structures``.
        supercell: of the crystals of files that have none.
        options: units and tolerance of the symmetry search.

    Raises:
        DataFormatError: an entry matches nothing, or nothing can be opened.
    """
    found = find_sources(spec, kind="structure")
    crystals = [
        Crystal(Path(source).stem, source, None, 0, partial(_fail, reason))
        for source, reason in found.skipped
    ]
    for path in found.paths:
        if is_phonon_source(path):
            name = path.absolute().name if path.is_dir() else material_name(path)
            read = partial(_read_cells, path, supercell, options)
            crystals.append(Crystal(name, str(path), path, 0, read))
        else:
            crystals += _of_structures(path, supercell, options)
    return crystals


def _of_structures(
    path: Path, supercell: SupercellOptions, options: PhononReadOptions
) -> Iterator[Crystal]:
    name = crystal_name(path)
    symprec = choose_symprec(None, options, path)
    try:
        with reading(path):
            structures = list(read_file(path))
    except DataFormatError as error:
        yield Crystal(name, str(path), path, 0, partial(_fail, str(error)))
        return
    for index, (where, atoms) in enumerate(structures):
        if isinstance(atoms, DataFormatError):
            read, n_periodic = partial(_fail, str(atoms)), 3
        else:
            read = partial(build_supercell, atoms, supercell, where, symprec)
            n_periodic = int(atoms.pbc.sum())
        alone = len(structures) == 1
        own = name if alone else f"{name}-{index}"
        source = str(path) if alone else where
        yield Crystal(own, source, path, index, read, n_periodic)


def crystal_name(path: Path) -> str:
    """Name a crystal by its file, or by its folder where the file's name is generic.

    >>> crystal_name(Path("a/mp-149.cif")), crystal_name(Path("Si/POSCAR"))
    ('mp-149', 'Si')
    """
    name = path.name
    for packed in COMPRESSED:
        name = name.removesuffix(packed)
    if name in _GENERIC:
        return path.absolute().parent.name or name
    return Path(name).stem


def _fail(reason: str) -> Phonopy:
    raise DataFormatError(reason)


@contextmanager
def _skipping(source: str, skipped: list[tuple[str, str]]) -> Iterator[None]:
    """Note a file that cannot be read, and go on."""
    try:
        with reading(Path(source)):
            yield
    except DataFormatError as error:
        skipped.append((source, str(error)))


def _report(skipped: list[tuple[str, str]], count: int) -> None:
    if skipped and not count:
        reasons = "\n".join(skip_lines(skipped, most=5)[1:])
        raise DataFormatError(f"no structure can be read:\n{reasons}")
    if skipped:
        warnings.warn("\n".join(skip_lines(skipped)), stacklevel=3)


class UnusableStructureError(DataFormatError):
    """A structure was read and cannot be used.

    Attributes:
        info: what the file says of it beside its atoms, as names.
    """

    def __init__(self, error: DataFormatError, info: Mapping[str, Any]) -> None:
        super().__init__(str(error))
        self.info = info


def read_file(path: Path) -> Iterator[tuple[str, ase.Atoms | DataFormatError]]:
    """Give place and structure of all in a file; one that is bad is an error."""
    for index, atoms in _read_all(path):
        where = f"{path}, structure {index}"
        if isinstance(atoms, DataFormatError):
            yield where, atoms
            continue
        try:
            validate(structure_record(atoms, where))
        except DataFormatError as error:
            yield where, UnusableStructureError(error, atoms.info)
        else:
            yield where, atoms


def _read_all(path: Path) -> Iterator[tuple[int, ase.Atoms | DataFormatError]]:
    if is_phonon_source(path):
        yield 0, _to_ase(load_cells(path, _OPTIONS)[0].to_phonopy().unitcell)
    elif is_xyz(path):
        yield from read_frames(path)
    elif is_cif(path):
        yield from read_cif(path)
    elif is_poscar(path):
        # ASE guesses elements from the comment.
        yield 0, _to_ase(read_poscar(path))
    else:
        yield from enumerate(read_structures_of_ase(path))


def is_phonon_source(path: Path) -> bool:
    """Tell whether a path is a file or folder of phonopy or phono3py."""
    return path.is_dir() or path.name.endswith(SUFFIXES)


def _read_cells(
    path: Path, supercell: SupercellOptions, options: PhononReadOptions
) -> Phonopy:
    with reading(path):
        cells, is_alone = load_cells(path, options)
        if is_alone:
            atoms = _to_ase(cells.to_phonopy().unitcell)
            return build_supercell(atoms, supercell, str(path), cells.symprec)
        matrix = supercell.asked_for(cells.cell)
        if matrix is not None:
            count_atoms(cells.atomic_numbers, matrix, str(path))
            cells = replace(cells, supercell_matrix=matrix)
        return cells.to_phonopy()


def load_cells(path: Path, options: PhononReadOptions) -> tuple[PhononCells, bool]:
    """Read the cells of a phonopy file or folder; see ``cells_of``."""
    if path.is_dir():
        phonon, units, nac_params = read_cells(path, options)
        return PhononCells.of(phonon, units, nac_params), False
    return cells_of(load_content(path), path, options)


def cells_of(
    content: dict[str, Any], path: Path, options: PhononReadOptions
) -> tuple[PhononCells, bool]:
    """Take the cells of second order of what a phonopy or phono3py file holds.

    Args:
        content: of ``load_content``.
        path: the file, for messages, and for Born charges beside it.
        options: units and tolerance.

    Returns:
        The cells, and whether the file has a unit cell alone, without a supercell.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    # phonopy takes a crystal in a file that names no units for one of VASP.
    code, _ = declared_units(content, path) or (options.units or "vasp", "")
    units = unit_system(code)
    cells: dict[str, Any] = {n: content[n] for n in content if n not in _FORCES}
    parsed = parse_content(cells, units, path)
    phonon = build_phonopy(parsed, units, path, options)
    charges = cells_with_charges(parsed)
    nac_params, _ = charges_of_content(content, charges, phonon, path)
    if nac_params is None:
        nac_params, _ = charges_beside(path, phonon)
    is_alone = content.get("supercell_matrix") is None
    return PhononCells.of(phonon, units, nac_params), is_alone


def _to_ase(cell: PhonopyAtoms) -> ase.Atoms:
    return ase.Atoms(
        numbers=cell.numbers,
        scaled_positions=cell.scaled_positions,
        cell=cell.cell,
        masses=cell.masses,
        pbc=True,
    )
