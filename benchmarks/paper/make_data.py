"""Select the materials of the paper benchmark and write its displaced supercells.

Usage: ``python make_data.py PHONONS WORK``. ``PHONONS`` holds ``index.csv``,
``train/`` and ``val/``; into ``WORK`` go::

    train/, train-40/            phonopy files: sound ones, those of at most 40 atoms
    val/, val-40/                all of the validation pack; those of at most 40 atoms
    displaced.xyz, displaced-40.xyz    every displaced supercell of train/, train-40/
                                       with its DFT forces; no energy and no stress

Sound means: lowest frequency at least -0.3 THz, so that the crystal is stable in its
supercell, and permutation error of the raw force constants at most 0.1 eV/Å². The
validation pack is left whole, to be judged on what there is.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import ase
import ase.io
from ase.calculators.singlepoint import SinglePointCalculator

from pft_lightning.data.readers.phonopy import read_phonopy


LOWEST_FREQUENCY = -0.3  # THz
LARGEST_ASYMMETRY = 0.1  # eV/Å²
SMALL = 40  # atoms


def select(rows: list[dict[str, str]]) -> dict[str, list[str]]:
    """Names of the materials of each set; prints how many remain and why."""
    train = [row for row in rows if row["split"] == "train"]
    stable = [row for row in train if float(row["f_min"]) >= LOWEST_FREQUENCY]
    sound = [row for row in stable if float(row["perm_raw"]) <= LARGEST_ASYMMETRY]
    val = [row for row in rows if row["split"] == "val"]
    print(
        f"{len(train)} training materials; {len(train) - len(stable)} left out with a "
        f"frequency below {LOWEST_FREQUENCY} THz, {len(stable) - len(sound)} more with "
        f"an asymmetry above {LARGEST_ASYMMETRY} eV/Å²; {len(sound)} remain"
    )
    sets = {"train": sound, "val": val}
    for name in ("train", "val"):
        sets[f"{name}-{SMALL}"] = [
            row for row in sets[name] if int(row["n_super"]) <= SMALL
        ]
    return {name: sorted(row["mp"] for row in chosen) for name, chosen in sets.items()}


def displaced_supercells(path: Path) -> Iterator[ase.Atoms]:
    """Every displaced supercell of a phonopy file with the forces on its atoms."""
    phonon = read_phonopy(path)
    for cell, forces in zip(
        phonon.supercells_with_displacements, phonon.forces, strict=True
    ):
        atoms = ase.Atoms(
            numbers=cell.numbers, positions=cell.positions, cell=cell.cell, pbc=True
        )
        atoms.info["material"] = path.name.split(".")[0]
        atoms.calc = SinglePointCalculator(atoms, forces=forces)
        yield atoms


def main() -> None:
    """Fill the work folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("phonons", type=Path, help="holds index.csv, train/ and val/")
    parser.add_argument("work", type=Path, help="folder to fill")
    options = parser.parse_args()
    with (options.phonons / "index.csv").open() as file:
        sets = select(list(csv.DictReader(file)))
    for name, materials in sets.items():
        folder = options.work / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.yaml.xz"):
            old.unlink()
        for material in materials:
            file_name = f"{material}.yaml.xz"
            source = options.phonons / name.split("-")[0] / file_name
            shutil.copyfile(source, folder / file_name)
        print(f"{name}: {len(materials)} materials")
    frames = {
        material: list(
            displaced_supercells(options.work / "train" / f"{material}.yaml.xz")
        )
        for material in sets["train"]
    }
    for suffix in ("", f"-{SMALL}"):
        chosen = [atoms for m in sets[f"train{suffix}"] for atoms in frames[m]]
        path = options.work / f"displaced{suffix}.xyz"
        ase.io.write(path, chosen, format="extxyz")
        print(f"{path.name}: {len(chosen)} frames")


if __name__ == "__main__":
    main()
