"""Crystals with the elastic constants of the small world's truth."""

from __future__ import annotations

from pathlib import Path

import ase.io
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

import pft_lightning as pft
from tests.conftest import true_potential


def crystals() -> dict[str, Atoms]:
    """Close packed, so stable with a pair potential; ions of one move under strain."""
    hexagonal = bulk("Mg", "hcp", a=2.6, c=4.25)
    hexagonal.numbers[:] = [12, 14]
    ordered = bulk("Mg", "fcc", a=3.7, cubic=True)
    ordered.numbers[0] = 14
    found = {
        "Si": bulk("Si", "fcc", a=3.7),
        "Mg": bulk("Mg", "fcc", a=3.7),
        "SiMg3": ordered,
        "MgSi": hexagonal,
    }
    for name, atoms in found.items():
        atoms.calc = pft.Calculator(true_potential())
        assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-6, steps=200)
        atoms.calc = None
        atoms.info = {"name": name}
    return found


def label_crystals() -> list[Atoms]:
    """The same with elastic constants, moduli, or both, GPa."""
    frames = []
    for name, atoms in crystals().items():
        found = pft.elastic_constants(true_potential(), atoms)
        assert found.moduli.is_stable
        if name != "Mg":
            atoms.info["elastic_constants"] = found.relaxed.ravel()
        if name != "MgSi":
            atoms.info["bulk_modulus"] = found.moduli.bulk
            atoms.info["shear_modulus"] = found.moduli.shear
        frames.append(atoms)
    return frames


def write_crystals(path: Path, frames: list[Atoms]) -> None:
    """Write them as a training reads them."""
    ase.io.write(path, frames, format="extxyz")
