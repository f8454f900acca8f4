"""One crystal at several volumes: at most one of them is free of stress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import spglib
from ase.data import chemical_symbols

from pft_lightning.data.records import StructureRecord
from pft_lightning.symmetry import search


# Volumes that differ by more are not those of one relaxation.
_SAME_VOLUME: Final = 0.003

# Relative difference of lengths, after scaling to one volume, within which two cells
# are one crystal under another pressure.
_SAME_SHAPE: Final = 0.05


def describe_crystal(record: StructureRecord) -> dict[str, Any] | None:
    """Say which crystal a relaxed structure is, apart from its volume.

    Returns:
        Space group with the elements of its sites; volume in Å³ per atom; and lengths
        of its standard cell. None where the stress is not said to vanish.
    """
    cells = record.cells
    if cells is None or record.stress is None or record.stress.any():
        return None
    found = search(
        spglib.get_symmetry_dataset,
        (cells.cell, cells.scaled_positions, cells.atomic_numbers),
        max(cells.symprec, 1e-5),
    )
    if found is None:
        return None
    sites = {
        f"{chemical_symbols[number]}{letter}"
        for number, letter in zip(cells.atomic_numbers, found.wyckoffs, strict=True)
    }
    lengths = np.linalg.norm(found.std_lattice, axis=1)
    volume = abs(float(np.linalg.det(found.std_lattice)))
    n_atoms = len(found.std_types)
    return {
        "kind": f"{found.international} {n_atoms} {' '.join(sorted(sites))}",
        "volume": volume / n_atoms,
        "lengths": (lengths / np.cbrt(volume)).round(4).tolist(),
    }


def volume_warnings(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Name the structures that are one crystal at several volumes.

    Args:
        entries: with ``name`` and ``crystal``, which ``describe_crystal`` gave.
    """
    groups: dict[str, list[list[Mapping[str, Any]]]] = {}
    for entry in entries:
        crystal = entry.get("crystal")
        if crystal is None:
            continue
        groups_of_kind = groups.setdefault(crystal["kind"], [])
        for group in groups_of_kind:
            if _same_shape(group[0]["crystal"], crystal):
                group.append(entry)
                break
        else:
            groups_of_kind.append([entry])
    warnings = []
    for group in (found for kind in groups.values() for found in kind):
        volumes = [entry["crystal"]["volume"] for entry in group]
        if max(volumes) > (1.0 + _SAME_VOLUME) * min(volumes):
            listed = ", ".join(
                f"{entry['name']} ({entry['crystal']['volume']:.4g} Å³ per atom)"
                for entry in group
            )
            warnings.append(
                f"one crystal at several volumes: {listed}. At most one of them is "
                "free of stress, but relaxed=full labels the stress of all as zero. "
                "Give options.relaxed=positions (pft-prepare), which leaves their "
                "stress out; where pft-train reads the files, "
                "data.phonons.options.relaxed."
            )
    return warnings


def _same_shape(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    ratio = np.divide(first["lengths"], second["lengths"])
    return bool(np.abs(ratio - 1.0).max() < _SAME_SHAPE)
