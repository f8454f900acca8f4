"""Lattice translations of a supercell, as phonopy's primitive cell has them."""

from __future__ import annotations

from typing import Any

import numpy as np


def translation_maps(primitive: Any) -> tuple[np.ndarray, np.ndarray]:
    """Give ``primitive_index`` and ``translation_index`` of ``ForceConstants``.

    Args:
        primitive: ``phonopy.structure.cells.Primitive`` of the supercell.
    """
    row = {int(atom): index for index, atom in enumerate(primitive.p2s_map)}
    targets = np.asarray(primitive.s2p_map, dtype=np.int64)
    sent_to = np.asarray(primitive.atomic_permutations)
    return (
        np.array([row[int(atom)] for atom in targets], dtype=np.int64),
        np.argmax(sent_to == targets, axis=0).astype(np.int64),
    )
