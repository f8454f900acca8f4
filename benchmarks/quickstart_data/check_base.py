"""Print how well the quickstart's base model reproduces the data it ships with.

Errors of energy, forces and stress on both frame files, and of force constants
(central differences of the forces, in float64) on every phonon file. Needs mace-torch
and phonopy::

    python check_base.py pft_lightning/example
"""

from __future__ import annotations

import argparse
import io
import lzma
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from mace.calculators import MACECalculator
from phonopy import Phonopy

from pft_lightning.data.readers.phonopy import read_phonopy


STEP = 0.005
"""Displacement of the central difference, Å."""


def read_frames(path: Path) -> list[Atoms]:
    """Read all frames of a compressed extended XYZ file."""
    return ase.io.read(
        io.StringIO(lzma.decompress(path.read_bytes()).decode()), ":", "extxyz"
    )


def frame_errors(frames: list[Atoms], calc: Calculator) -> tuple[float, float, float]:
    """Return mean absolute errors: energy (meV/atom), forces (meV/Å), stress (GPa)."""
    energy, forces, stress = [], [], []
    for frame in frames:
        atoms = Atoms(
            frame.symbols, frame.positions, cell=frame.cell, pbc=True, calculator=calc
        )
        energy.append(
            (atoms.get_potential_energy() - frame.get_potential_energy()) / len(atoms)
        )
        forces.append((atoms.get_forces() - frame.get_forces()).ravel())
        stress.append(atoms.get_stress() - frame.get_stress())
    mean = [
        np.abs(np.concatenate(error, axis=None)).mean()
        for error in (energy, forces, stress)
    ]
    return 1e3 * mean[0], 1e3 * mean[1], 160.21766 * mean[2]


def force_constants(atoms: Atoms) -> np.ndarray:
    """Return Φ[i, j, a, b] (eV/Å²) of a supercell that carries a calculator."""
    count = len(atoms)
    hessian = np.empty((count, 3, count, 3))
    for index in range(count):
        for axis in range(3):
            sides = []
            for sign in (-1, 1):
                moved = atoms.copy()
                moved.calc = atoms.calc
                moved.positions[index, axis] += sign * STEP
                sides.append(moved.get_forces())
            hessian[index, axis] = (sides[0] - sides[1]) / (2 * STEP)
    return hessian.transpose(0, 2, 1, 3)


def highest_at_gamma(phonon: Phonopy) -> float:
    """Return the highest frequency at Γ, THz, without the long-range dipole term."""
    return float(phonon.run_qpoints([(0, 0, 0)]).frequencies[0].max())


def main() -> None:
    """Print one table of frame errors and one of force-constant errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("example", type=Path, help="the example folder")
    example: Path = parser.parse_args().example
    calc = MACECalculator(
        str(example / "base.model"), device="cpu", default_dtype="float64"
    )
    print("| frames | number | energy meV/atom | forces meV/Å | stress GPa |")
    print("|---|---|---|---|---|")
    for split in ("train", "val"):
        frames = read_frames(example / f"upstream_{split}.xyz.xz")
        energy, forces, stress = frame_errors(frames, calc)
        print(
            f"| {split} | {len(frames)} | {energy:.1f} | {forces:.0f} | {stress:.2f} |"
        )
    print(
        "\n| phonons | MAE eV/Å² | mean abs Φ | relative error "
        "| Γ DFT THz | Γ base THz |"
    )
    print("|---|---|---|---|---|---|")
    for path in sorted((example / "phonons").glob("*/*.yaml.xz"), reverse=True):
        phonon = read_phonopy(path)
        phonon.produce_force_constants(calculate_full_force_constants=True)
        cell = phonon.supercell
        atoms = Atoms(
            cell.symbols, cell.positions, cell=cell.cell, pbc=True, calculator=calc
        )
        predicted, target = force_constants(atoms), phonon.force_constants
        error = predicted - target
        relative = np.linalg.norm(error) / np.linalg.norm(target)
        reference = highest_at_gamma(phonon)
        phonon.force_constants = predicted
        print(
            f"| {path.parent.name}/{path.name.split('.')[0]} "
            f"| {np.abs(error).mean():.4f} "
            f"| {np.abs(target).mean():.4f} | {relative:.2f} "
            f"| {reference:.2f} | {highest_at_gamma(phonon):.2f} |"
        )


if __name__ == "__main__":
    main()
