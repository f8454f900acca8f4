"""Reader of phonopy and phono3py yaml files: plain, .xz, .bz2, .gz, .lzma."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from phonopy import Phonopy

from pft_lightning.data.readers.assemble import build_record
from pft_lightning.data.readers.born import charges_beside, charges_of_content
from pft_lightning.data.readers.content import (
    PhononContent,
    header_of,
    parse_content,
)
from pft_lightning.data.readers.names import GENERIC_NAMES, yaml_stem
from pft_lightning.data.readers.options import PhononReadOptions, reading
from pft_lightning.data.readers.order import (
    find_order,
    reorder_dataset,
    reorder_force_constants,
)
from pft_lightning.data.readers.values import read_number
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.safe_yaml import load_yaml
from pft_lightning.units import (
    UnitSystem,
    calculator_from_frequency_factor,
    calculator_from_unit_names,
    has_unit_names,
    known_calculators,
    unit_system,
)


# phonopy's tolerance of the symmetry search, in the unit of length of the file, and
# the largest that still finds a symmetry of the atoms that are there.
_SYMPREC = 1e-5
_MAX_SYMPREC = 0.1


def material_name(path: Path) -> str:
    """Name a material by its file, or by its folder where the file's name is generic.

    >>> material_name(Path("a/mp-149.yaml.xz")), material_name(Path("Si/phonopy.yaml"))
    ('mp-149', 'Si')
    """
    stem = yaml_stem(path)
    if stem in GENERIC_NAMES:
        return path.absolute().parent.name or stem
    return stem


def read_yaml(path: Path, options: PhononReadOptions) -> StructureRecord:
    """Read one phonopy yaml file with force constants or displacements and forces.

    Born charges come from the file, else from BORN beside it.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    with reading(path):
        return read_content(load_content(path), path, options, beside=True)


def read_content(
    content: dict[str, Any], path: Path, options: PhononReadOptions, *, beside: bool
) -> StructureRecord:
    """Make the record of the loaded content of a phonopy yaml file.

    Args:
        content: as of ``check_content``.
        path: the file, or what to call it, for names and messages.
        options: of reading.
        beside: whether Born charges may come from a file beside it.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    units, units_from = find_units(content, path, options)
    parsed = parse_content(content, units, path)
    if not parsed.has_forces:
        raise DataFormatError(
            f"{path}: neither force constants nor displacements with forces are "
            "in it. Where FORCE_SETS, FORCES_FC2 or alike lie beside it, give the "
            "folder; else add them (phonopy-init -f / --fc), or remove the file "
            "from the set."
        )
    phonon = build_phonopy(parsed, units, path, options)
    nac_params, note = charges_of_content(
        content, cells_with_charges(parsed), phonon, path
    )
    notes = [note]
    if nac_params is None and beside:
        nac_params, note = charges_beside(path, phonon)
        notes.append(note)
    return build_record(
        phonon,
        path=path,
        name=material_name(path),
        units=units,
        units_from=units_from,
        options=options,
        energy=_unit_cell_energy(content, path),
        nac_params=nac_params,
        notes=[note for note in notes if note],
    )


def read_phonopy(path: str | Path, options: PhononReadOptions | None = None) -> Phonopy:
    """Read cells, displacements, forces and force constants as they are in a file.

    Args:
        path: phonopy or phono3py yaml.
        options: of reading.

    Returns:
        In the units of its code, nothing symmetrised, without Born charges.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    if not isinstance(path, (str, Path)):
        raise ConfigError(f"path is {path!r}; expected that of a phonopy file.")
    path, options = Path(path), options or PhononReadOptions()
    with reading(path):
        content = load_content(path)
        units, _ = find_units(content, path, options)
        return build_phonopy(parse_content(content, units, path), units, path, options)


def load_content(path: Path) -> dict[str, Any]:
    """Load the yaml of a phonopy file.

    Raises:
        DataFormatError: the file is no phonopy yaml.
    """
    return check_content(load_yaml(path), path)


def check_content(content: Any, path: Path) -> dict[str, Any]:
    """Give what was loaded of a yaml file, if it is one of phonopy's.

    Raises:
        DataFormatError: the file is no phonopy yaml.
    """
    if not isinstance(content, dict) or not (
        "unit_cell" in content or "lattice" in content
    ):
        raise DataFormatError(
            f"{path}: no unit cell is in it, so this is not a phonopy.yaml-like file. "
            "Give phonopy_params.yaml, phono3py_params.yaml or alike."
        )
    return content


def find_units(
    content: Mapping[str, Any], path: Path, options: PhononReadOptions
) -> tuple[UnitSystem, str]:
    """Find the units of a phonopy yaml file and what tells them.

    In this order: the calculator it names, its ``physical_unit`` block, its factor
    from force constants to THz, ``options.units``.

    Raises:
        DataFormatError: nothing tells the units, or two things contradict.
    """
    told = declared_units(content, path)
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
    parsed: PhononContent,
    units: UnitSystem,
    path: Path,
    options: PhononReadOptions,
) -> Phonopy:
    """Build the ``Phonopy`` object of a yaml file, in the file's own units.

    ``phonopy.load`` is not used, since it builds any Python object that the file asks
    for, and takes FORCE_SETS, FORCE_CONSTANTS and BORN from whatever folder the
    process happens to run in.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    symprec = choose_symprec(parsed.symprec, options, path)

    def make(primitive_matrix: Any) -> Phonopy:
        return make_phonopy(
            parsed.unit_cell,
            parsed.supercell_matrix,
            primitive_matrix,
            units.calculator,
            symprec,
        )

    phonon = make(parsed.primitive_matrix)
    array, dataset = parsed.force_constants, parsed.dataset
    if (
        array is not None
        and parsed.primitive_matrix is None
        and array.shape[0] == len(parsed.unit_cell)
        and array.shape[0] not in (len(phonon.primitive), len(phonon.supercell))
    ):
        # Compact force constants of the unit cell, as phonopy wrote them when no
        # primitive cell was asked for.
        phonon = make("P")
    order = None
    if parsed.supercell is not None:
        order = find_order(
            parsed.supercell, phonon.supercell, units.length, f"{path}, supercell"
        )
    if array is not None:
        # Setting a data set would drop the force constants: those of the file win, as
        # in phonopy.load.
        if order is not None:
            rows = phonon.primitive.p2s_map
            array = reorder_force_constants(array, None, order, rows, str(path))
        set_force_constants(phonon, array, path)
    elif dataset is not None:
        phonon.dataset = dataset if order is None else reorder_dataset(dataset, order)  # type: ignore[assignment]
    return phonon


def cells_with_charges(parsed: PhononContent) -> list[Any]:
    """Cells that the Born charges of a file may belong to, the likeliest first."""
    return [parsed.primitive, parsed.unit_cell, parsed.supercell]


def choose_symprec(told: float | None, options: PhononReadOptions, path: Path) -> float:
    """Tolerance of the symmetry search: of the options, else of the file.

    Raises:
        DataFormatError: that of the file makes no sense.
    """
    if options.symprec is not None:
        return options.symprec
    if told is None:
        return _SYMPREC
    if not 0.0 < told <= _MAX_SYMPREC:
        raise DataFormatError(
            f"{path}: symmetry_tolerance is {told:g}; a length above 0 and at most "
            f"{_MAX_SYMPREC:g} is needed. Correct the file, or give options.symprec="
            f"{_SYMPREC:g}, which is then used."
        )
    return told


def make_phonopy(
    unitcell: Any,
    supercell_matrix: np.ndarray,
    primitive_matrix: Any,
    calculator: str,
    symprec: float = _SYMPREC,
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
            symprec=symprec,
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


def declared_units(content: Mapping[str, Any], path: Path) -> tuple[str, str] | None:
    """Give the code that a file's units belong to, and what in the file tells so.

    Raises:
        DataFormatError: phonopy does not know them, or two things contradict.
    """
    header = header_of(content, path)
    units = content.get("physical_unit")
    units = units if isinstance(units, dict) else {}
    force = units.get("force", units.get("force_constants"))
    calculator = header.get("calculator")
    length = units.get("length")
    if calculator is not None:
        try:
            system = unit_system(str(calculator))
        except ConfigError as error:
            raise DataFormatError(
                f"{path}: the calculator is {calculator!r}, which phonopy does not "
                "know, so the units are unknown. Write the name of the code as phonopy "
                f"does ({', '.join(known_calculators())}), or delete the line and give "
                "units=..."
            ) from error
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
    if factor is None:
        return None
    named = calculator_from_frequency_factor(
        read_number(factor, "frequency_unit_conversion_factor", path)
    )
    return (named, "frequency_unit_conversion_factor") if named else None


def _unit_cell_energy(content: Mapping[str, Any], path: Path) -> float | None:
    """Give the top-level energy that phonon databases add: that of the unit cell."""
    energy = content.get("energy")
    # Of another kind where it is a block.
    if energy is None or isinstance(energy, (list, dict)):
        return None
    return read_number(energy, "energy", path)
