"""Energies, forces and stresses of a frame, under whatever name a file keeps them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from pft_lightning import keys as fields
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import ConfigError, DataFormatError


TARGETS: Final = (fields.ENERGY, fields.FORCES, fields.STRESS)

# Names of reference values, in the order they are tried: what MACE expects, what older
# MACE and NequIP files use, and what ASE reads as results of a calculator. Where there
# are several, the last may be those of the sampler that made the structure.
_USUAL_NAMES: Final = {
    fields.ENERGY: ("REF_energy", "dft_energy", "energy"),
    fields.FORCES: ("REF_forces", "dft_forces", "forces"),
    fields.STRESS: ("REF_stress", "dft_stress", "stress"),
}
_VIRIAL_NAMES: Final = ("REF_virials", "REF_virial", "dft_virial", "virials", "virial")

# Values of one quantity that differ by less are the same, written with other digits;
# eV, eV/Å and eV/Å³, and relative.
_SAME: Final = 1e-5

# Weight of a frame in the loss, and of one of its targets, as MACE reads them.
FRAME_WEIGHT: Final = "config_weight"
_TARGET_WEIGHT: Final = "config_{}_weight"

_UNITS: Final = {fields.ENERGY: "eV", fields.FORCES: "eV/Å", fields.STRESS: "eV/Å³"}


class Remarks:
    """What is worth knowing about frames that are used, counted by kind."""

    def __init__(self) -> None:
        self._found: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, where: str) -> None:
        """Note one more frame of a kind."""
        self._found[kind].append(where)

    def extend(self, other: Remarks) -> None:
        """Take in what was noticed elsewhere."""
        for kind, places in other._found.items():
            self._found[kind] += places

    def __bool__(self) -> bool:
        """Whether anything was noticed."""
        return bool(self._found)

    def lines(self) -> Iterator[str]:
        """One line per kind: how many frames, what, and which are the first."""
        for kind, places in self._found.items():
            more = ", ..." if len(places) > 3 else ""
            yield f"{len(places)} frames: {kind} ({', '.join(places[:3])}{more})"


def check_keys(names: Mapping[str, str | None]) -> dict[str, str | None]:
    """Complete the names of targets in files; None means ASE's and the usual ones.

    Raises:
        ConfigError: a target is unknown.
    """
    unknown = sorted(set(names) - set(TARGETS))
    if unknown:
        raise ConfigError(
            f"keys names {unknown[0]!r}; accepted targets: {', '.join(TARGETS)}."
        )
    return {target: names.get(target) for target in TARGETS}


def is_isolated_atom(atoms: Atoms) -> bool:
    """Tell whether a frame gives the energy of a free atom, as MACE marks it.

    Such a frame defines the zero of energies and is no structure to train on.
    """
    kind = re.sub(r"[^a-z]", "", str(atoms.info.get("config_type", "")).lower())
    return len(atoms) == 1 and kind == "isolatedatom"


def frame_to_record(
    atoms: Atoms,
    name: str,
    where: str,
    names: Mapping[str, str | None],
    remarks: Remarks,
) -> StructureRecord:
    """Take structure and targets out of an ``ase.Atoms``; targets may be unknown.

    A target whose weight is zero, and a stress that is not finite, are unknown.

    Args:
        atoms: with calculator results, or targets in ``info`` and ``arrays``.
        name: of the record.
        where: file and frame, for messages.
        names: of the targets, from ``check_keys``.
        remarks: gets what was noticed.

    Raises:
        DataFormatError: a stress has neither 6 nor 9 components, a weight is no
            number of at least 0, or all weights are 0.
    """
    found: dict[str, Any] = {}
    weights: dict[str, float] = {}
    for target in TARGETS:
        candidates = list(_candidates(atoms, target, where, names[target]))
        source, value = candidates[0] if candidates else (target, None)
        _compare(target, candidates, name, remarks)
        weights[target] = target_weight(atoms, target, source, where)
        if value is not None:
            found[target] = value
    # Frames without any target are those whose names nobody told us.
    if not any(weights[target] for target in found or TARGETS):
        raise DataFormatError(
            f"{where}: its weights are 0 ({FRAME_WEIGHT}, "
            f"{_TARGET_WEIGHT.format('energy')} and the like), so nothing of it counts."
        )
    for target in [target for target in found if weights[target] == 0]:
        remarks.add(f"{target} of weight 0, taken as unknown", name)
        del found[target]
    stress = found.get(fields.STRESS)
    if stress is not None and not np.isfinite(stress).all():
        remarks.add("the stress is not finite, taken as unknown", name)
        stress = None
    info: dict[str, str | float] = {"source": where}
    if "head" in atoms.info:  # as MACE's own training data name it
        info["head"] = str(atoms.info["head"])
    return replace(
        structure_record(atoms, name),
        energy=found.get(fields.ENERGY),
        forces=found.get(fields.FORCES),
        stress=stress,
        weights=tuple(weights.values()),
        info=info,
    )


def structure_record(atoms: Atoms, name: str) -> StructureRecord:
    """Take the structure alone out of an ``ase.Atoms``."""
    return StructureRecord(
        name=name,
        atomic_numbers=np.array(atoms.numbers, dtype=np.int64),
        positions=np.array(atoms.positions, dtype=np.float64),
        cell=np.array(atoms.cell[:], dtype=np.float64),
        pbc=np.array(atoms.pbc, dtype=bool),
    )


def without_weights(atoms: Atoms) -> Atoms:
    """Copy a structure without the weights of its reference values."""
    bare = atoms.copy()
    bare.calc = atoms.calc
    for key in list(bare.info):
        if _is_weight(key):
            del bare.info[key]
    return bare


def _is_weight(key: str) -> bool:
    return key.startswith("config_") and key.endswith("_weight")


def without_targets(atoms: Atoms) -> Atoms:
    """Copy a structure without reference values and their weights.

    What else is in ``info`` and ``arrays`` stays.
    """
    bare = atoms.copy()
    labels = {*_VIRIAL_NAMES, *(n for names in _USUAL_NAMES.values() for n in names)}
    for key in list(bare.info):
        if key in labels or _is_weight(key):
            del bare.info[key]
    for key in labels & set(bare.arrays):
        del bare.arrays[key]
    return bare


def _candidates(
    atoms: Atoms, target: str, where: str, wanted: str | None
) -> Iterator[tuple[str, Any]]:
    """Give names and values of all places that hold a target, the preferred first."""
    if target == fields.STRESS and not atoms.pbc.all():
        # Without a volume there is no stress; some programmes write zeros.
        return
    names: tuple[str, ...] = _USUAL_NAMES[target] if wanted is None else (wanted,)
    if target == fields.STRESS and wanted is None:
        names += _VIRIAL_NAMES
    results = {} if atoms.calc is None else atoms.calc.results
    for name in names:
        for place in (results, atoms.info, atoms.arrays):
            value = place.get(name)
            if value is None:
                continue
            numbers = _numbers(value, name, where)
            if target == fields.STRESS:
                yield name, _stress(numbers, name, atoms, where)
            elif target == fields.FORCES:
                yield name, numbers
            elif numbers.size == 1:
                yield name, numbers.item()
            else:
                raise DataFormatError(
                    f"{where}: {name} holds {numbers.size} numbers; one is needed. "
                    "Write the frame again."
                )


def _numbers(value: Any, name: str, where: str) -> np.ndarray:
    """Give numbers as float64; a T is no 1, as it would be for numpy."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise DataFormatError(
            f"{where}: {name} is {str(value)[:40]!r}; a number is needed. Write the "
            "frame again."
        )
    return array.astype(np.float64)


def _compare(
    target: str, candidates: list[tuple[str, Any]], frame: str, remarks: Remarks
) -> None:
    """Note where a frame holds several values of one target that are not the same."""
    for name, value in candidates[1:]:
        taken, first = candidates[0]
        same_shape = np.shape(value) == np.shape(first)
        if same_shape and np.allclose(
            value, first, rtol=_SAME, atol=_SAME, equal_nan=True
        ):
            continue
        by = f" by {np.abs(value - first).max():.3g} {_UNITS[target]}"
        remarks.add(
            f"{target} under {taken} and, with other values, under {name}: {taken} is "
            f"taken, as MACE does; say which is right with {target}_key",
            frame + (by if same_shape else ""),
        )


def target_weight(atoms: Atoms, target: str, source: str, where: str) -> float:
    """Weight of a target in the loss: of its frame times its own.

    Args:
        atoms: the frame.
        target: one of ``TARGETS``.
        source: name that the target has in the frame.
        where: for messages.

    Raises:
        DataFormatError: a weight is no number of at least 0.
    """
    own = _TARGET_WEIGHT.format(target)
    if "virial" in source.lower() and _TARGET_WEIGHT.format("virials") in atoms.info:
        own = _TARGET_WEIGHT.format("virials")
    product = 1.0
    for name in (FRAME_WEIGHT, own):
        value = atoms.info.get(name, 1.0)
        try:
            weight = float(value)
        except (TypeError, ValueError):
            weight = float("nan")
        if not 0 <= weight < float("inf"):
            raise DataFormatError(
                f"{where}: {name} is {value}; a number of at least 0 is needed, "
                "what the errors of the frame count by. Write the frame again."
            )
        product *= weight
    return product


def _stress(array: np.ndarray, name: str, atoms: Atoms, where: str) -> np.ndarray:
    """Give the stress in ASE's sign, eV/Å³, (3, 3); of a virial W it is -W / V."""
    if array.size not in (6, 9):
        raise DataFormatError(
            f"{where}: the stress has {array.size} components; expected 6 (xx yy zz yz "
            "xz xy) or 9. Write the frame again."
        )
    full = voigt_6_to_full_3x3_stress(array.ravel()) if array.size == 6 else array
    factor = -1.0 / atoms.get_volume() if "virial" in name.lower() else 1.0
    return factor * np.asarray(full).reshape(3, 3)
