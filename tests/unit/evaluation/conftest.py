"""Crystals of different symmetry for a potential that is fast and exact."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.testing import PairPotential


CUTOFF = 4.0
ELEMENTS = (5, 6, 7, 8, 11, 12, 14, 16, 17, 22, 26, 29, 30, 38)


def _rocksalt() -> Atoms:
    return bulk("NaCl", "rocksalt", a=5.2, cubic=True)


def _bismuthide() -> Atoms:
    """R-3m in its hexagonal setting."""
    return crystal(
        ["Ti", "S"],
        [(0, 0, 0), (0, 0, 0.24)],
        spacegroup=166,
        cellpar=[3.4, 3.4, 12.0, 90, 90, 120],
    )


# structure, supercell matrix, primitive matrix
CRYSTALS = {
    "fcc, primitive": (lambda: bulk("Cu", "fcc", a=3.6), [3, 3, 3], "P"),
    "rocksalt, conventional with F": (_rocksalt, [2, 1, 1], "F"),
    "rocksalt, conventional without primitive": (_rocksalt, [1, 1, 1], "P"),
    "diamond, auto": (
        lambda: bulk("Si", "diamond", a=5.0, cubic=True),
        [2, 1, 1],
        "auto",
    ),
    "bcc, oblique supercell with I": (
        lambda: bulk("Fe", "bcc", a=2.9, cubic=True),
        [[1, 1, 0], [-1, 1, 0], [0, 1, 2]],
        "I",
    ),
    "fcc conventional from a primitive cell": (
        lambda: bulk("MgO", "rocksalt", a=4.2),
        [[-1, 1, 1], [1, -1, 1], [1, 1, -1]],
        "P",
    ),
    "hcp": (lambda: bulk("Mg", "hcp", a=2.4, c=3.9), [3, 3, 2], "P"),
    "wurtzite": (
        lambda: bulk("ZnO", "wurtzite", a=3.2, c=5.2, u=0.38),
        [2, 2, 1],
        "P",
    ),
    "rhombohedral with R": (_bismuthide, [2, 2, 1], "R"),
    "rutile": (
        lambda: crystal(
            ["Ti", "O"],
            [(0, 0, 0), (0.305, 0.305, 0)],
            spacegroup=136,
            cellpar=[4.6, 4.6, 2.95, 90, 90, 90],
        ),
        [1, 1, 2],
        "P",
    ),
    "C-centred orthorhombic": (
        lambda: crystal(
            ["B", "N"],
            [(0, 0.12, 0.25), (0, 0.45, 0.25)],
            spacegroup=63,
            cellpar=[2.9, 7.5, 3.4, 90, 90, 90],
        ),
        [2, 1, 1],
        "C",
    ),
    "monoclinic": (
        lambda: crystal(
            ["Na", "Cl"],
            [(0.1, 0.25, 0.2), (0.45, 0.25, 0.7)],
            spacegroup=11,
            cellpar=[3.5, 3.2, 4.6, 90, 104, 90],
        ),
        [1, 2, 1],
        "P",
    ),
    "triclinic": (
        lambda: Atoms(
            "SiCO",
            cell=[[4.1, 0, 0], [0.4, 4.6, 0], [-0.3, 0.5, 5.0]],
            scaled_positions=[[0.02, 0.01, 0.03], [0.42, 0.13, 0.25], [0.1, 0.5, 0.6]],
            pbc=True,
        ),
        [1, 1, 2],
        "P",
    ),
}


def make_phonon(name: str) -> Phonopy:
    build, matrix, primitive = CRYSTALS[name]
    atoms = build()
    cell = PhonopyAtoms(
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Point group symmetries", UserWarning)
        warnings.filterwarnings("ignore", "primitive_matrix defaulted", UserWarning)
        return Phonopy(cell, matrix, primitive_matrix=primitive, log_level=0)


@pytest.fixture(params=sorted(CRYSTALS))
def any_phonon(request: pytest.FixtureRequest) -> Phonopy:
    return make_phonon(request.param)


@pytest.fixture(scope="session")
def phonon_by_name() -> Callable[[str], Phonopy]:
    """``make_phonon``, for tests that take one of the crystals."""
    return make_phonon


@pytest.fixture
def potential() -> PairPotential:
    return PairPotential(CUTOFF, ELEMENTS)


@pytest.fixture
def rocksalt() -> Phonopy:
    return make_phonon("rocksalt, conventional with F")


def einstein(stiffness: float, mass: float = 20.0) -> Phonopy:
    """One atom in a cubic cell, each on its own springs (eV/Å²)."""
    cell = PhonopyAtoms(
        symbols=["Ne"], cell=np.eye(3) * 4, scaled_positions=[[0, 0, 0]], masses=[mass]
    )
    phonon = Phonopy(cell, [2, 2, 2], primitive_matrix="P", log_level=0)
    force_constants = np.zeros((1, 8, 3, 3))
    force_constants[0, 0] = stiffness * np.eye(3)
    phonon.force_constants = force_constants
    return phonon
