"""Frequencies of crystals at Γ and at the zone boundary, as a table.

``python few_q_points.py PHONONS OUT``: phonopy files ``NAME.yaml.xz`` of PHONONS become
``OUT/frequencies.csv``, with the q-points of a 2 x 2 x 2 mesh that differ by symmetry,
and ``OUT/NAME.vasp``, the primitive cells. Their force constants are not kept.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from phonopy import Phonopy

import pft_lightning as pft


COLUMNS = ("structure", "q1", "q2", "q3", "frequency", "unit", "degeneracy", "note")
# THz; closer frequencies are those of one degenerate mode.
SAME = 1e-3


def rows(name: str, phonon: Phonopy) -> list[list[str | float]]:
    """Lines of the table, without translations at Γ and q-points that are unstable."""
    found: list[list[str | float]] = []
    phonon.run_mesh([2, 2, 2], is_gamma_center=True)
    mesh = phonon.mesh
    for q_point, frequencies in zip(mesh.qpoints, mesh.frequencies, strict=True):
        doubled = np.rint(2 * np.array(q_point)).astype(int) % 2
        ascending = np.sort(frequencies)
        if not doubled.any():
            nearest = np.argsort(np.abs(ascending))[:3]
            ascending = np.delete(ascending, nearest)
        if not (ascending > 0).all():
            continue
        groups = np.split(ascending, np.flatnonzero(np.diff(ascending) > SAME) + 1)
        where = [("0", "1/2")[component] for component in doubled]
        found += [
            [name, *where, round(float(one.mean()), 4), "THz", len(one), "DFT"]
            for one in groups
        ]
    return found


def main() -> None:
    """Read the arguments, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phonons", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "frequencies.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for path in sorted(arguments.phonons.glob("*.yaml.xz")):
            name = path.name.removesuffix(".yaml.xz")
            phonon = pft.read_phonopy(path)
            phonon.produce_force_constants()
            phonon.symmetrize_force_constants()
            cell = phonon.primitive
            Atoms(
                numbers=cell.numbers,
                cell=cell.cell,
                scaled_positions=cell.scaled_positions,
                pbc=True,
            ).write(arguments.out / f"{name}.vasp", format="vasp", direct=True)
            writer.writerows(rows(name, phonon))


if __name__ == "__main__":
    sys.exit(main())
