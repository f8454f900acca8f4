"""Errors of force constants by the distance of the two atoms.

Usage: ``python shells.py PHONONS OUT.json LABEL=MODEL ...``; PHONONS is a folder of
phonopy files. Of each material the mean over all elements is that of
``force_constants_mae``; the parts by distance add up to it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from phonopy import Phonopy
from phonopy.harmonic.force_constants import full_fc_to_compact_fc

import pft_lightning as pft
from pft_lightning.json_files import write_json
from pft_lightning.runs.folder import collect_versions


EDGES = (0.1, 2.6, 4.0, 6.0, 9.0)  # Å; the first part is the atom itself


def shares(errors: np.ndarray, distances: np.ndarray) -> list[float]:
    """What the pairs of each shell add to the mean of all elements."""
    shell = np.digitize(distances, EDGES)
    every = range(len(EDGES) + 1)
    return [float((errors * (shell == number)).mean()) for number in every]


def read(file: Path) -> tuple[Phonopy, np.ndarray, np.ndarray]:
    """A calculation, its compact force constants, and distances of their atoms."""
    phonon = pft.read_phonopy(file)
    if phonon.force_constants is None:
        phonon.produce_force_constants()
    constants = np.asarray(phonon.force_constants)
    if len(constants) == constants.shape[1]:
        constants = full_fc_to_compact_fc(phonon.primitive, constants)
    cell = phonon.supercell
    atoms = Atoms(cell.symbols, cell.positions, cell=cell.cell, pbc=True)
    distances = atoms.get_all_distances(mic=True)[phonon.primitive.p2s_map]
    return phonon, constants, distances


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phonons", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+", metavar="LABEL=MODEL")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = {
        label: pft.load_model(path)
        for label, path in (given.split("=", 1) for given in options.models)
    }
    found: dict[str, dict[str, list[float]]] = {label: {} for label in models}
    for file in sorted(options.phonons.iterdir()):
        phonon, reference, distances = read(file)
        for label, model in models.items():
            errors = np.abs(pft.force_constants(model, phonon) - reference)
            mean = errors.mean(axis=(2, 3))
            found[label][file.name.split(".")[0]] = shares(mean, distances)
    means = {
        label: np.mean(list(rows.values()), axis=0) for label, rows in found.items()
    }
    first = next(iter(means.values()))
    bounds = [0.0, *EDGES, float("inf")]
    for number, part in enumerate(first):
        cells = [
            f"{mean[number]:.5f} ({100 * (mean[number] / part - 1):+.0f} %)"
            for mean in means.values()
        ]
        print(
            f"| {bounds[number]:g} to {bounds[number + 1]:g} Å | {' | '.join(cells)} |"
        )
    write_json(
        options.out,
        {"edges": EDGES, "by_material": found, "versions": collect_versions()},
    )


if __name__ == "__main__":
    main()
