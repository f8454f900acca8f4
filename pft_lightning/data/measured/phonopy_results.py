"""What phonopy writes of phonons: band structures, meshes, thermal properties, DOS.

The crystal is that of the folder which the file lies in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from pft_lightning.data.measured.rows import (
    MAX_FREQUENCY,
    Density,
    MeasuredRows,
    Modes,
    ThermalQuantity,
    ThermalValue,
)
from pft_lightning.data.readers.values import read_integers, read_number, read_numbers
from pft_lightning.errors import DataFormatError
from pft_lightning.files import read_data
from pft_lightning.safe_yaml import load_yaml
from pft_lightning.units import THERMAL_UNITS


# Units that phonopy names in the file.
_UNITS: Final = {
    "temperature": "K",
    "free_energy": "kJ/mol",
    "entropy": "J/K/mol",
    "heat_capacity": "J/K/mol",
}

# Densities below zero that interpolation may leave, as a share of the largest.
_NEGATIVE: Final = 0.01


def read_results(path: Path) -> MeasuredRows:
    """Read band.yaml, mesh.yaml, thermal_properties.yaml or total_dos.dat.

    Args:
        path: plain or compressed.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    structure = path.absolute().parent.name
    try:
        if ".dat" in path.suffixes:
            return MeasuredRows(densities=[_density(path, structure)])
        content = load_yaml(path)
    except OSError as error:
        raise DataFormatError(
            f"{path}: cannot be read ({error.strerror or error}). Check the path."
        ) from error
    if isinstance(content, Mapping) and "thermal_properties" in content:
        return MeasuredRows(thermal=list(_thermal(content, path, structure)))
    if isinstance(content, Mapping) and "phonon" in content:
        return MeasuredRows(modes=[_modes(content, path, structure)])
    raise DataFormatError(
        f"{path}: has neither phonon nor thermal_properties in it; expected band.yaml, "
        "mesh.yaml or thermal_properties.yaml of phonopy. Was it cut off?"
    )


def _entries(content: Mapping[str, Any], name: str, path: Path) -> list[Any]:
    entries = content[name]
    if not isinstance(entries, list) or not entries:
        raise DataFormatError(
            f"{path}: {name} is {str(entries)[:60]!r}; expected a list of entries. "
            "Write the file again with phonopy."
        )
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise DataFormatError(
                f"{path}: {name}[{index}] is {str(entry)[:60]!r}; expected lines of "
                "'name: value'. Write the file again with phonopy."
            )
    return entries


def _value(entry: Mapping[str, Any], key: str, what: str, path: Path) -> Any:
    if key not in entry:
        raise DataFormatError(
            f"{path}: {what} has no {key}. It was cut off, or is of a version of "
            "phonopy that does not write it: write it again."
        )
    return entry[key]


def _modes(content: Mapping[str, Any], path: Path, structure: str) -> Modes:
    n_atoms = int(
        read_integers(_value(content, "natom", "it", path), "natom", path, ())
    )
    lattice = read_numbers(
        _value(content, "lattice", "it", path), "lattice", path, (3, 3)
    )
    q_points, frequencies = [], []
    for index, entry in enumerate(_entries(content, "phonon", path)):
        what = f"phonon[{index}]"
        q_point = _value(entry, "q-position", what, path)
        q_points.append(read_numbers(q_point, f"{what}.q-position", path, (3,)))
        bands = _entries({"band": _value(entry, "band", what, path)}, "band", path)
        found = [_value(band, "frequency", f"{what}.band", path) for band in bands]
        if len(found) != 3 * n_atoms:
            raise DataFormatError(
                f"{path}: {what} has {len(found)} frequencies; expected {3 * n_atoms} "
                f"of {n_atoms} atoms. Write the file again."
            )
        numbers = read_numbers(found, f"{what}.frequency", path, (3 * n_atoms,))
        if np.abs(numbers).max() > MAX_FREQUENCY:
            raise DataFormatError(
                f"{path}: {what} has a frequency of {np.abs(numbers).max():g}; at most "
                f"{MAX_FREQUENCY:g} THz is accepted. Write it in THz, phonopy's unit."
            )
        frequencies.append(np.sort(numbers))
    return Modes(
        structure,
        lattice,
        n_atoms,
        np.array(q_points),
        np.array(frequencies),
        str(path),
        on_mesh="mesh" in content,
    )


def _thermal(
    content: Mapping[str, Any], path: Path, structure: str
) -> Iterator[ThermalValue]:
    units = content.get("unit")
    for name, expected in _UNITS.items():
        found = units.get(name) if isinstance(units, Mapping) else None
        if found != expected:
            raise DataFormatError(
                f"{path}: the unit of {name} is {found!r}; expected {expected}, as "
                "phonopy writes it. Convert the values."
            )
    per_cell: dict[ThermalQuantity, Any] = {
        quantity: next(iter(THERMAL_UNITS[quantity].values()))
        for quantity in get_args(ThermalQuantity)
    }
    for index, entry in enumerate(_entries(content, "thermal_properties", path)):
        what = f"thermal_properties[{index}]"
        temperature = read_number(
            _value(entry, "temperature", what, path), f"{what}.temperature", path
        )
        if temperature == 0:
            continue  # known without any calculation, but for energies at rest
        if temperature < 0:
            raise DataFormatError(
                f"{path}: {what}.temperature is {temperature:g} K; expected at least "
                "0. Correct the file."
            )
        for quantity, unit in per_cell.items():
            value = _value(entry, quantity, what, path)
            yield ThermalValue(
                structure=structure,
                quantity=quantity,
                temperature=temperature,
                value=read_number(value, f"{what}.{quantity}", path),
                uncertainty=None,
                unit=unit,
                where=f"{path}, {what}",
            )


def _density(path: Path, structure: str) -> Density:
    lines = read_data(path).decode("utf-8", errors="replace").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            row = [float(word) for word in words]
        except ValueError:
            row = []
        if len(row) != 2 or not np.isfinite(row).all() or abs(row[0]) > MAX_FREQUENCY:
            raise DataFormatError(
                f"{path}, line {number}: is {line.strip()[:60]!r}; expected a "
                f"frequency of at most {MAX_FREQUENCY:g} THz and a density, as phonopy "
                "writes total_dos.dat. Correct the line."
            )
        rows.append(row)
    points, values = np.array(rows).reshape(-1, 2).T
    if len(points) < 2 or (np.diff(points) <= 0).any():
        raise DataFormatError(
            f"{path}: has {len(points)} frequencies that do not all rise; expected two "
            "and more in ascending order. Write the file again."
        )
    largest = values.max()
    if largest <= 0 or values.min() < -_NEGATIVE * largest:
        raise DataFormatError(
            f"{path}: densities go from {values.min():g} to {largest:g}; expected none "
            "below 0. Write the file again."
        )
    return Density(structure, points, values.clip(min=0), str(path))
