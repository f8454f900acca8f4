"""Frequencies at Γ, X and L of some rocksalt and diamond-like crystals, as a table.

``python few_q_points.py PHONONS OUT --crystals Si MgO``: phonopy files ``NAME.yaml.xz``
of PHONONS become ``OUT/frequencies.csv`` and ``OUT/NAME.vasp``; their force constants
are not kept.
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


# Of the primitive cell of a face-centred cubic lattice.
Q_POINTS = {"Γ": "0 0 0", "X": "1/2 1/2 0", "L": "1/2 1/2 1/2"}
# THz; closer frequencies are those of one degenerate mode.
SAME = 1e-3


def rows(name: str, phonon: Phonopy) -> list[list[str | float]]:
    """Lines of the table: translations at Γ are left out."""
    found: list[list[str | float]] = []
    for label, q_point in Q_POINTS.items():
        components = q_point.split()
        numbers = [to_number(component) for component in components]
        phonon.run_qpoints([numbers])
        frequencies = np.sort(phonon.qpoints.frequencies[0])
        if label == "Γ":
            frequencies = frequencies[3:]
        groups = np.split(frequencies, np.flatnonzero(np.diff(frequencies) > SAME) + 1)
        found += [
            [name, *components, round(float(one.mean()), 4), "THz", len(one), label]
            for one in groups
        ]
    return found


def to_number(text: str) -> float:
    """A number, or one over another."""
    above, _, below = text.partition("/")
    return int(above) / int(below or 1)


def main() -> None:
    """Read the arguments, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phonons", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--crystals", nargs="+", required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    columns = ["structure", "q1", "q2", "q3", "frequency", "unit", "degeneracy", "note"]
    with (arguments.out / "frequencies.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for name in arguments.crystals:
            phonon = pft.read_phonopy(arguments.phonons / f"{name}.yaml.xz")
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
