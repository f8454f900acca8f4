"""Molecules with a Hessian of an open code, written as each kind of file keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.vibrations import VibrationsData


# H2O and CO2, in atomic units; the file says how they were computed.
REFERENCE: dict[str, Any] = json.loads(
    (Path(__file__).parent / "molecules.json").read_text()
)
NAMES = ("H2O", "CO2")

PER_BOHR2 = units.Hartree / units.Bohr**2


def molecule(name: str) -> tuple[Atoms, np.ndarray]:
    """Atoms in Å, and the Hessian (3N, 3N) in eV/Å²."""
    found = REFERENCE[name]
    atoms = Atoms(
        found["numbers"],
        np.array(found["positions"]) * units.Bohr,
        masses=found["masses"],
    )
    return atoms, np.array(found["hessian"]) * PER_BOHR2


def write_orca(path: Path, atoms: Atoms, hessian: np.ndarray) -> None:
    matrix, n = hessian / PER_BOHR2, len(hessian)
    lines = ["", "$orca_hessian_file", "", "$hessian", str(n)]
    for first in range(0, n, 5):
        columns = range(first, min(first + 5, n))
        lines.append(" " * 10 + "".join(f"{column:19d}" for column in columns))
        lines += [
            f"{row:5d}" + "".join(f"{matrix[row, c]:19.10E}" for c in columns)
            for row in range(n)
        ]
    lines += ["", "$atoms", str(len(atoms))]
    for atom in atoms:
        place = "".join(f"{x:20.12f}" for x in atom.position / units.Bohr)
        lines.append(f" {atom.symbol:2s} {atom.mass:11.5f}{place}")
    path.write_text("\n".join([*lines, "", "$end", ""]))


def write_fchk(
    path: Path, atoms: Atoms, hessian: np.ndarray, forces: np.ndarray | None = None
) -> None:
    lines = [
        "water",
        "Freq      RHF" + " " * 57 + "STO-3G",
        f"{'Number of atoms':<40s}   I     {len(atoms):12d}",
    ]

    def add(label: str, kind: str, values: np.ndarray, form: str, width: int) -> None:
        lines.append(f"{label:<40s}   {kind}   N={len(values):12d}")
        for first in range(0, len(values), width):
            row = values[first : first + width]
            lines.append("".join(form.format(value) for value in row))

    add("Atomic numbers", "I", atoms.numbers, "{:12d}", 6)
    place = atoms.positions.ravel() / units.Bohr
    add("Current cartesian coordinates", "R", place, "{:16.8E}", 5)
    lines.append(f"{'Total Energy':<40s}   R     {-74.9:22.15E}")
    if forces is not None:
        gradient = -forces.ravel() / units.Hartree * units.Bohr
        add("Cartesian Gradient", "R", gradient, "{:16.8E}", 5)
    add("Real atomic weights", "R", atoms.get_masses(), "{:16.8E}", 5)
    triangle = hessian[np.tril_indices(len(hessian))] / PER_BOHR2
    add("Cartesian Force Constants", "R", triangle, "{:16.8E}", 5)
    path.write_text("\n".join(lines) + "\n")


def write_vibrations(path: Path, atoms: Atoms, hessian: np.ndarray) -> None:
    VibrationsData.from_2d(atoms, hessian).write(path)


def write_info(path: Path, atoms: Atoms, hessian: np.ndarray) -> None:
    frame = atoms.copy()
    frame.info["dft_Hessian"] = hessian
    ase.io.write(path, frame, format="extxyz")


def write_arrays(path: Path, atoms: Atoms, hessian: np.ndarray) -> None:
    frame = atoms.copy()
    frame.arrays["hessian"] = hessian.reshape(len(atoms), -1)
    ase.io.write(path, frame, format="extxyz")


def write_system(path: Path, atoms: Atoms, hessian: np.ndarray) -> None:
    arrays = path / "set.000"
    arrays.mkdir(parents=True)
    (path / "nopbc").touch()
    names = sorted(set(atoms.symbols))
    (path / "type_map.raw").write_text("\n".join(names))
    types = [str(names.index(symbol)) for symbol in atoms.symbols]
    (path / "type.raw").write_text("\n".join(types))
    np.save(arrays / "coord.npy", atoms.positions.reshape(1, -1))
    np.save(arrays / "hessian.npy", hessian.reshape(1, -1))


# Ending of the file -> what writes it.
WRITERS: dict[str, Callable[[Path, Atoms, np.ndarray], None]] = {
    ".hess": write_orca,
    ".fchk": write_fchk,
    ".json": write_vibrations,
    ".info.xyz": write_info,
    ".arrays.extxyz": write_arrays,
    ".system": write_system,
}
