"""A calculation of third order of a toy potential, in a fraction of a second."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path

import ase
import numpy as np
import pytest
import yaml
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.evaluation.force_constants import displaced_forces
from pft_lightning.testing import PairPotential


def needs_phono3py() -> None:
    pytest.importorskip("phono3py", "4.10", reason="phono3py 4.10 is not installed")


def potential() -> PairPotential:
    return PairPotential(4.0, (8, 11, 12, 17, 29))


def cell(a: float = 2.5) -> PhonopyAtoms:
    """MgO of the type of CsCl, which is stable with this potential; minimum 2.5 Å."""
    return PhonopyAtoms(
        numbers=[12, 8],
        cell=a * np.eye(3),
        scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]],
    )


def zincblende(a: float = 4.6) -> PhonopyAtoms:
    """Without inversion, so that an atom alone feels third order."""
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return PhonopyAtoms(
        numbers=[12] * 4 + [8] * 4,
        cell=a * np.eye(3),
        scaled_positions=[*corners, *(corners + 0.25)],
    )


def forces_of(supercell: PhonopyAtoms, displacements: np.ndarray) -> np.ndarray:
    """Forces (n, n_atoms, 3), eV/Å, of the potential at displacements of that shape."""
    atoms = ase.Atoms(
        numbers=supercell.numbers,
        cell=supercell.cell,
        positions=supercell.positions,
        pbc=True,
    )
    return np.array(
        displaced_forces(potential(), atoms, atoms.positions + displacements, 1024)
    )


@lru_cache(maxsize=4)
def _calculated(kind: str, distance: float, cutoff: float | None, is_large: bool):
    from phono3py import Phono3py

    double = 2 * np.eye(3, dtype=int)
    unit = {"cubic": cell, "zincblende": zincblende}[kind]()
    phonons = Phono3py(
        unit,
        supercell_matrix=double if kind == "cubic" else np.eye(3, dtype=int),
        phonon_supercell_matrix=double if is_large else None,
        primitive_matrix="P" if kind == "cubic" else "F",
        log_level=0,
    )
    phonons.generate_displacements(distance=distance, cutoff_pair_distance=cutoff)
    shape = (-1, len(phonons.supercell), 3)
    displaced = [
        np.full(shape[1:], np.nan) if one is None else one.positions
        for one in phonons.supercells_with_displacements
    ]
    moved = np.array(displaced) - phonons.supercell.positions
    known = ~np.isnan(moved).any(axis=(1, 2))
    forces = np.zeros(moved.shape)
    forces[known] = forces_of(phonons.supercell, moved[known])
    phonons.forces = forces[known] if cutoff is None else forces
    return phonons


def calculated(
    kind: str = "zincblende",
    distance: float = 0.03,
    cutoff: float | None = None,
    *,
    is_large: bool = False,
):
    """A ``Phono3py`` object with pairs and their forces; not to be changed.

    Args:
        kind: "cubic" or "zincblende".
        distance: of displacements, Å.
        cutoff: of pairs, Å, beyond which forces are zero.
        is_large: give a larger supercell for second order, without forces.
    """
    return _calculated(kind, distance, cutoff, is_large)


def solved(phonons) -> np.ndarray:
    """phono3py's own force constants of a calculation, symmetrised to convergence."""
    phonons = copy.deepcopy(phonons)
    phonons.produce_fc3()
    phonons.symmetrize_fc3(options="level=8")
    return phonons.fc3


def save(phonons, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    phonons.save(path, settings={"force_sets": True, "force_constants": False})
    return path


def write_folder(phonons, folder: Path) -> Path:
    """phono3py_disp.yaml and FORCES_FC3, as phono3py writes them."""
    from phono3py.file_IO import write_FORCES_FC3

    folder.mkdir(parents=True, exist_ok=True)
    bare = copy.deepcopy(phonons)
    for first in bare.dataset["first_atoms"]:
        for entry in (first, *first["second_atoms"]):
            entry.pop("forces", None)
    bare.save(folder / "phono3py_disp.yaml")
    forces = [f for f in phonons.forces if np.any(f)]
    write_FORCES_FC3(bare.dataset, forces, filename=folder / "FORCES_FC3")
    return folder


def edited(path: Path, change) -> Path:
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))
    return path
