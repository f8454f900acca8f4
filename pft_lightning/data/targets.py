"""Energies, forces and stresses of a frame, under whatever name a file keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from pft_lightning import keys as fields
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import ConfigError, DataFormatError


TARGETS: Final = (fields.ENERGY, fields.FORCES, fields.STRESS)

# Names beside ASE's own calculator results, in the order they are tried: what MACE
# expects, what older MACE and NequIP files use.
_USUAL_NAMES: Final = {
    fields.ENERGY: ("REF_energy", "dft_energy", "energy"),
    fields.FORCES: ("REF_forces", "dft_forces", "forces"),
    fields.STRESS: ("REF_stress", "dft_stress", "stress"),
}
_VIRIAL_NAMES: Final = ("REF_virials", "REF_virial", "dft_virial", "virials", "virial")


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


def frame_to_record(
    atoms: Atoms, name: str, where: str, names: Mapping[str, str | None]
) -> StructureRecord:
    """Take structure and targets out of an ``ase.Atoms``; targets may be unknown.

    Args:
        atoms: with calculator results, or targets in ``info`` and ``arrays``.
        name: of the record.
        where: file and frame, for messages.
        names: of the targets, from ``check_keys``.

    Raises:
        DataFormatError: a stress has neither 6 nor 9 components.
    """
    energy = _find(atoms, fields.ENERGY, names)
    forces = _find(atoms, fields.FORCES, names)
    info: dict[str, str | float] = {"source": where}
    if "head" in atoms.info:  # as MACE's own training data name it
        info["head"] = str(atoms.info["head"])
    return StructureRecord(
        name=name,
        atomic_numbers=np.array(atoms.numbers, dtype=np.int64),
        positions=np.array(atoms.positions, dtype=np.float64),
        cell=np.array(atoms.cell[:], dtype=np.float64),
        pbc=np.array(atoms.pbc, dtype=bool),
        energy=None if energy is None else float(energy),
        forces=None if forces is None else np.array(forces, dtype=np.float64),
        stress=_stress(atoms, where, names),
        info=info,
    )


def _find(atoms: Atoms, target: str, names: Mapping[str, str | None]) -> Any:
    """Look a target up in the calculator's results, then in info and arrays."""
    wanted = names[target]
    results = {} if atoms.calc is None else atoms.calc.results
    if wanted is None and results.get(target) is not None:
        return results[target]
    for name in _USUAL_NAMES[target] if wanted is None else (wanted,):
        for place in (results, atoms.info, atoms.arrays):
            if place.get(name) is not None:
                return place[name]
    return None


def _stress(
    atoms: Atoms, where: str, names: Mapping[str, str | None]
) -> np.ndarray | None:
    """Give the stress in ASE's sign, eV/Å³, (3, 3); of a virial W it is -W / V."""
    if not atoms.pbc.all():
        # Without a volume there is no stress; some programmes write zeros.
        return None
    stored = _find(atoms, fields.STRESS, names)
    factor = 1.0
    wanted = names[fields.STRESS]
    if stored is None and wanted is None:
        found = [atoms.info[n] for n in _VIRIAL_NAMES if atoms.info.get(n) is not None]
        stored = found[0] if found else None
        factor = -1.0 / atoms.get_volume()
    elif wanted is not None and "virial" in wanted.lower():
        factor = -1.0 / atoms.get_volume()
    if stored is None:
        return None
    array = np.array(stored, dtype=np.float64)
    if array.size not in (6, 9):
        raise DataFormatError(
            f"{where}: the stress has {array.size} components; expected 6 (xx yy zz yz "
            "xz xy) or 9. Write the frame again."
        )
    full = voigt_6_to_full_3x3_stress(array.ravel()) if array.size == 6 else array
    return factor * np.asarray(full).reshape(3, 3)
