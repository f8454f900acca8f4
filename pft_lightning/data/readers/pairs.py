"""Displacements of phono3py: pairs of atoms, or all atoms at once, and their forces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase.geometry import find_mic

from pft_lightning.data.readers.force_files import (
    check_displacements,
    force_rows,
    read_displaced_forces,
    read_force_sets,
)
from pft_lightning.data.readers.poscar import read_text
from pft_lightning.data.readers.values import (
    read_integers,
    read_mapping,
    read_number,
    read_numbers,
)
from pft_lightning.errors import DataFormatError
from pft_lightning.units import UnitSystem


_PAIRS: Final = "displacement_pairs"

# Distances, in the file's unit of length, that are those of one shell of neighbours.
_SAME_DISTANCE: Final = 1e-3

# How near an atom is to where it was, unit of the file.
_SAME_PLACE: Final = 1e-5


def third_order_content(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Leave of a phono3py file what is of third order.

    Raises:
        DataFormatError: nothing is.
    """
    if "phono3py" not in content and _PAIRS not in content:
        raise DataFormatError(
            f"{path}: holds nothing of third order. Give phono3py_params.yaml, or a "
            "folder with phono3py_disp.yaml and FORCES_FC3."
        )
    found = {
        key: value for key, value in content.items() if not key.startswith("phonon_")
    }
    if found.get(_PAIRS):
        # Of second order, as they were called before version 2.2.
        found.pop("displacements", None)
        found.pop("dataset", None)
    return found


def add_pairs(dataset: dict[str, Any], content: Mapping[str, Any], path: Path) -> None:
    """Add to each displacement of a data set those of second atoms.

    Args:
        dataset: of the first displacements, of phonopy's type 1; changed.
        content: of the yaml file, of third order.
        path: the file, for messages.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    for number, (first, entry) in enumerate(
        zip(dataset["first_atoms"], content[_PAIRS], strict=True)
    ):
        what = f"{_PAIRS}[{number}].paired_with"
        pairs = entry.get("paired_with", entry.get("second_atoms"))
        if not isinstance(pairs, list):
            raise DataFormatError(
                f"{path}: {what} is no list, so displacement {number + 1} has no "
                "second atoms. The file was truncated or changed: write it again."
            )
        first["second_atoms"] = [
            second
            for index, pair in enumerate(pairs)
            for second in _parse_pair(pair, f"{what}[{index}]", path)
        ]
    info = content.get("displacement_pair_info")
    cutoff = info.get("cutoff_pair_distance") if isinstance(info, dict) else None
    if cutoff is not None:
        dataset["cutoff_distance"] = read_number(cutoff, "cutoff_pair_distance", path)


def _parse_pair(pair: Any, what: str, path: Path) -> Iterator[dict[str, Any]]:
    """Give the displacements of one second atom."""
    pair = read_mapping(pair, what, path)
    common: dict[str, Any] = {
        "number": int(read_integers(pair.get("atom"), f"{what}.atom", path, ())) - 1
    }
    if "pair_distance" in pair:
        common["pair_distance"] = read_number(pair["pair_distance"], what, path)
    if "included" in pair:
        common["included"] = bool(pair["included"])
    if pair.get("displacements") is not None:  # as phono3py -d writes them
        for moved in read_numbers(
            pair["displacements"], f"{what}.displacements", path, (None, 3)
        ):
            yield {**common, "displacement": moved}
        return
    common["displacement"] = read_numbers(
        pair.get("displacement"), f"{what}.displacement", path, (3,)
    )
    if pair.get("forces") is not None:
        common["forces"] = read_numbers(
            pair["forces"], f"{what}.forces", path, (None, 3)
        )
    yield common


def displaced(dataset: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List all calculations of a data set with pairs, in the order of phono3py."""
    first_atoms = dataset["first_atoms"]
    pairs = [second for first in first_atoms for second in first["second_atoms"]]
    return [*first_atoms, *pairs]


def has_forces(dataset: Mapping[str, Any] | None) -> bool:
    """Tell whether forces are in a data set, be they complete or not."""
    if dataset is None:
        return False
    if "first_atoms" not in dataset:
        return "forces" in dataset
    return any("forces" in entry for entry in displaced(dataset))


def read_fc3_forces(
    file: Path, dataset: Mapping[str, Any] | None, phonon: Any
) -> dict[str, Any]:
    """Read FORCES_FC3: forces of all calculations of a data set, one after the other.

    Args:
        file: plain or compressed.
        dataset: with the displacements of the yaml file beside it, or None where the
            file has its own (displacements of all atoms).
        phonon: ``Phonopy`` object of the supercell of third order.

    Returns:
        phono3py's data set with forces.

    Raises:
        DataFormatError: damaged, or of another calculation.
    """
    text = read_text(file)
    rows = force_rows(text)
    if rows and len(rows[0]) == 6:
        return read_force_sets(file, phonon)
    if dataset is None or "first_atoms" not in dataset:
        raise DataFormatError(
            f"{file}: has forces without displacements, and the yaml file beside it "
            "lists no pairs. Give the phono3py_disp.yaml that they were made with."
        )
    entries, n_atoms = displaced(dataset), len(phonon.supercell)
    if len(rows) != len(entries) * n_atoms:
        raise DataFormatError(
            f"{file}: has forces in {len(rows)} lines; {len(entries)} displaced "
            f"supercells of {n_atoms} atoms need {len(entries) * n_atoms}. Forces are "
            "missing or belong to another calculation: make the file again with "
            "phono3py --cf3."
        )
    forces = read_displaced_forces(file, rows, n_atoms)
    for entry, found in zip(entries, forces, strict=True):
        entry["forces"] = found
    # "# 1  0.03 0.0 0.0" says which atom was displaced, and by how much; both do of a
    # pair.
    comments = [line.split() for line in text.splitlines() if line.startswith("#")]
    told = [words[1:] for words in comments if len(words) == 5]
    groups = [[first] for first in dataset["first_atoms"]]
    groups += [
        [first, second]
        for first in dataset["first_atoms"]
        for second in first["second_atoms"]
    ]
    expected = np.array(
        [
            [entry["number"] + 1, *entry["displacement"]]
            for group in groups
            for entry in group
        ]
    )
    if len(told) == len(expected):
        check_displacements(file, np.array(told, dtype=np.float64), expected)
    return dict(dataset)


def infer_cutoff(dataset: dict[str, Any], supercell: Any, where: str) -> None:
    """Find the cutoff of pairs whose forces are all zero.

    phono3py writes zeros in place of forces beyond a cutoff of the pair distance. Where
    no file names the cutoff, its solver takes them for forces, and permutation symmetry
    halves what it should leave out.

    Args:
        dataset: of pairs with forces; gets ``cutoff_distance``.
        supercell: ``PhonopyAtoms``, in the same unit of length.
        where: the file, for messages.

    Raises:
        DataFormatError: there are zeros, and no distance that they begin at.
    """
    if "cutoff_distance" in dataset:
        return
    cell = np.asarray(supercell.cell)
    known: dict[bool, list[float]] = {True: [], False: []}
    for first in dataset["first_atoms"]:
        start = supercell.positions[first["number"]]
        for pair in first["second_atoms"]:
            if _moves_back(first, pair):
                continue  # Its forces are zero, wherever the cutoff is.
            difference = supercell.positions[pair["number"]] - start
            distance = find_mic(difference, cell)[1]
            known[bool(np.any(pair["forces"]))].append(float(distance))
    if not known[False]:
        return
    inner, outer = max(known[True], default=0.0), min(known[False])
    if inner >= outer - _SAME_DISTANCE:
        raise DataFormatError(
            f"{where}: the forces of {len(known[False])} pairs are all zero, that of a "
            f"pair {outer:.4g} apart among them, while one {inner:.4g} apart has "
            "forces. They are missing: run these calculations."
        )
    dataset["cutoff_distance"] = (inner + outer) / 2


def _moves_back(first: Mapping[str, Any], pair: Mapping[str, Any]) -> bool:
    """Tell whether the second displacement undoes the first."""
    if first["number"] != pair["number"]:
        return False
    total = np.add(first["displacement"], pair["displacement"])
    return bool(np.allclose(total, 0.0, rtol=0, atol=_SAME_PLACE))


def to_ev_and_angstrom(dataset: Mapping[str, Any], units: UnitSystem) -> dict[str, Any]:
    """Convert a data set with forces into eV and Å, in a copy."""
    factors = {
        "displacement": units.length,
        "displacements": units.length,
        "pair_distance": units.length,
        "cutoff_distance": units.length,
        "forces": units.force,
    }
    found: dict[str, Any] = {}
    for name, value in dataset.items():
        if name in ("first_atoms", "second_atoms"):
            found[name] = [to_ev_and_angstrom(entry, units) for entry in value]
        else:
            found[name] = value * factors[name] if name in factors else value
    return found
