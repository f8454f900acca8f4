"""Crystals held together by springs: their force constants are known exactly."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms


SpringPhonon = Callable[..., Phonopy]

# numbers, cell, fractional positions, supercell matrix, primitive matrix
CRYSTALS = {
    "simple cubic": ([26], np.eye(3) * 3.3, [[0, 0, 0]], [2, 2, 2], "P"),
    "NaCl conventional": (
        [11] * 4 + [17] * 4,
        np.eye(3) * 5.6,
        [
            *([0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]),
            *([0.5, 0.5, 0.5], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]),
        ],
        [2, 1, 1],
        "F",
    ),
    "hexagonal": (
        [30, 30, 8, 8],
        np.array([[3.2, 0, 0], [-1.6, 1.6 * 3**0.5, 0], [0, 0, 5.2]]),
        [
            [1 / 3, 2 / 3, 0],
            [2 / 3, 1 / 3, 0.5],
            [1 / 3, 2 / 3, 0.38],
            [2 / 3, 1 / 3, 0.88],
        ],
        [2, 2, 1],
        "P",
    ),
    # A supercell matrix that is not diagonal, and translations of no simple order.
    "bcc, oblique": (
        [26, 26],
        np.eye(3) * 2.9,
        [[0, 0, 0], [0.5, 0.5, 0.5]],
        [[1, 1, 0], [-1, 1, 0], [0, 1, 2]],
        "I",
    ),
    # No translation but the identity: every atom is a primitive one.
    "one cell": (
        [14] * 3,
        np.diag([4.0, 4.4, 5.1]),
        [[0, 0, 0], [0.48, 0.1, 0.2], [0.1, 0.55, 0.63]],
        [1, 1, 1],
        "P",
    ),
}


def spring_force_constants(cell: PhonopyAtoms, reach: float = 4.2) -> np.ndarray:
    """Force constants of springs between all atoms nearer than ``reach``, eV/Å²."""
    n_atoms = len(cell)
    force_constants = np.zeros((n_atoms, n_atoms, 3, 3))
    images = np.array(list(np.ndindex(5, 5, 5))) - 2
    for i in range(n_atoms):
        for j in range(n_atoms):
            vectors = cell.positions[j] - cell.positions[i] + images @ cell.cell
            lengths = np.linalg.norm(vectors, axis=1)
            for vector, length in zip(vectors, lengths, strict=True):
                if 0.1 < length < reach:
                    block = np.outer(vector, vector) * 5.0 * np.exp(-length) / length
                    force_constants[i, j] -= block
                    force_constants[i, i] += block
    return force_constants


def displace(phonon: Phonopy, force_constants: np.ndarray) -> None:
    """Give phonopy all displacements, with the forces of these force constants."""
    phonon.generate_displacements(distance=0.01)
    for entry in phonon.dataset["first_atoms"]:
        rows = force_constants[:, entry["number"]]
        entry["forces"] = -np.einsum("iab,b->ia", rows, entry["displacement"])


@pytest.fixture(scope="session")
def spring_phonon() -> SpringPhonon:
    """Make a phonon calculation with displacements and forces, none of them noisy."""

    def make(name: str = "NaCl conventional") -> Phonopy:
        numbers, lattice, positions, matrix, primitive = CRYSTALS[name]
        cell = PhonopyAtoms(numbers=numbers, cell=lattice, scaled_positions=positions)
        matrix = np.diag(matrix) if np.ndim(matrix) == 1 else np.array(matrix)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*Point group symmetries", UserWarning)
            phonon = Phonopy(
                cell,
                matrix,
                primitive_matrix=primitive,
                log_level=0,
            )
        displace(phonon, spring_force_constants(phonon.supercell))
        return phonon

    return make


@pytest.fixture(params=sorted(CRYSTALS))
def any_spring_phonon(
    request: pytest.FixtureRequest, spring_phonon: SpringPhonon
) -> Phonopy:
    """The same, one after the other for all crystals."""
    return spring_phonon(request.param)
