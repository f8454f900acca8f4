"""Reader of phonopy yaml files: plain, .xz, .bz2, .gz, .lzma."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from phonopy import Phonopy
from phonopy.interface.phonopy_yaml import PhonopyYamlData, load_phonopy_yaml

from pft_lightning.data.readers.assemble import build_record
from pft_lightning.data.readers.options import PhononReadOptions, reading
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import DataFormatError
from pft_lightning.files import COMPRESSED
from pft_lightning.safe_yaml import load_yaml
from pft_lightning.units import (
    UnitSystem,
    calculator_from_frequency_factor,
    calculator_from_unit_names,
    has_unit_names,
    unit_system,
)


SUFFIXES = tuple(
    kind + packed for kind in (".yaml", ".yml") for packed in ("", *COMPRESSED)
)

# Names that phonopy gives to any material: the folder then says which one it is.
_GENERIC = ("phonopy", "phonopy_params", "phonopy_disp", "phonon", "phonopy_fc")


def material_name(path: Path) -> str:
    """Name a material by its file, or by its folder where the file's name is generic.

    >>> material_name(Path("a/mp-149.yaml.xz")), material_name(Path("Si/phonopy.yaml"))
    ('mp-149', 'Si')
    """
    stem = path.name
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    if stem in _GENERIC:
        return path.absolute().parent.name or stem
    return stem


def read_yaml(path: Path, options: PhononReadOptions) -> StructureRecord:
    """Read one phonopy yaml file with force constants or displacements and forces.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    with reading(path):
        content = load_content(path)
        units, units_from = find_units(content, path, options)
        phonon, data = build_phonopy(content, units, path, options)
        return build_record(
            phonon,
            path=path,
            name=material_name(path),
            units=units,
            units_from=units_from,
            options=options,
            energy=_unit_cell_energy(content),
            nac_params=data.nac_params,
        )


def load_content(path: Path) -> dict[str, Any]:
    """Load the yaml of a phonopy file.

    Raises:
        DataFormatError: the file is no phonopy yaml.
    """
    content = load_yaml(path)
    if not isinstance(content, dict) or not (
        "unit_cell" in content or "lattice" in content
    ):
        raise DataFormatError(
            f"{path}: no unit cell is in it, so this is not a phonopy.yaml-like file. "
            "Give phonopy_params.yaml or another file that phonopy.load reads."
        )
    return content


def find_units(
    content: dict[str, Any], path: Path, options: PhononReadOptions
) -> tuple[UnitSystem, str]:
    """Find the units of a phonopy yaml file and what tells them.

    In this order: the calculator it names, its ``physical_unit`` block, its factor
    from force constants to THz, ``options.units``.

    Raises:
        DataFormatError: nothing tells the units, or two things contradict.
    """
    told = _told_units(content, path)
    if told is None:
        if options.units is None:
            raise DataFormatError(
                f"{path}: the units are absent (no calculator, physical_unit.length or "
                "frequency_unit_conversion_factor). Say them, e.g. units=vasp for eV "
                "and Å or units=qe for Ry and bohr, or add 'calculator: ...' to the "
                "phonopy block of the file."
            )
        return unit_system(options.units), "option units"
    units = unit_system(told[0])
    if options.units is not None:
        wanted = unit_system(options.units)
        if wanted.description != units.description:
            raise DataFormatError(
                f"{path}: the file's units are {units.description} ({told[1]}), but "
                f"units={options.units} was given ({wanted.description}). Leave the "
                "option out, or read this file separately."
            )
    return units, told[1]


def build_phonopy(
    content: dict[str, Any],
    units: UnitSystem,
    path: Path,
    options: PhononReadOptions,
) -> tuple[Phonopy, PhonopyYamlData]:
    """Build the ``Phonopy`` object of a yaml file, in the file's own units.

    ``phonopy.load`` is not used, since it also takes FORCE_SETS, FORCE_CONSTANTS and
    BORN from whatever folder the process happens to run in.

    Raises:
        DataFormatError: the force constants do not fit the cells.
    """
    without_units = {k: v for k, v in content.items() if k != "physical_unit"}
    data = load_phonopy_yaml(without_units, calculator=units.calculator)
    if data.unitcell is None:
        raise DataFormatError(f"{path}: the unit cell cannot be read; write it again.")
    matrix = np.eye(3, dtype=int)
    if data.supercell_matrix is not None:
        matrix = np.asarray(data.supercell_matrix)
    primitive_matrix: Any = data.primitive_matrix
    phonon = make_phonopy(
        data.unitcell, matrix, primitive_matrix, units.calculator, options
    )
    array = data.force_constants
    if array is None:
        if data.dataset is not None:
            phonon.dataset = data.dataset
    else:
        # Setting a data set would drop the force constants: those of the file win, as
        # in phonopy.load.
        if (
            primitive_matrix is None
            and array.shape[0] == len(data.unitcell)
            and array.shape[0] not in (len(phonon.primitive), len(phonon.supercell))
        ):
            # Compact force constants of the unit cell, as phonopy wrote them when
            # no primitive cell was asked for.
            phonon = make_phonopy(data.unitcell, matrix, "P", units.calculator, options)
        set_force_constants(phonon, array, path)
    return phonon, data


def make_phonopy(
    unitcell: Any,
    supercell_matrix: np.ndarray,
    primitive_matrix: Any,
    calculator: str,
    options: PhononReadOptions,
) -> Phonopy:
    """Build a silent ``Phonopy`` object; the primitive cell is found by default."""
    with warnings.catch_warnings():
        # A supercell of lower symmetry than its crystal is the user's choice.
        warnings.filterwarnings("ignore", ".*Point group symmetries", UserWarning)
        # phonopy 4 says so even where "auto" is asked for.
        warnings.filterwarnings("ignore", "primitive_matrix defaulted", UserWarning)
        return Phonopy(
            unitcell,
            supercell_matrix,
            primitive_matrix="auto" if primitive_matrix is None else primitive_matrix,
            symprec=options.symprec,
            calculator=calculator,
            log_level=0,
        )


def set_force_constants(phonon: Phonopy, array: np.ndarray, path: Path) -> None:
    """Hand force constants of a file to phonopy, if they fit its cells.

    Raises:
        DataFormatError: names the file and the shapes.
    """
    n_atoms, n_primitive = len(phonon.supercell), len(phonon.primitive)
    accepted = [(n_atoms, n_atoms, 3, 3), (n_primitive, n_atoms, 3, 3)]
    if array.shape not in accepted:
        raise DataFormatError(
            f"{path}: the force constants have shape {array.shape}; expected "
            f"{accepted[0]} (full) or {accepted[1]} (compact) for this supercell. They "
            "belong to another cell, or the supercell or primitive matrix is wrong."
        )
    phonon.force_constants = array


def _told_units(content: dict[str, Any], path: Path) -> tuple[str, str] | None:
    """Give the code that a file's units belong to, and what in the file tells so."""
    header = content.get("phonopy")
    header = header if isinstance(header, dict) else {}
    units = content.get("physical_unit")
    units = units if isinstance(units, dict) else {}
    force = units.get("force", units.get("force_constants"))
    calculator = header.get("calculator")
    length = units.get("length")
    if calculator is not None:
        system = unit_system(str(calculator))
        if length and force and not has_unit_names(system, str(length), str(force)):
            raise DataFormatError(
                f"{path}: the calculator is {calculator} ({system.description}), but "
                f"physical_unit says {length}, {force}. Correct the file."
            )
        return str(calculator), "calculator"
    if length is not None and force is not None:
        named = calculator_from_unit_names(str(length), str(force))
        if named is None:
            raise DataFormatError(
                f"{path}: physical_unit says {length} and {force}; no code that "
                "phonopy knows has these units. Convert the file to eV and Å."
            )
        return named, "physical_unit"
    factor = header.get("frequency_unit_conversion_factor")
    named = calculator_from_frequency_factor(float(factor)) if factor else None
    return (named, "frequency_unit_conversion_factor") if named else None


def _unit_cell_energy(content: dict[str, Any]) -> float | None:
    """Give the top-level energy that phonon databases add: that of the unit cell."""
    energy = content.get("energy")
    return float(energy) if isinstance(energy, (int, float)) else None
