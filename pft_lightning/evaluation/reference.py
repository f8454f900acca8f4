"""Reference materials: ``Phonopy`` objects with the force constants of DFT."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from phonopy import Phonopy

from pft_lightning.data.cells import PhononCells
from pft_lightning.data.molecules import Molecule
from pft_lightning.data.readers import PhononReadOptions, list_entries, read_entry
from pft_lightning.data.readers.names import source_state
from pft_lightning.data.readers.registry import entry_name
from pft_lightning.data.records import StructureRecord
from pft_lightning.data.sources import Spec, find_sources, skip_lines
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.evaluation.fingerprints import digest
from pft_lightning.physics.force_constants import from_phonopy, symmetrise
from pft_lightning.units import unit_system


# What a model is compared with.
Reference = Phonopy | Molecule

# What an evaluation takes: paths, or calculations that are in memory already.
Phonons = Spec | Phonopy | Sequence[Phonopy] | Mapping[str, Reference]


_Content = TypeVar("_Content")

# Longest name of a material, bytes; file systems take 255, and endings follow.
_LONGEST = 150


@dataclass(frozen=True, slots=True)
class Material(Generic[_Content]):
    """One material, not read yet.

    Attributes:
        name: unique in the evaluation; also the name of its files.
        source: where it comes from.
        fingerprint: changes when the source does.
        read: gives what is evaluated; raises PFTError where it cannot be used.
    """

    name: str
    source: str
    fingerprint: str
    read: Callable[[], _Content]


def unusable(name: str, source: str, reason: str) -> Material[Any]:
    """Make a material that says why it cannot be used when it is read."""
    return Material(
        name=file_name(name),
        source=source,
        fingerprint=digest([source, reason]),
        read=partial(_fail, DataFormatError(reason)),
    )


def to_phonopy(record: StructureRecord) -> Phonopy:
    """Make the ``Phonopy`` object that a record was read from, in eV and Å.

    Its force constants are the symmetrised ones that training sees.

    Raises:
        DataFormatError: the record is not one of a phonon calculation.
    """
    if record.cells is None or record.force_constants is None:
        raise DataFormatError(
            f"{record.info.get('source', record.name)}: holds no phonon calculation, "
            "so there is nothing to compare with. Give phonopy files, folders or a "
            "store."
        )
    return record.cells.to_phonopy(record.force_constants.compact)


def read_reference(
    path: str | Path,
    entry: int | None = None,
    options: PhononReadOptions | None = None,
) -> Reference:
    """Read one reference material of any kind of phonon source.

    Args:
        path: phonopy yaml, folder, aselmdb, store, or a molecule.
        entry: number in a database or store.
        options: How files are read.

    Returns:
        In eV and Å, with symmetrised force constants and Born charges if known; what
        has no lattice as a molecule.

    Raises:
        DataFormatError: names the file and what is wrong.
    """
    record = read_entry(Path(path), entry, options or PhononReadOptions())
    if record.info.get("notes"):
        warnings.warn(f"{record.name}: {record.info['notes']}", stacklevel=2)
    if record.force_constants is not None and not record.pbc.any():
        return Molecule.of(record)
    return to_phonopy(record)


def elements_of(reference: Reference) -> set[int]:
    """Atomic numbers of a reference."""
    if isinstance(reference, Molecule):
        return set(reference.atoms.numbers.tolist())
    return {int(number) for number in reference.unitcell.numbers}


def take_reference(phonon: Reference) -> Reference:
    """Bring a ``Phonopy`` object into eV and Å and symmetrise its force constants.

    A molecule comes back as it is.

    Raises:
        DataFormatError: it has no force constants.
    """
    if isinstance(phonon, Molecule):
        return phonon
    if phonon.force_constants is None:
        raise DataFormatError(
            f"the phonon calculation of {phonon.unitcell.formula} has no force "
            "constants; call its produce_force_constants() first."
        )
    units = unit_system(phonon.calculator or "vasp")
    raw, _ = from_phonopy(phonon)
    compact = symmetrise(raw).compact * units.force_constants
    return PhononCells.of(phonon, units).to_phonopy(compact)


def list_materials(
    phonons: Phonons, options: PhononReadOptions | None = None
) -> list[Material[Reference]]:
    """List reference materials without reading their force constants.

    Args:
        phonons: files, folders, globs, stores, a list of them, or ``Phonopy`` objects
            with force constants, by name or in a list.
        options: How files are read.

    Raises:
        DataFormatError: a path matches nothing.
        ConfigError: nothing was given.
    """
    options = options or PhononReadOptions()
    if isinstance(phonons, Phonopy):
        phonons = [phonons]
    if isinstance(phonons, Mapping):
        return number_names([_in_memory(name, p) for name, p in phonons.items()])
    if isinstance(phonons, Sequence) and not isinstance(phonons, str):
        in_memory = [p for p in phonons if isinstance(p, Phonopy)]
        if in_memory and len(in_memory) != len(phonons):
            raise ConfigError(
                "phonons mixes Phonopy objects and paths; give one or the other."
            )
        if in_memory:
            return number_names([_in_memory(p.unitcell.formula, p) for p in in_memory])
    sources = find_sources(phonons)  # type: ignore[arg-type]
    if sources.skipped:
        warnings.warn("\n".join(skip_lines(sources.skipped)), stacklevel=2)
    found = [material for path in sources.paths for material in _of_path(path, options)]
    return number_names(found)


def _in_memory(name: str, phonon: Reference) -> Material[Reference]:
    found = hashlib.sha256()
    atoms = phonon.atoms if isinstance(phonon, Molecule) else phonon.supercell
    for array in (np.asarray(atoms.cell), atoms.positions):
        found.update(array.tobytes())
    if phonon.force_constants is not None:
        found.update(phonon.force_constants.tobytes())
    return Material(
        name=file_name(name),
        source="memory",
        fingerprint=found.hexdigest(),
        read=partial(take_reference, phonon),
    )


def _of_path(path: Path, options: PhononReadOptions) -> list[Material[Reference]]:
    state = [str(path.absolute()), source_state(path), asdict(options)]
    try:
        entries = list_entries(path)
    except DataFormatError as error:
        # A database that cannot be opened is one failure, named like any other.
        fingerprint = digest([*state, None])
        return [
            Material(
                file_name(path.stem), str(path), fingerprint, partial(_fail, error)
            )
        ]
    return [
        Material(
            name=file_name(entry_name(path, entry)),
            source=str(path) if entry is None else f"{path}, entry {entry}",
            fingerprint=digest([*state, entry]),
            read=partial(read_reference, path, entry, options),
        )
        for entry in entries
    ]


def _fail(error: DataFormatError) -> Reference:
    raise error


def file_name(name: str) -> str:
    """Name of the files of a material, as file systems take it.

    A long one is cut, with a part of its digest so that others stay others.
    """
    plain = re.sub(r"[^\w.()+=@,\- ]", "_", name).strip(". ") or "material"
    if len(plain.encode()) <= _LONGEST:
        return plain
    kept = plain.encode()[:_LONGEST].decode(errors="ignore").rstrip(". ")
    return f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def number_names(
    materials: Sequence[Material[_Content]],
) -> list[Material[_Content]]:
    """Number the names that occur twice, upper and lower case being one."""
    seen: set[str] = set()
    found = []
    for material in materials:
        name, copy_number = material.name, 1
        while name.lower() in seen:
            copy_number += 1
            name = f"{material.name} ({copy_number})"
        seen.add(name.lower())
        found.append(
            Material(name, material.source, material.fingerprint, material.read)
        )
    return found
