"""Modes at Γ by irreducible representation of the point group.

``P = d / <χ,χ> / |G| Σ_g χ(g) T(g)`` projects on the modes of a representation with
the characters χ (M. Tinkham, Group Theory and Quantum Mechanics, 1964); ``T(g)`` moves
atoms as the operation does, and commutes with every dynamical matrix of the crystal.
The frequencies of a representation are eigenvalues of its own block ``B† D B``, with a
basis B of what P leaves: no eigenvector is compared, whatever is degenerate.

Characters and names are those of phonopy's tables, in the axes that spglib chooses.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from pft_lightning.errors import ShapeError


# How exact projectors are, and how far an atom may be from where an operation takes
# another, Å, as a multiple of the tolerance of the symmetry search.
_EXACT: Final = 1e-6
_FAR: Final = 5


def irrep_dimension(name: str) -> int | None:
    """Modes of one frequency: 1 for A and B, 2 for E, 3 for T; None for other names.

    >>> irrep_dimension("T2g"), irrep_dimension("TO2")
    (3, None)
    """
    rest = name[1:].lstrip("0123456789").rstrip("'")
    return _DIMENSIONS.get(name[:1]) if rest in ("", "g", "u") else None


_DIMENSIONS: Final = {"A": 1, "B": 1, "E": 2, "T": 3}


def irrep_bases(
    positions: np.ndarray,
    cell: np.ndarray,
    masses: np.ndarray,
    dataset: Any,
    symprec: float,
) -> dict[str, np.ndarray]:
    """Split the modes of a crystal at Γ, translations left out.

    Args:
        positions: (n, 3), Å, of a primitive cell.
        cell: (3, 3), Å, its vectors as rows.
        masses: (n,), AMU.
        dataset: spglib's symmetry dataset of this cell.
        symprec: of its symmetry search, Å.

    Returns:
        For each name a basis (3n, n_modes), orthonormal, of mass-weighted
        displacements; those without modes too, with none.

    Raises:
        ShapeError: phonopy's table does not describe the group, or atoms are not where
            operations take others.
    """
    moved = _representation(positions, cell, dataset, symprec)
    characters = _characters(dataset)
    inert = np.kron(np.sqrt(masses / masses.sum())[:, None], np.eye(3))
    still = np.eye(len(inert)) - inert @ inert.T
    found, total = {}, np.zeros_like(still)
    for name, values in characters.items():
        # Some tables join two complex representations: <χ,χ> is then 2.
        scale = values[0] / (values @ values)
        projector = still @ np.einsum("g,gij->ij", scale * values, moved)
        weights, vectors = np.linalg.eigh((projector + projector.T) / 2)
        if np.abs(weights - np.rint(weights)).max() > _EXACT:
            raise ShapeError(f"The characters of {name} make no projector.")
        found[name] = vectors[:, weights > 0.5]
        total += projector
    if np.abs(total - still).max() > _EXACT:
        raise ShapeError("The representations of the table are not all modes.")
    return found


def _representation(
    positions: np.ndarray, cell: np.ndarray, dataset: Any, symprec: float
) -> np.ndarray:
    """(n_operations, 3n, 3n), how displacements move; the identity is first."""
    fractional = positions @ np.linalg.inv(cell)
    found = []
    operations = list(zip(dataset.rotations, dataset.translations, strict=True))
    operations.sort(key=lambda one: not np.array_equal(one[0], np.eye(3)))
    for rotation, translation in operations:
        goal = fractional @ rotation.T + translation
        apart = goal[None] - fractional[:, None]
        apart -= np.rint(apart)
        taken = np.linalg.norm(apart @ cell, axis=2) < _FAR * symprec
        if not (taken.sum(axis=0) == 1).all():
            raise ShapeError("An operation takes an atom to where none is.")
        turned = cell.T @ rotation @ np.linalg.inv(cell.T)
        found.append(np.kron(taken, turned))
    return np.array(found)


def _characters(dataset: Any) -> dict[str, np.ndarray]:
    """(n_operations,) by name, the identity first."""
    from phonopy.phonon.character_table import character_table

    change = dataset.transformation_matrix
    rotations = np.rint(change @ dataset.rotations @ np.linalg.inv(change))
    keys = [tuple(rotation.astype(int).ravel()) for rotation in rotations]
    keys.sort(key=lambda key: key != (1, 0, 0, 0, 1, 0, 0, 0, 1))
    for table in character_table.get(dataset.pointgroup, []):
        classes = {
            tuple(np.ravel(rotation)): symbol
            for symbol, members in table["mapping_table"].items()
            for rotation in members
        }
        if all(key in classes for key in keys) and len(set(keys)) == len(keys):
            symbols = np.atleast_1d(table["rotation_list"]).tolist()
            columns = [symbols.index(classes[key]) for key in keys]
            return {
                name: np.atleast_1d(np.array(values, dtype=np.float64))[columns]
                for name, values in table["character_table"].items()
            }
    raise ShapeError(f"phonopy has no table of the point group {dataset.pointgroup}.")
