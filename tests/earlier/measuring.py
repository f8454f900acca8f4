"""What a potential predicts on one structure: compared between versions."""

from __future__ import annotations

from pathlib import Path

import ase
import numpy as np

import pft_lightning as pft


def measure(model: pft.EnergyModel) -> dict[str, list]:
    """Energy (eV), forces (eV/Å) and one H v (eV/Å²) of four atoms of LiF and NaF."""
    cell = [[0.0, 2.2, 2.1], [2.2, 0.1, 2.2], [4.2, 4.3, 0.2]]
    positions = [[0.1, 0, 0], [2.1, 0.1, 0], [2.2, 2.1, 0.1], [4.2, 2.3, 0]]
    atoms = ase.Atoms([3, 9, 11, 9], positions, cell=cell, pbc=True)
    tangent = np.arange(12.0).reshape(4, 3) ** 2 / 50 - 1
    hvp = pft.hessian_vector_product(model, atoms, tangent)
    atoms.calc = pft.Calculator(model)
    return {
        "energy": [float(atoms.get_potential_energy())],
        "forces": atoms.get_forces().tolist(),
        "hvp": hvp.tolist(),
    }


def measure_file(path: Path) -> dict[str, list]:
    return measure(pft.load_model(path, dtype="float64"))
