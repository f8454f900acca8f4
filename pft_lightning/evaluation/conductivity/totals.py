"""Means of the scores of many materials, in all and by type of structure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pft_lightning.evaluation.summary import mean_and_median


# Columns of a row, beside those of every evaluation (``evaluation.folder``).
KAPPA: Final = "kappa"
REFERENCE_KAPPA: Final = "reference_kappa"
SRD: Final = "srd"
SRE: Final = "sre"
SRME: Final = "srme"
REFERENCE_NAME: Final = "reference_name"
OUTCOME: Final = "outcome"
REASON: Final = "reason"
STRUCTURE_TYPE: Final = "structure_type"

# Values of OUTCOME.
COMPUTED: Final = "computed"
IMAGINARY: Final = "imaginary"
BROKEN: Final = "broken symmetry"
FAILED: Final = "failed"
OUTCOMES: Final = (COMPUTED, IMAGINARY, BROKEN, FAILED)

# Space group of a binary crystal of as many cations as anions -> its name.
_TYPES: Final = {
    186: "wurtzite",
    216: "zincblende",
    221: "caesium chloride",
    225: "rocksalt",
}


def structure_type(space_group: int, counts: Sequence[int]) -> str:
    """Name a type of structure.

    Args:
        space_group: number.
        counts: of the atoms of each element.

    >>> structure_type(225, [4, 4]), structure_type(225, [4, 8])
    ('rocksalt', 'space group 225')
    """
    if len(counts) == 2 and counts[0] == counts[1] and space_group in _TYPES:
        return _TYPES[space_group]
    return f"space group {space_group}"


def summarise(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of a model over the materials that have a reference.

    A material on which it failed counts with the worst scores, so that no model gains
    by failing on what is difficult.

    Args:
        rows: of one model; SRE, SRME and SRD are None where there is no reference.

    Returns:
        ``srme``, ``sre`` and ``srd``, each with ``mean``, ``median`` and ``n``;
        ``outcomes``, how many ended in which way; rates of ``imaginary``,
        ``broken_symmetry`` and ``failed`` materials among all; ``by_structure`` with
        the same for each type of structure.
    """
    rows = list(rows)
    found = _summarise(rows)
    types = sorted({row[STRUCTURE_TYPE] for row in rows if row.get(STRUCTURE_TYPE)})
    found["by_structure"] = {
        name: _summarise([row for row in rows if row.get(STRUCTURE_TYPE) == name])
        for name in types
    }
    return found


def _summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    outcomes = Counter(row[OUTCOME] for row in rows)
    share = {name: outcomes[name] / len(rows) if rows else None for name in OUTCOMES}
    return {
        **{
            name: mean_and_median(row.get(name) for row in rows)
            for name in (SRME, SRE, SRD)
        },
        "outcomes": {name: outcomes[name] for name in OUTCOMES},
        "imaginary": share[IMAGINARY],
        "broken_symmetry": share[BROKEN],
        "failed": share[FAILED],
    }
