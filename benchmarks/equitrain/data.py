"""Cut a phonopy file of random displacements into the sets of this comparison.

For each number of structures: ``train-N.yaml`` for ours; the same structures as
``train-N.xyz``, and others for Equitrain's validation as ``valid-N.xyz``. The
structures of ``reference.yaml``, the last of the file, are in none of them.
"""

from __future__ import annotations

import argparse
import lzma
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import yaml
from ase.calculators.singlepoint import SinglePointCalculator


N_VALID = 4
N_REFERENCE = 20


def main() -> None:
    """Write all sets of one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="phonopy file (.yaml.xz)")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 4, 8, 16])
    given = parser.parse_args()
    with lzma.open(given.file, "rt") as file:
        content: Any = yaml.load(file, Loader=yaml.CSafeLoader)
    structures = content["displacements"]
    given.out.mkdir(parents=True, exist_ok=True)
    most = max(given.sizes)
    assert most + N_VALID <= len(structures) - N_REFERENCE
    write_phonopy(content, structures[-N_REFERENCE:], given.out / "reference.yaml")
    for n in given.sizes:
        write_phonopy(content, structures[:n], given.out / f"train-{n}.yaml")
        write_frames(content, structures[:n], given.out / f"train-{n}.xyz")
        valid = structures[most : most + max(1, n // 4)]  # 16 and 4, as in its paper
        write_frames(content, valid, given.out / f"valid-{n}.xyz")


def write_phonopy(content: Any, structures: list[Any], path: Path) -> None:
    """Write a file as it was, with some of its structures."""
    path.write_text(yaml.safe_dump({**content, "displacements": structures}))


def write_frames(content: Any, structures: list[Any], path: Path) -> None:
    """Write structures with forces; of energies and stresses the file has none."""
    supercell = content["supercell"]
    points = supercell["points"]
    crystal = ase.Atoms(
        [point["symbol"] for point in points],
        scaled_positions=[point["coordinates"] for point in points],
        cell=supercell["lattice"],
        pbc=True,
    )
    frames = []
    for structure in structures:
        atoms = crystal.copy()
        atoms.positions += np.array([atom["displacement"] for atom in structure])
        forces = np.array([atom["force"] for atom in structure])
        # Equitrain refuses frames without the two; their weights are 0.
        atoms.calc = SinglePointCalculator(
            atoms, energy=0.0, forces=forces, stress=np.zeros(6)
        )
        frames.append(atoms)
    ase.io.write(path, frames)


if __name__ == "__main__":
    main()
