"""Phonon structures in commensurate cells: which cell when, and the cell itself."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase.data import atomic_masses

from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import DataFormatError, ShapeError
from pft_lightning.physics.commensurate import (
    FoldedForceConstants,
    TranslationLattice,
    commensurate_cell,
)
from pft_lightning.physics.force_constants import ForceConstants


# In place of the number of a q-point: the supercell as it is.
WHOLE = -1

# Keeps the choice of cells independent of that of tangents, which are drawn from the
# seed, the step and the name.
_STREAM = 7


@dataclass(frozen=True, slots=True, eq=False)
class CellChoice:
    """The cell of every structure of a source in one epoch.

    Attributes:
        q_points: (n_structures,), number of the q-point that the cell is made for, or
            ``WHOLE``.
        shares: (n_structures,), atoms of the cell divided by those of the supercell.
    """

    q_points: np.ndarray
    shares: np.ndarray


class CellSampler:
    """Draws a commensurate cell for every structure, anew in each epoch.

    A q-point is drawn uniformly and gets the smallest cell that it fits. A draw is a
    function of ``(seed, epoch, structure name)``; as a structure appears once in an
    epoch, of the training step too.

    Args:
        names: Of the structures.
        orders: For each structure, the number of primitive cells that each of its
            commensurate q-points needs.
        share: Of the draws that take a commensurate cell.
        seed: Of the draws.
    """

    def __init__(
        self,
        names: Sequence[str],
        orders: Sequence[np.ndarray],
        *,
        share: float,
        seed: int,
    ) -> None:
        self._hashes = [zlib.crc32(name.encode()) for name in names]
        self._orders = orders
        self._share = share
        self._seed = seed

    def draw(self, epoch: int) -> CellChoice:
        """Choose the cells of one epoch."""
        q_points = np.full(len(self._orders), WHOLE)
        shares = np.ones(len(self._orders))
        for i, (name, orders) in enumerate(
            zip(self._hashes, self._orders, strict=True)
        ):
            rng = np.random.default_rng([self._seed, epoch, name, _STREAM])
            if rng.random() < self._share:
                q_points[i] = rng.integers(len(orders))
                shares[i] = orders[q_points[i]] / len(orders)
        return CellChoice(q_points, shares)


def q_point_orders(record: StructureRecord) -> np.ndarray:
    """Give the number of primitive cells that each commensurate q-point needs.

    A molecule has no waves but those that all of it takes part in: one cell.

    Raises:
        DataFormatError: the record has no force constants, or they do not fit it.
    """
    if _is_molecule(record):
        return np.ones(1, dtype=np.int64)
    return _lattice(record)[1].orders()


def fold_record(record: StructureRecord, q_point: int) -> StructureRecord:
    """Give the smallest cell that a q-point fits, with its targets.

    That of a molecule is itself; its normal modes are those of Γ.

    Positions are those of the supercell, up to lattice vectors, forces and stress
    too; the energy is its share.

    Args:
        record: a supercell with force constants.
        q_point: number of the q-point.

    Raises:
        DataFormatError: the record has no force constants, or they do not fit it.
    """
    if _is_molecule(record):
        return replace(record, force_constants=_whole_molecule(record))
    force_constants, lattice = _lattice(record)
    cell = commensurate_cell(
        force_constants,
        lattice,
        lattice.q_points()[q_point],
        atomic_masses[record.atomic_numbers],
    )
    atoms = cell.supercell_atom
    fractional = record.positions[atoms] @ np.linalg.inv(cell.vectors)
    energy, forces = record.energy, record.forces
    return replace(
        record,
        atomic_numbers=record.atomic_numbers[atoms],
        positions=(fractional - np.floor(fractional)) @ cell.vectors,
        cell=cell.vectors,
        energy=None if energy is None else energy * cell.force_constants.share,
        forces=None if forces is None else forces[atoms],
        force_constants=cell.force_constants,
        cells=None,
    )


def _is_molecule(record: StructureRecord) -> bool:
    return record.force_constants is not None and not record.pbc.any()


def _whole_molecule(record: StructureRecord) -> FoldedForceConstants:
    found = record.force_constants
    assert found is not None
    masses = record.masses
    return FoldedForceConstants(
        compact=found.compact,
        primitive_index=found.primitive_index,
        translation_index=found.translation_index,
        permutations=found.permutations,
        equivalent_atoms=found.equivalent_atoms,
        supercell_atoms=found.n_atoms,
        masses=atomic_masses[record.atomic_numbers] if masses is None else masses,
    )


def _lattice(record: StructureRecord) -> tuple[ForceConstants, TranslationLattice]:
    where = record.info.get("source", record.name)
    if record.force_constants is None:
        raise DataFormatError(
            f"{where}: no force constants, so no commensurate cells. Use a phonon "
            "calculation, or another probe."
        )
    try:
        lattice = TranslationLattice.of(
            record.positions, record.cell, record.force_constants.permutations
        )
    except ShapeError as error:
        raise DataFormatError(
            f"{where}: {error} Write the file again, or use probe=column."
        ) from error
    return record.force_constants, lattice
