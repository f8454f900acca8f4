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

from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation.qha.columns import (
    BULK,
    EXPANSION,
    GIBBS,
    GRUNEISEN_QHA,
    HEAT_CAPACITY_P,
    VOLUME,
)
from pft_lightning.evaluation.qha.fit import QuasiHarmonic
from pft_lightning.evaluation.qha.volumes import VolumePoint
from pft_lightning.evaluation.reference import file_name
from pft_lightning.files import make_folder, read_data, write_atomically


# What a folder may hold -> column; of two of one column the first counts.
FILES: Final = {
    "thermal_expansion.dat": EXPANSION,
    "volume-temperature.dat": VOLUME,
    "bulk_modulus-temperature.dat": BULK,
    "Cp-temperature_polyfit.dat": HEAT_CAPACITY_P,
    "Cp-temperature.dat": HEAT_CAPACITY_P,
    "gibbs-temperature.dat": GIBBS,
    "gruneisen-temperature.dat": GRUNEISEN_QHA,
}
_FIELDS: Final = {
    "thermal_expansion.dat": "thermal_expansion",
    "volume-temperature.dat": "volume",
    "bulk_modulus-temperature.dat": "bulk_modulus",
    "Cp-temperature_polyfit.dat": "heat_capacity_p",
    "gibbs-temperature.dat": "gibbs",
    "gruneisen-temperature.dat": "gruneisen",
}

# Column -> temperatures, K, and values.
Curves = dict[str, tuple[np.ndarray, np.ndarray]]

_MAX_BYTES: Final = 1 << 24
# How far a volume may be from that of whole primitive cells.
_MISMATCH: Final = 0.2


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


def read_references(path: str | Path) -> dict[str, Curves]:
    """Read the curves of all materials of a folder.

    Args:
        path: folder with a folder of files for each material, or with the files of
            one, which then stand under the empty name.

    Raises:
        DataFormatError: there is no such folder, none of the files, or one that holds
            something else.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataFormatError(
            f"{folder}: is no folder. Give one with the files of phonopy-qha "
            f"({', '.join(FILES)}), or with such a folder for each material, named as "
            "the material."
        )
    own = _read_folder(folder)
    if own:
        return {"": own}
    found = {
        file_name(child.name): curves
        for child in sorted(folder.iterdir())
        if child.is_dir() and (curves := _read_folder(child))
    }
    if not found:
        raise DataFormatError(
            f"{folder}: neither it nor a folder in it has one of the files of "
            f"phonopy-qha ({', '.join(FILES)})."
        )
    return found


def _read_folder(folder: Path) -> Curves:
    found: Curves = {}
    for name, column in FILES.items():
        if (folder / name).is_file() and column not in found:
            found[column] = _read(folder / name)
    return found


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Temperatures, ascending, and values."""
    try:
        lines = read_data(path, max_bytes=_MAX_BYTES).decode().splitlines()
        rows = [line.split() for line in lines if line.strip() and line[0] != "#"]
        table = np.array([[float(entry) for entry in row] for row in rows])
    except (OSError, ValueError) as error:
        raise DataFormatError(
            f"{path}: cannot be read as numbers ({error}); expected lines of a "
            "temperature in K and a value, as phonopy-qha writes them."
        ) from error
    if table.ndim != 2 or table.shape[1] < 2 or len(table) < 2:
        raise DataFormatError(
            f"{path}: is of shape {table.shape}; expected at least two lines of a "
            "temperature in K and a value, as phonopy-qha writes them."
        )
    temperatures, values = table[:, 0], table[:, 1]
    if not np.isfinite(table).all() or not (np.diff(temperatures) > 0).all():
        raise DataFormatError(
            f"{path}: temperatures do not ascend, or a number is not finite. Write it "
            "again with phonopy-qha."
        )
    return temperatures, values


def per_primitive_cell(curves: Curves, found: QuasiHarmonic, name: str) -> Curves:
    """Bring a reference to primitive cells, as its volume says.

    Args:
        curves: of the reference, of any cell of the crystal.
        found: of a model, per primitive cell.
        name: of the material, for the message.

    Raises:
        DataFormatError: the volume is not that of whole primitive cells.
    """
    if VOLUME not in curves:
        return curves
    temperatures, volumes = curves[VOLUME]
    ours = np.interp(temperatures, found.temperatures, found.volume)
    ratio = float(np.median(volumes / ours))
    n_cells = round(ratio)
    if n_cells < 1 or abs(ratio / n_cells - 1) > _MISMATCH:
        raise DataFormatError(
            f"the reference of {name} has {ratio:.3g} times the volume of the model's "
            "primitive cell; expected that of one or of several cells. Is it another "
            "crystal?"
        )
    scaled = {
        column: (t, values / n_cells)
        for column, (t, values) in curves.items()
        if column in (VOLUME, HEAT_CAPACITY_P, GIBBS)
    }
    return {**curves, **scaled}
