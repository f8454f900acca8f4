"""Elastic constants beside differences of the stress, in every crystal system.

For the first stable crystal of every crystal system: strained by ±0.2 and ±0.4 %
along each of six strains, ions relaxed anew, central differences of the fourth order.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import ase
import numpy as np
import spglib
import torch
from ase.optimize import BFGS
from ase.stress import voigt_6_to_full_3x3_strain
from ase.units import GPa

from pft_lightning import Calculator, elastic_constants, load_model
from pft_lightning.backends.base import EnergyModel
from pft_lightning.errors import PFTError
from pft_lightning.evaluation.elastic_tables import list_table
from pft_lightning.runs.folder import collect_versions


STEPS: Final = (0.002, 0.004)
FORCE: Final = 1e-6  # eV/Å, that ions are relaxed to
MAX_ATOMS: Final = 12

SYSTEMS: Final = (
    *("triclinic", "monoclinic", "orthorhombic", "tetragonal"),
    *("trigonal", "hexagonal", "cubic"),
)
# Numbers of the last space groups of each but the last.
LAST_GROUPS: Final = (2, 15, 74, 142, 167, 194)


def stress_of(atoms: ase.Atoms, strain: np.ndarray) -> np.ndarray:
    """Stress (6,), GPa, of a strained crystal whose ions give way."""
    strained = atoms.copy()
    deformation = voigt_6_to_full_3x3_strain(strain)  # with the identity
    strained.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    strained.calc = atoms.calc
    if not BFGS(strained, logfile=None).run(fmax=FORCE, steps=500):
        raise PFTError("the ions of a strained crystal do not relax.")
    return np.asarray(strained.get_stress() / GPa)


def by_differences(atoms: ase.Atoms) -> np.ndarray:
    """Stress-strain stiffness (6, 6), GPa."""
    columns = []
    for direction in np.eye(6):
        first, second = (
            (stress_of(atoms, h * direction) - stress_of(atoms, -h * direction))
            / (2 * h)
            for h in STEPS
        )
        columns.append((4 * first - second) / 3)
    return np.stack(columns, axis=1)


def crystal_system(atoms: ase.Atoms) -> str:
    """Name of the crystal system."""
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    found = spglib.get_symmetry_dataset(cell, symprec=1e-3)
    place = np.searchsorted(LAST_GROUPS, found.number)
    return SYSTEMS[int(place)]


def check(model: EnergyModel, atoms: ase.Atoms) -> dict[str, Any] | None:
    """Largest differences of one crystal; None where it is not stable.

    The cell is left as it is: what stress it has is corrected for.
    """
    atoms.calc = Calculator(model)
    if not BFGS(atoms, logfile=None).run(fmax=FORCE, steps=500):
        return None
    found = elastic_constants(model, atoms)
    if np.linalg.eigvalsh(found.relaxed).min() < 1:
        return None
    numerical = by_differences(atoms)
    return {
        "largest": float(np.abs(found.relaxed).max()),
        "difference": float(np.abs(found.relaxed - numerical).max()),
        "softest_ions": found.lowest_internal,
        "relaxation": float(np.abs(found.relaxed - found.clamped).max()),
        "stress": float(np.abs(found.stress).max()),
        "constants": found.relaxed.tolist(),
        "moduli": {
            name: getattr(found.moduli, name)
            for name in ("bulk_voigt", "bulk_reuss", "shear_voigt", "shear_reuss")
        },
    }


def write(rows: dict[str, Any], out: Path) -> None:
    """Keep what is known so far."""
    content = {
        "command": "differences.py CHECKPOINT TABLE --out FILE",
        "versions": collect_versions(),
        "units": "GPa; softest_ions eV/Å²",
        "systems": rows,
    }
    out.write_text(json.dumps(content, indent=1) + "\n")


def main(arguments: Sequence[str]) -> None:
    """Go through crystals at random until every crystal system has had one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("table", type=Path, help="JSON of matcalc's form")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = load_model(given.checkpoint, dtype="float64")
    materials = list_table(given.table)
    random.Random(0).shuffle(materials)
    rows: dict[str, Any] = {}
    for material in materials:
        cell = material.read().unitcell
        atoms = ase.Atoms(
            numbers=cell.numbers, cell=cell.cell, positions=cell.positions, pbc=True
        )
        system = crystal_system(atoms)
        if system in rows or len(atoms) > MAX_ATOMS:
            continue
        if found := check(model, atoms):
            rows[system] = {"name": material.name, "formula": str(atoms.symbols)}
            rows[system] |= found
            shown = ("formula", "largest", "relaxation", "stress", "difference")
            print(system, {name: rows[system][name] for name in shown}, flush=True)
            write(rows, given.out)


if __name__ == "__main__":
    main(sys.argv[1:])
