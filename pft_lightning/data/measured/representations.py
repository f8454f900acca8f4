"""Measured modes that are told apart by symmetry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pft_lightning.data.measured.crystals import MeasuredCrystal
from pft_lightning.data.measured.rows import Frequency
from pft_lightning.errors import DataFormatError


def blocks_of(
    group: Sequence[Frequency], what: str, crystal: MeasuredCrystal
) -> dict[str, Any]:
    """Take the representations of the modes of an item, if its lines name them.

    Args:
        group: lines of one item.
        what: its name, for messages.
        crystal: that it is of.

    Returns:
        ``blocks`` and ``block_of`` of ``MeasuredFrequencies``, or nothing.

    Raises:
        DataFormatError: some lines do not, or the crystal has not so many such modes.
    """
    if not any(row.irrep for row in group):
        return {}
    bases = crystal.irreps()
    there = [
        f"{name} ({basis.shape[1]} modes)"
        for name, basis in bases.items()
        if basis.shape[1]
    ]
    counts: dict[str, int] = {}
    for row in group:
        if not row.irrep:
            raise DataFormatError(
                f"{row.where}: has no irrep, and other lines of {what} have one. Name "
                "it in all or none."
            )
        counts[row.irrep] = counts.get(row.irrep, 0) + row.degeneracy
        if row.irrep not in bases or counts[row.irrep] > bases[row.irrep].shape[1]:
            raise DataFormatError(
                f"{row.where}: irrep is {row.irrep}, of which {what} has "
                f"{counts[row.irrep]} modes with this line; the crystal has "
                f"{', '.join(there) or 'none'}, without translations. Correct the "
                "name, or take lines out."
            )
    names = list(counts)
    return {
        "blocks": tuple(bases[name] for name in names),
        "block_of": np.array([names.index(row.irrep) for row in group]),
    }
