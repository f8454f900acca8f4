"""What a phonopy or phono3py yaml file says, checked before anything is built of it.

phonopy's own loader converts whatever it finds. Here every number is one, a supercell
has no more atoms than there are forces on, and of phono3py's two data sets the one of
second order is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.data.readers.species import read_element
from pft_lightning.data.readers.values import (
    read_integers,
    read_mapping,
    read_number,
    read_numbers,
)
from pft_lightning.data.records import check_cell, shortest_distance, too_near
from pft_lightning.errors import DataFormatError
from pft_lightning.units import UnitSystem


# Most atoms of a supercell. The largest of phonon databases have some hundreds; phonopy
# takes minutes to find the symmetry of one of this size.
MAX_ATOMS: Final = 3000

# Masses that an atom can have, AMU: from a muon's to several times the heaviest
# element's. What lies outside is in another unit.
_MASSES: Final = (0.05, 1000.0)

_HEADERS: Final = ("phonopy", "phono3py")


@dataclass(frozen=True, slots=True, eq=False)
class PhononContent:
    """A phonon calculation as its file gives it, in the units of its code.

    Attributes:
        unit_cell: without overlapping atoms.
        supercell_matrix: (3, 3), int64, phonopy's convention.
        primitive_matrix: (3, 3), or None where the file has none.
        supercell: as written in the file, whose order the forces follow; None where it
            is not written.
        primitive: likewise.
        dataset: of displacements, of phonopy's type 1 or 2; None where there is none.
        force_constants: (n_rows, n_atoms, 3, 3), or None.
        symprec: tolerance of the symmetry search that the file was made with, or None.
    """

    unit_cell: PhonopyAtoms
    supercell_matrix: np.ndarray
    primitive_matrix: np.ndarray | None
    supercell: PhonopyAtoms | None
    primitive: PhonopyAtoms | None
    dataset: dict[str, Any] | None
    force_constants: np.ndarray | None
    symprec: float | None

    @property
    def n_atoms(self) -> int:
        """Number of atoms of the supercell."""
        n_cells = abs(float(np.linalg.det(self.supercell_matrix)))
        return round(n_cells) * len(self.unit_cell)

    @property
    def has_forces(self) -> bool:
        """Tell whether force constants can be had from this file."""
        if self.force_constants is not None:
            return True
        frames = (self.dataset or {}).get("first_atoms", [self.dataset or {}])
        return any("forces" in frame for frame in frames)


def header_of(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Give the block that says which programme wrote the file; empty without one.

    Raises:
        DataFormatError: it is no block.
    """
    for name in _HEADERS:
        if content.get(name) is not None:
            return read_mapping(content[name], name, path)
    return {}


def parse_content(
    content: Mapping[str, Any], units: UnitSystem, path: Path
) -> PhononContent:
    """Take a phonon calculation from the loaded content of a yaml file.

    Args:
        content: of phonopy.yaml, phonopy_params.yaml, phono3py_params.yaml and alike.
        units: of its numbers.
        path: the file, for messages.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    content = _second_order(content, path)
    key = "unit_cell" if content.get("unit_cell") is not None else ""
    unit_cell = _parse_cell(content[key] if key else content, key, path)
    check_unit_cell(unit_cell, units.length, str(path))
    matrix = np.eye(3, dtype=np.int64)
    if content.get("supercell_matrix") is not None:
        matrix = read_integers(
            content["supercell_matrix"], "supercell_matrix", path, (3, 3)
        )
    n_atoms = count_atoms(unit_cell, matrix, str(path))
    primitive_matrix = content.get("primitive_matrix")
    if primitive_matrix is not None:
        primitive_matrix = read_numbers(
            primitive_matrix, "primitive_matrix", path, (3, 3)
        )
    dataset = _parse_dataset(content, n_atoms, path)
    force_constants = _parse_force_constants(content, path)
    _check_counts(dataset, force_constants, n_atoms, matrix, path)
    tolerance = header_of(content, path).get("symmetry_tolerance")
    cells = {
        name: _parse_cell(content[name], name, path)
        for name in ("supercell", "primitive_cell")
        if content.get(name) is not None
    }
    return PhononContent(
        unit_cell=unit_cell,
        supercell_matrix=matrix,
        primitive_matrix=primitive_matrix,
        supercell=cells.get("supercell"),
        primitive=cells.get("primitive_cell"),
        dataset=dataset,
        force_constants=force_constants,
        symprec=None
        if tolerance is None
        else read_number(tolerance, "symmetry_tolerance", path),
    )


def check_unit_cell(cell: PhonopyAtoms, length: float, where: str) -> None:
    """Refuse a unit cell that is no crystal, before phonopy searches its symmetry.

    Args:
        cell: to be checked.
        length: Å per unit of length of the cell.
        where: the file, for messages.

    Raises:
        DataFormatError: the lattice is too small, flat or large, or atoms overlap.
    """
    lattice = np.asarray(cell.cell) * length
    periodic = np.ones(3, dtype=bool)
    check_cell(lattice, periodic, len(cell), where)
    nearest = shortest_distance(cell.scaled_positions @ lattice, lattice, periodic)
    if too_near(nearest):
        raise DataFormatError(
            f"{where}: two atoms of the unit cell are {nearest:.3g} Å apart. One is "
            "there twice, or the unit of length is another one: correct the cell."
        )


def count_atoms(unit_cell: Sized, matrix: np.ndarray, where: str) -> int:
    """Number of atoms of a supercell, before it is built.

    Raises:
        DataFormatError: the matrix makes no cell, or one that is too large.
    """
    n_cells = float(np.linalg.det(matrix))
    n_atoms = round(abs(n_cells)) * len(unit_cell)
    if not n_cells > 0.5 or n_atoms > MAX_ATOMS:
        raise DataFormatError(
            f"{where}: supercell_matrix {matrix.tolist()} makes {n_cells:.6g} times "
            f"the unit cell of {len(unit_cell)} atoms; a supercell of 1 to {MAX_ATOMS} "
            "atoms is needed. Correct the matrix."
        )
    return n_atoms


def _second_order(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Give phono3py's data of second order the names that phonopy's have.

    Without a supercell of its own for them, the displacements of single atoms that the
    pairs of the third order begin with are those of second order too.
    """
    found = dict(content)
    if found.get("phonon_supercell_matrix") is not None:
        # Before version 2.2 the single displacements were called as phonopy's.
        if "phonon_displacements" in found or "phonon_dataset" in found:
            found.pop("displacements", None)
        found.pop("dataset", None)
        for name in ("supercell_matrix", "supercell", "primitive_cell"):
            found[name] = found.pop(f"phonon_{name}", None)
        for name in ("displacements", "dataset"):
            if f"phonon_{name}" in found:
                found[name] = found.pop(f"phonon_{name}")
    elif found.get("displacement_pairs"):
        found["displacements"] = found.pop("displacement_pairs")
    return found


def _parse_cell(cell: Any, key: str, path: Path) -> PhonopyAtoms:
    cell = read_mapping(cell, key or "the file", path)
    prefix = f"{key}." if key else ""
    lattice = read_numbers(cell.get("lattice"), f"{prefix}lattice", path, (3, 3))
    points = cell.get("points", cell.get("atoms"))
    if not isinstance(points, list) or not points:
        raise DataFormatError(
            f"{path}: {prefix}points holds no atoms; write the cell again."
        )
    if len(points) > MAX_ATOMS:
        raise DataFormatError(
            f"{path}: {prefix}points has {len(points)} atoms; at most {MAX_ATOMS} are "
            "read."
        )
    symbols, masses, moments, positions = [], [], [], []
    for number, point in enumerate(points):
        what = f"{prefix}points[{number}]"
        point = read_mapping(point, what, path)
        if "mixture" in point or "weight" in point:
            raise DataFormatError(
                f"{path}: {what} is a mixture of elements, which no crystal of atoms "
                "is. Give a calculation with one element on each site."
            )
        positions.append(
            read_numbers(point.get("coordinates"), f"{what}.coordinates", path, (3,))
        )
        name = point.get("extended_symbol", point.get("symbol"))
        symbol, isotope = read_element(name, f"{what}.symbol", str(path))
        symbols.append(symbol)
        masses.append(_parse_mass(point.get("mass", isotope), f"{what}.mass", path))
        moments.append(point.get("magnetic_moment"))
    known = [mass for mass in masses if mass is not None]
    if known and len(known) < len(masses):
        raise DataFormatError(
            f"{path}: {prefix}points gives the masses of some atoms only; give all or "
            "none."
        )
    magnetic = _parse_moments(moments, prefix, path)
    try:
        return PhonopyAtoms(
            symbols=symbols,
            cell=lattice,
            scaled_positions=np.array(positions),
            masses=known or None,
            magnetic_moments=magnetic,
        )
    except RuntimeError as error:
        if known:
            raise
        raise DataFormatError(
            f"{path}: phonopy knows no mass of an element ({error}). Give every atom "
            f"of {prefix}points its own in u, as mass: 244.0 below its symbol."
        ) from error


def _parse_mass(value: Any, what: str, path: Path) -> float | None:
    if value is None:
        return None
    least, most = _MASSES
    # nan is named as a mass, not as a number that is not finite.
    mass = value if isinstance(value, float) else read_number(value, what, path)
    if not least <= mass <= most:
        raise DataFormatError(
            f"{path}: {what} is {mass}; an atom has {least} to {most} AMU. Correct the "
            "mass, or leave all masses out for the natural ones."
        )
    return float(mass)


def _parse_moments(moments: list[Any], prefix: str, path: Path) -> np.ndarray | None:
    given = [moment for moment in moments if moment is not None]
    if not given:
        return None
    if len(given) < len(moments):
        raise DataFormatError(
            f"{path}: {prefix}points gives the magnetic moments of some atoms only; "
            "give all or none."
        )
    shape = (None, 3) if isinstance(given[0], list) else (None,)
    return read_numbers(given, f"{prefix}points magnetic_moment", path, shape)


def _parse_dataset(
    content: Mapping[str, Any], n_atoms: int, path: Path
) -> dict[str, Any] | None:
    entries, block = content.get("displacements"), content.get("dataset")
    if entries is not None:
        if not isinstance(entries, list):
            raise DataFormatError(
                f"{path}: displacements is a {type(entries).__name__}; a list is "
                "expected."
            )
        if entries and isinstance(entries[0], list):
            return _parse_frames_by_atom(entries, path)
        return {
            "natom": n_atoms,
            "first_atoms": [
                _parse_displacement(entry, f"displacements[{number}]", path)
                for number, entry in enumerate(entries)
            ],
        }
    if block is None:
        return None
    block = read_mapping(block, "dataset", path)
    shapes = {
        "displacements": (None, None, 3),
        "forces": (None, None, 3),
        "supercell_energies": (None,),
    }
    return {
        name: read_numbers(block[name], f"dataset.{name}", path, shape)
        for name, shape in shapes.items()
        if block.get(name) is not None
    }


def _parse_displacement(entry: Any, what: str, path: Path) -> dict[str, Any]:
    """Parse one displaced atom, type 1."""
    entry = read_mapping(entry, what, path)
    found: dict[str, Any] = {
        "number": int(read_integers(entry.get("atom"), f"{what}.atom", path, ())) - 1,
        "displacement": read_numbers(
            entry.get("displacement"), f"{what}.displacement", path, (3,)
        ),
    }
    if entry.get("forces") is not None:
        found["forces"] = read_numbers(
            entry["forces"], f"{what}.forces", path, (None, 3)
        )
    return found


def _parse_frames_by_atom(entries: list[Any], path: Path) -> dict[str, Any]:
    """Parse random displacements as they were written before version 2.24."""
    found = {}
    for name, key in (("displacements", "displacement"), ("forces", "force")):
        rows = [
            [read_mapping(atom, "displacements", path).get(key) for atom in frame]
            for frame in entries
            if isinstance(frame, list)
        ]
        if name == "forces" and all(row is None for frame in rows for row in frame):
            continue
        found[name] = read_numbers(rows, f"displacements {key}", path, (None, None, 3))
    return found


def _parse_force_constants(content: Mapping[str, Any], path: Path) -> np.ndarray | None:
    block = content.get("force_constants")
    if block is None:
        return None
    block = read_mapping(block, "force_constants", path)
    shape = read_integers(block.get("shape"), "force_constants.shape", path, (2,))
    elements = block.get("elements")
    depth = 0
    inner = elements
    while isinstance(inner, list) and inner:
        depth, inner = depth + 1, inner[0]
    array = read_numbers(
        elements, "force_constants.elements", path, (None,) * max(depth, 1)
    )
    n_rows, n_atoms = (int(n) for n in shape)
    if n_rows < 1 or array.size != 9 * n_rows * n_atoms:
        raise DataFormatError(
            f"{path}: force_constants.elements holds {array.size} numbers; the shape "
            f"{shape.tolist()} needs {9 * n_rows * n_atoms}. The file was truncated or "
            "changed: write it again."
        )
    return np.ascontiguousarray(array.reshape(n_rows, n_atoms, 3, 3))


def _check_counts(
    dataset: dict[str, Any] | None,
    force_constants: np.ndarray | None,
    n_atoms: int,
    matrix: np.ndarray,
    path: Path,
) -> None:
    """Compare the atoms of the supercell with those that there are numbers for."""
    counts: dict[str, int] = {}
    if force_constants is not None:
        counts["force constants"] = force_constants.shape[1]
    elif dataset is not None and "first_atoms" in dataset:
        for number, entry in enumerate(dataset["first_atoms"], start=1):
            if "forces" in entry:
                counts[f"forces of displacement {number}"] = len(entry["forces"])
    elif dataset is not None:
        counts = {n: a.shape[1] for n, a in dataset.items() if a.ndim == 3}
    for what, count in counts.items():
        if count != n_atoms:
            raise DataFormatError(
                f"{path}: the {what} are those of {count} atoms, but supercell_matrix "
                f"{matrix.tolist()} makes a supercell of {n_atoms}. They belong to "
                "another cell, or the matrix is wrong."
            )
