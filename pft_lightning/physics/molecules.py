"""Hessians of isolated molecules: rigid motions, and the vibrations without them.

A molecule can be moved and turned without work. So its Hessian H gives nothing for a
translation, and for a rotation by ω what turning does to the gradient g:
``H (ω x r) = ω x g``, nothing where the forces vanish. Every potential obeys both
exactly; a calculation with a grid of points or with finite differences does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import units

from pft_lightning.physics.force_constants import ForceConstants


# A rotation about an axis that moves the atoms by less than this share of what the
# other rotations move them by is none: the molecule is linear. CO2 that is bent by two
# degrees is at 0.01.
_LINEAR: float = 1e-2


@dataclass(frozen=True, slots=True)
class BrokenInvariance:
    """How far the Hessian of a molecule is from one that an energy can have, eV/Å².

    Attributes:
        translation: largest force constant when the whole molecule is moved.
        permutation: largest difference of the matrix to its transpose.
        rotation: largest force constant along a normalised rotation beside what the
            forces give; None where the forces are not known.
        rotation_expected: largest one that the forces give; None likewise.
        rotation_found: largest one that the Hessian has.
    """

    translation: float
    permutation: float
    rotation: float | None
    rotation_expected: float | None
    rotation_found: float


def rigid_motions(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directions in which a molecule moves as a whole, orthonormal.

    Masses play no part: the space of these motions is the same for all of them.

    Args:
        positions: (n_atoms, 3), Å.

    Returns:
        Translations (3 n_atoms, 3), and rotations (3 n_atoms, 3): two for a linear
        molecule, none for an atom.
    """
    rotations, weights = _rotations(positions)
    return _translations(len(positions)), rotations @ weights


def force_constants_of(hessian: np.ndarray) -> ForceConstants:
    """Keep a Hessian as force constants: all atoms are of one cell without images.

    Args:
        hessian: (3 n_atoms, 3 n_atoms), eV/Å².
    """
    n_atoms = len(hessian) // 3
    atoms = np.arange(n_atoms)
    blocks = hessian.reshape(n_atoms, 3, n_atoms, 3).transpose(0, 2, 1, 3)
    return ForceConstants(
        compact=np.ascontiguousarray(blocks, dtype=np.float64),
        primitive_index=atoms,
        translation_index=np.zeros(n_atoms, dtype=np.int64),
        permutations=atoms[None].copy(),
        equivalent_atoms=atoms.copy(),
    )


def hessian_of(blocks: np.ndarray) -> np.ndarray:
    """Give (n_atoms, n_atoms, 3, 3) force constants as a (3N, 3N) matrix."""
    n = 3 * len(blocks)
    return blocks.transpose(0, 2, 1, 3).reshape(n, n)


def impose_invariance(
    hessian: np.ndarray, positions: np.ndarray, forces: np.ndarray | None
) -> tuple[np.ndarray, BrokenInvariance]:
    """Make a Hessian symmetric, and what rigid motions give exact.

    What is left of the Hessian among the other directions is not touched.

    Args:
        hessian: (3 n_atoms, 3 n_atoms), eV/Å².
        positions: (n_atoms, 3), Å.
        forces: (n_atoms, 3), eV/Å, at these; None where they are not known, and
            rotations are then left as they are.

    Returns:
        The Hessian, and how far it was from that.
    """
    n_atoms = len(positions)
    symmetric = (hessian + hessian.T) / 2
    moved, given = _translations(n_atoms), np.zeros((3 * n_atoms, 3))
    rotations, weights = _rotations(positions)
    found = symmetric @ rotations @ weights
    expected = None
    if forces is not None:
        expected = -_turned(forces) @ weights
        moved = np.hstack([moved, rotations @ weights])
        given = np.hstack([given, expected])
    broken = BrokenInvariance(
        translation=float(
            np.abs(hessian.reshape(3 * n_atoms, n_atoms, 3).sum(axis=1)).max()
        ),
        permutation=float(np.abs(hessian - hessian.T).max()),
        rotation=None if expected is None else _largest(found - expected),
        rotation_expected=None if expected is None else _largest(expected),
        rotation_found=_largest(found),
    )
    # With P the projector out of the rigid motions U, and H U = G known:
    # H = P H P + G Uᵀ + U Gᵀ - U (Uᵀ G) Uᵀ.
    projector = np.eye(3 * n_atoms) - moved @ moved.T
    inner = moved.T @ given
    rest = given @ moved.T - moved @ (inner + inner.T) @ moved.T / 4
    return projector @ symmetric @ projector + rest + rest.T, broken


def vibrational_frequencies(
    hessian: np.ndarray, positions: np.ndarray, masses: np.ndarray
) -> np.ndarray:
    """Harmonic frequencies of a molecule, translations and rotations projected out.

    Args:
        hessian: (3 n_atoms, 3 n_atoms), eV/Å².
        positions: (n_atoms, 3), Å.
        masses: (n_atoms,), AMU.

    Returns:
        Sorted (3 n_atoms - 6,), or - 5 for a linear molecule, cm⁻¹, imaginary ones
        negative; in the units of ``ase.vibrations``.
    """
    roots = np.repeat(np.sqrt(masses), 3)
    rigid = np.hstack(rigid_motions(positions)) * roots[:, None]
    # The rest of an orthonormal basis that begins with the rigid motions.
    basis = np.linalg.qr(rigid, mode="complete")[0][:, rigid.shape[1] :]
    squares = np.linalg.eigvalsh(basis.T @ (hessian / np.outer(roots, roots)) @ basis)
    # sqrt(eV/Å²/AMU) to eV, as ase.vibrations has it.
    quantum = units._hbar * units.m / np.sqrt(units._e * units._amu)
    return np.sign(squares) * np.sqrt(np.abs(squares)) * quantum / units.invcm


def zero_point_energy(frequencies: np.ndarray) -> float:
    """Zero-point energy of vibrations, eV; imaginary ones have none.

    Args:
        frequencies: (n_modes,), cm⁻¹.
    """
    return float(frequencies[frequencies > 0].sum() * units.invcm / 2)


def _translations(n_atoms: int) -> np.ndarray:
    return np.tile(np.eye(3), (n_atoms, 1)) / np.sqrt(n_atoms)


def _turned(vectors: np.ndarray) -> np.ndarray:
    """Change (3 n_atoms, 3) of vectors at the atoms by turning about x, y and z."""
    axes = np.eye(3)
    return np.cross(axes[None], vectors[:, None]).transpose(0, 2, 1).reshape(-1, 3)


def _rotations(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotations about x, y and z, (3 n_atoms, 3), and what makes them orthonormal."""
    rotations = _turned(positions - positions.mean(axis=0))
    _, lengths, axes = np.linalg.svd(rotations, full_matrices=False)
    kept = lengths > max(_LINEAR * lengths[0], 1e-6)
    return rotations, axes[kept].T / lengths[kept]


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0.0))
