"""Reading crystals of any format, and writing structures for a DFT code."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import ase
import ase.io
import numpy as np
import spglib
from ase.io.formats import filetype
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms
from phonopy.structure.cells import estimate_supercell_matrix

from pft_lightning.data.cells import PhononCells
from pft_lightning.data.readers.content import (
    check_unit_cell,
    count_atoms,
    parse_content,
)
from pft_lightning.data.readers.folder import read_cells
from pft_lightning.data.readers.names import SUFFIXES
from pft_lightning.data.readers.options import PhononReadOptions, reading
from pft_lightning.data.readers.phonopy import (
    build_phonopy,
    declared_units,
    load_content,
    make_phonopy,
    material_name,
)
from pft_lightning.data.readers.poscar import read_poscar
from pft_lightning.data.readers.targets import structure_record
from pft_lightning.data.readers.xyz import SUFFIXES as XYZ_SUFFIXES
from pft_lightning.data.readers.xyz import is_xyz, read_frames
from pft_lightning.data.records import validate
from pft_lightning.data.sources import printable, skip_lines, why_unreadable
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.files import make_folder, replacing
from pft_lightning.option_types import As, Matrix, NAtoms
from pft_lightning.units import unit_system


_SYMPREC = 1e-5  # Å, phonopy's default

# What phonopy files hold beside their cells.
_FORCES = ("displacements", "dataset", "force_constants", "displacement_pairs")


def read_structures(spec: str | Sequence[str]) -> Iterator[ase.Atoms]:
    """All structures of files, globs or a list of them, in that order.

    What cannot be read is skipped; a warning at the end counts and names it.

    Args:
        spec: of files that ASE reads (CIF, POSCAR, extended XYZ, ...) or phonopy
            yaml files, of which the unit cell is taken.

    Raises:
        DataFormatError: an entry matches nothing, or no structure can be read.
    """
    skipped: list[tuple[str, str]] = []
    count = 0
    for path in _find(spec, skipped):
        with _skipping(path, skipped):
            for _, atoms in _read(path, skipped):
                count += 1
                yield atoms
    _report(skipped, count)


def read_supercells(
    spec: str | Sequence[str],
    *,
    supercell_matrix: Annotated[Sequence[int] | None, As(Matrix)] = None,
    max_atoms: NAtoms = 120,
) -> Iterator[tuple[str, Phonopy]]:
    """Name and supercell of every crystal, in eV and Å, without force constants.

    What cannot be read is skipped; a warning at the end counts and names it.

    Args:
        spec: as of ``read_structures``. Phonopy files bring their own supercell.
        supercell_matrix: supercell of the crystals of other files, 3 or 9 integers.
        max_atoms: most atoms of a supercell that is chosen without a matrix. The
            crystals are then brought into their standard conventional cell, of which
            phonopy's ``estimate_supercell_matrix`` takes the supercell nearest to a
            cube.

    Raises:
        DataFormatError: an entry matches nothing, or no structure can be read.
    """
    skipped: list[tuple[str, str]] = []
    count = 0
    for path in _find(spec, skipped):
        with _skipping(path, skipped):
            if _is_phonon_file(path):
                name = path.name if path.is_dir() else material_name(path)
                cells = [(name, _load(path).to_phonopy())]
            else:
                crystals = list(_read(path, skipped))
                several = len(crystals) > 1
                cells = [
                    (
                        f"{path.stem}-{index}" if several else path.stem,
                        _supercell(atoms, supercell_matrix, max_atoms),
                    )
                    for index, atoms in crystals
                ]
            count += len(cells)
            yield from cells
    _report(skipped, count)


@contextmanager
def _skipping(path: Path, skipped: list[tuple[str, str]]) -> Iterator[None]:
    """Note a file that cannot be read, and go on."""
    try:
        with reading(path):
            yield
    except DataFormatError as error:
        skipped.append((str(path), str(error)))


def _report(skipped: list[tuple[str, str]], count: int) -> None:
    if skipped and not count:
        reasons = "\n".join(skip_lines(skipped, most=5)[1:])
        raise DataFormatError(f"no structure can be read:\n{reasons}")
    if skipped:
        warnings.warn("\n".join(skip_lines(skipped)), stacklevel=3)


def _supercell(
    atoms: ase.Atoms, supercell_matrix: Sequence[int] | None, max_atoms: int
) -> Phonopy:
    cell = PhonopyAtoms(
        numbers=atoms.numbers,
        cell=np.array(atoms.cell),
        scaled_positions=atoms.get_scaled_positions(wrap=False),
    )
    if supercell_matrix is None:
        standard = spglib.get_symmetry_dataset(
            (cell.cell, cell.scaled_positions, cell.numbers),  # type: ignore[arg-type]
            symprec=_SYMPREC,
        )
        if standard is None:
            raise DataFormatError(
                f"spglib finds no cell of {atoms.get_chemical_formula()}; give "
                "distill.supercell_matrix."
            )
        cell = PhonopyAtoms(
            numbers=standard.std_types.tolist(),
            cell=standard.std_lattice,
            scaled_positions=standard.std_positions,
        )
        supercell_matrix = estimate_supercell_matrix(standard, max_num_atoms=max_atoms)
    numbers = np.array(supercell_matrix)
    matrix = np.diag(numbers) if numbers.size == 3 else numbers.reshape(3, 3)
    check_unit_cell(cell, 1.0, atoms.get_chemical_formula())
    count_atoms(cell, matrix, atoms.get_chemical_formula())
    return make_phonopy(cell, matrix, None, "vasp", _SYMPREC)


def _find(spec: str | Sequence[str], skipped: list[tuple[str, str]]) -> Iterator[Path]:
    """Give what can be opened of the paths that are asked for."""
    entries = [spec] if isinstance(spec, str) else list(spec or [])
    for entry in entries:
        entry = os.path.expanduser(entry)
        # A name may hold what patterns are made of.
        exists = os.path.exists(entry)
        paths = [entry] if exists else sorted(glob.glob(entry, recursive=True))
        if not paths:
            raise DataFormatError(
                f"{printable(entry)}: no such file (seen from {Path.cwd()}). Check the "
                "path."
            )
        for path in map(Path, paths):
            if (reason := why_unreadable(path)) is None:
                yield path
            else:
                skipped.append((printable(path), reason))


def write_structures(structures: Sequence[ase.Atoms], out: Path) -> None:
    """Write one extended XYZ file, or a folder with one POSCAR per structure.

    Args:
        structures: what to write, with labels if they have any.
        out: a name ending in .xyz or .extxyz, else a folder, which must be new.

    Raises:
        ConfigError: the folder exists.
    """
    if out.suffix in XYZ_SUFFIXES:
        make_folder(out.parent)
        with replacing(out) as partial:
            ase.io.write(partial, list(structures), format="extxyz")
        return
    if out.exists():
        raise ConfigError(f"{out} exists already; choose another out=...")
    digits = len(str(len(structures) - 1))
    make_folder(out.parent)
    with replacing(out) as partial:
        for i, atoms in enumerate(structures):
            file = partial / f"{i:0{digits}d}" / "POSCAR"
            file.parent.mkdir(parents=True)
            ase.io.write(file, atoms, format="vasp", sort=True, direct=True)


def _read(
    path: Path, skipped: list[tuple[str, str]]
) -> Iterator[tuple[int, ase.Atoms]]:
    """Give the structures of a file with their numbers, those that can be used."""
    for index, atoms in _read_all(path):
        where = f"{path}, structure {index}"
        try:
            if isinstance(atoms, DataFormatError):
                raise atoms
            validate(structure_record(atoms, where))
        except DataFormatError as error:
            skipped.append((where, str(error)))
            continue
        yield index, atoms


def _read_all(path: Path) -> Iterator[tuple[int, ase.Atoms | DataFormatError]]:
    if _is_phonon_file(path):
        yield 0, _to_ase(_load(path).to_phonopy().unitcell)
    elif is_xyz(path):
        yield from read_frames(path)
    elif filetype(str(path)) == "vasp":
        # ASE guesses elements from the comment.
        yield 0, _to_ase(read_poscar(path))
    else:
        yield from enumerate(ase.io.read(path, ":"))


def _is_phonon_file(path: Path) -> bool:
    return path.is_dir() or path.name.endswith(SUFFIXES)


def _load(path: Path) -> PhononCells:
    """Cells of a phonopy file or folder, without forces."""
    options = PhononReadOptions()
    if path.is_dir():
        phonon, units = read_cells(path, options)
        return PhononCells.of(phonon, units)
    content = load_content(path)
    # phonopy takes a crystal in a file that names no units for one of VASP.
    code, _ = declared_units(content, path) or ("vasp", "")
    units = unit_system(code)
    cells = {name: content[name] for name in content if name not in _FORCES}
    parsed = parse_content(cells, units, path)
    return PhononCells.of(build_phonopy(parsed, units, path, options), units)


def _to_ase(cell: PhonopyAtoms) -> ase.Atoms:
    return ase.Atoms(
        numbers=cell.numbers,
        scaled_positions=cell.scaled_positions,
        cell=cell.cell,
        masses=cell.masses,
        pbc=True,
    )
