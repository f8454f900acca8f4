"""Whether third-order force constants, and forces on pairs, can be what they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.records import check_array
from pft_lightning.errors import DataFormatError
from pft_lightning.physics.force_constants import ForceConstants
from pft_lightning.physics.third_order_constants import (
    ThirdOrderConstants,
    symmetrise_third,
    third_asymmetry,
)


# Largest third-order force constant, eV/Å³. Of the stiffest bonds known, with a
# curvature of 150 eV/Å² and an anharmonicity of 2.5 / Å, -3 x 2.5 x 150 is -1100.
_MAX_THIRD: Final = 1e4

# Largest part of the change of forces by a second displacement that force constants of
# second order do not explain; of five calculations with 0.03 Å the largest is 0.16.
# Forces of exchanged or mis-scaled calculations are off by more than 1.
_MAX_ANHARMONIC: Final = 0.6


def symmetrise_checked(
    raw: ThirdOrderConstants,
    where: str,
    options: PhononReadOptions,
    info: dict[str, str | float],
) -> ThirdOrderConstants:
    """Symmetrise, note what was removed, refuse too much of it.

    Args:
        raw: as made or read.
        where: the file, for messages.
        options: with the limit.
        info: of the record, which gets what was removed.

    Raises:
        DataFormatError: names the value and what to do.
    """
    check_array("third-order force constants", raw.compact, raw.compact.shape, where)
    largest = float(np.abs(raw.compact).max())
    if not 0 < largest <= _MAX_THIRD:
        raise DataFormatError(
            f"{where}: the largest third-order force constant is {largest:g} eV/Å³; "
            f"more than 0 and at most {_MAX_THIRD:g} is accepted. Check the units of "
            "the file."
        )
    broken = third_asymmetry(raw)
    info["removed_third_sum_rule"] = broken.acoustic_sum_rule
    info["removed_third_permutation"] = broken.permutation
    info["removed_third_share"] = broken.share
    if broken.share > options.max_third_order_asymmetry:
        raise DataFormatError(
            f"{where}: the third-order force constants break the acoustic sum rule by "
            f"{broken.acoustic_sum_rule:.3g} and permutation symmetry by "
            f"{broken.permutation:.3g} eV/Å³, a share of {broken.share:.2g} of them; "
            f"at most max_third_order_asymmetry={options.max_third_order_asymmetry:g} "
            "is accepted. The calculation is not converged or its forces are in "
            "another order: repeat it, or raise the limit."
        )
    return symmetrise_third(raw)


def check_agreement(
    dataset: Mapping[str, Any], second: ForceConstants, where: str
) -> None:
    """Check that second displacements do to forces what force constants say, nearly.

    Exchanged calculations give force constants that look well, and are wrong.

    Args:
        dataset: of pairs, eV and Å.
        second: force constants of second order of the same supercell.
        where: the file, for messages.

    Raises:
        DataFormatError: names the pair.
    """
    entries = [
        (first, pair)
        for first in dataset["first_atoms"]
        for pair in first["second_atoms"]
        # Beyond a cutoff phono3py writes zeros in place of forces.
        if "cutoff_distance" not in dataset or np.any(pair["forces"])
    ]
    moved = np.zeros((second.n_atoms, len(entries), 3))
    for number, (_, pair) in enumerate(entries):
        moved[pair["number"], number] = pair["displacement"]
    expected = -second.multiply(moved).transpose(1, 0, 2)
    n_first = len(dataset["first_atoms"])
    for number, (first, pair) in enumerate(entries):
        change = np.asarray(pair["forces"]) - first["forces"]
        rest = np.linalg.norm(change - expected[number])
        off = float(rest / max(np.linalg.norm(expected[number]), 1e-12))
        if off > _MAX_ANHARMONIC:
            raise DataFormatError(
                f"{where}: forces of displaced supercell {n_first + number + 1}, of "
                f"atoms {first['number'] + 1} and {pair['number'] + 1}, differ from "
                f"what the second-order force constants say by {off:.2g} of it; at "
                f"most {_MAX_ANHARMONIC:g} is accepted. They are those of another "
                "displacement, or that calculation failed: repeat it."
            )
