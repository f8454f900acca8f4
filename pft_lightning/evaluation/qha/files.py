"""Curves of a quasi-harmonic calculation in the files of ``phonopy-qha``.

Each line of a file has a temperature in K and a value:

===============================  =================================================
``thermal_expansion.dat``        of the volume, 1/K
``volume-temperature.dat``       Å³
``bulk_modulus-temperature.dat`` GPa
``Cp-temperature_polyfit.dat``   J/K/mol; ``Cp-temperature.dat`` is read as well
``gibbs-temperature.dat``        eV
``gruneisen-temperature.dat``    α_V B V / C_V
===============================  =================================================

``e-v.dat`` has volumes and energies without phonons.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from pft_lightning.evaluation.qha.fit import QuasiHarmonic
from pft_lightning.evaluation.qha.volumes import VolumePoint
from pft_lightning.files import make_folder, write_atomically


_FIELDS: Final = {
    "thermal_expansion.dat": "thermal_expansion",
    "volume-temperature.dat": "volume",
    "bulk_modulus-temperature.dat": "bulk_modulus",
    "Cp-temperature_polyfit.dat": "heat_capacity_p",
    "gibbs-temperature.dat": "gibbs",
    "gruneisen-temperature.dat": "gruneisen",
}


def write_curves(
    folder: Path, found: QuasiHarmonic, points: Sequence[VolumePoint]
) -> None:
    """Write all curves of a crystal.

    Args:
        folder: is made if need be.
        found: of the crystal.
        points: its volumes.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    make_folder(folder)
    for name, field in _FIELDS.items():
        values = getattr(found, field)
        known = np.isfinite(values)
        _write(folder / name, found.temperatures[known], values[known])
    used = [point for point in points if not point.problem]
    volumes, energies = zip(*((p.volume, p.energy) for p in used), strict=True)
    _write(folder / "e-v.dat", np.array(volumes), np.array(energies))


def _write(path: Path, first: np.ndarray, second: np.ndarray) -> None:
    lines = (f"{a:25.15f} {b:25.15f}\n" for a, b in zip(first, second, strict=True))
    text = "".join(lines)
    write_atomically(path, lambda file: file.write(text.encode()))
