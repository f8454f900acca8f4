"""Crystals of the small world with third-order force constants of its truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pft_lightning.backends.pair import PairPotential
from pft_lightning.data.records import StructureRecord, to_data
from pft_lightning.data.store import building
from pft_lightning.graphs import build_batch, build_graph
from pft_lightning.physics.third_order_constants import ThirdOrderConstants


# Batches hold structures of both kinds.
WITHOUT = "MgO"

# Of the truth, by name: each takes seconds.
_known: dict[str, ThirdOrderConstants] = {}


def third_order_of(
    model: PairPotential, record: StructureRecord
) -> ThirdOrderConstants:
    """Exact force constants of a model, one pair of unit vectors after the other."""
    second, n_atoms = record.force_constants, record.n_atoms
    unit = torch.eye(3 * n_atoms, dtype=torch.float64).reshape(-1, n_atoms, 3)
    rows = second.representatives()
    pairs = [
        torch.stack([unit[3 * i + a], other], dim=1)
        for i in rows
        for a in range(3)
        for other in unit
    ]
    graph = build_graph(record.positions, record.cell, record.pbc, model.cutoff)
    batch = build_batch([to_data(record, graph)])
    with torch.no_grad():
        third = model.derivatives(
            batch, pairs=torch.stack(pairs, dim=1), forces=False, stress=False
        ).third
    shape = (len(rows), 3, n_atoms, 3, n_atoms, 3)
    compact = third.movedim(1, 0).reshape(shape).numpy().transpose(0, 2, 4, 1, 3, 5)
    return ThirdOrderConstants(
        np.ascontiguousarray(compact),
        second.primitive_index,
        second.translation_index,
        second.permutations,
    )


def add_third_order(patch: pytest.MonkeyPatch, truth: PairPotential) -> None:
    """Let phonon files be read as if they held those of the truth, but of one."""
    read = building.read_entry

    def read_both(*source: Any) -> StructureRecord:
        record = read(*source)
        if record.name == WITHOUT:
            return record
        if record.name not in _known:
            _known[record.name] = third_order_of(truth, record)
        third = _known[record.name]
        constants = replace(record.force_constants, third_order=third)
        return replace(record, force_constants=constants)

    patch.setattr(building, "read_entry", read_both)
