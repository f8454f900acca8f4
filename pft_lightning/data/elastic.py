"""Crystals with elastic constants or moduli, as a training takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from ase import Atoms
from phonopy.structure.atoms import PhonopyAtoms
from torch_geometric.data import Data

from pft_lightning import keys
from pft_lightning.data.crystals import check_bulk
from pft_lightning.data.elastic_tables import (
    BULK,
    MODULUS_COLUMNS,
    SHEAR,
    crystal_of,
    is_table,
    moduli_of,
    name_of,
    read_entries,
)
from pft_lightning.data.entries import Entries, elements_of
from pft_lightning.data.readers.xyz import is_xyz, read_frames
from pft_lightning.data.records import StructureRecord, check_array, to_data, validate
from pft_lightning.data.sources import Spec, find_sources, skip_lines
from pft_lightning.errors import DataFormatError
from pft_lightning.graphs import build_graph


# Name of the elastic constants of a frame, and of the note that ions were clamped.
CONSTANTS_KEY: Final = "elastic_constants"
CLAMPED_KEY: Final = "clamped_ions"

# What elastic constants and moduli can be, GPa: those of diamond reach 1100; the
# softest crystals, of noble gases, have some tenths in shear.
_LARGEST: Final = 3000.0
_SMALLEST: Final = 0.05

# Asymmetry that rounding and the fit of a calculation leave, as a share of the largest.
_ASYMMETRY: Final = 0.02

# What the moduli of a frame may be called.
_FRAME_COLUMNS: Final = {
    name: (name, column) for name, column in MODULUS_COLUMNS.items()
}


@dataclass(frozen=True, slots=True, eq=False)
class ElasticRecord:
    """A crystal and its elastic constants; what is None is not known.

    Attributes:
        structure: without energies, forces and stresses.
        constants: (6, 6), GPa, stress by strain in Voigt order.
        moduli: (2,), bulk and shear modulus (Hill's means), GPa.
        clamped: both are of ions that follow the cell.
    """

    structure: StructureRecord
    constants: np.ndarray | None
    moduli: np.ndarray | None
    clamped: bool = False


class ElasticCrystals(Entries[ElasticRecord]):
    """Crystals of tables (``elastic_tables``) and extended XYZ files.

    A frame has ``elastic_constants`` (36 numbers, GPa, stress by strain in Voigt order
    xx, yy, zz, yz, xz, xy along the axes of the file), or ``bulk_modulus`` and
    ``shear_modulus`` (GPa), or both; ``clamped_ions=T`` says that these are of ions
    that follow the cell. What cannot be used is left out with a reason.

    Args:
        spec: file, folder, glob, or a list of them.
        cutoff: of the graphs, Å.

    Attributes:
        names: one per crystal, unique.
        n_atoms: (n_crystals,), int64.
        elements: for each crystal, its sorted atomic numbers.
        skipped: (crystal, reason) for all that was left out.

    Raises:
        DataFormatError: no file, or no crystal that can be used.
    """

    def __init__(self, spec: Spec, cutoff: float) -> None:
        self.cutoff = float(cutoff)
        found = find_sources(spec, kind="elastic")
        self._paths = found.paths
        self.skipped: list[tuple[str, str]] = list(found.skipped)
        self._index(list(self._scan()))
        if not self.names:
            lines = "\n".join(skip_lines(self.skipped, most=5)[1:])
            raise DataFormatError(
                f"{', '.join(map(str, self._paths[:3]))}: none of {len(self.skipped)} "
                f"crystals or files can be used:\n{lines}"
            )

    def __repr__(self) -> str:
        """Say where the crystals come from and how many there are."""
        shown = ", ".join(str(path) for path in self._paths[:3])
        more = ", ..." if len(self._paths) > 3 else ""
        return f"ElasticCrystals({shown}{more}, {len(self)} crystals)"

    def record(self, index: int) -> ElasticRecord:
        """Give one crystal."""
        return self._entries[index]

    def data(self, index: int) -> Data:
        """Give one crystal as a graph in the neutral schema, float64."""
        record = self._entries[index]
        structure = record.structure
        graph = build_graph(
            structure.positions, structure.cell, structure.pbc, self.cutoff
        )
        data = to_data(structure, graph)
        known = (record.constants is not None, record.moduli is not None)
        constants = np.zeros((6, 6)) if record.constants is None else record.constants
        moduli = np.zeros(2) if record.moduli is None else record.moduli
        data[keys.ELASTIC_CONSTANTS] = torch.tensor(constants).reshape(1, 6, 6)
        data[keys.MODULI] = torch.tensor(moduli).reshape(1, 2)
        data[keys.CONSTANTS_MASK] = torch.tensor([known[0]])
        data[keys.MODULI_MASK] = torch.tensor([known[1]])
        data[keys.CLAMPED] = torch.tensor([record.clamped])
        return data

    def summary(self) -> str:
        """Say how many crystals have what, and what was left out."""
        n_constants = sum(record.constants is not None for record in self._entries)
        n_moduli = sum(record.moduli is not None for record in self._entries)
        lines = [
            f"{len(self)} crystals, {n_constants} with elastic constants, {n_moduli} "
            "with moduli",
            *skip_lines(self.skipped),
        ]
        return "\n".join(lines)

    def _describe(self, entry: ElasticRecord) -> tuple[str, tuple[int, ...], int]:
        structure = entry.structure
        elements = elements_of(structure.atomic_numbers)
        return structure.name, elements, structure.n_atoms

    def _scan(self) -> Iterator[ElasticRecord]:
        seen: dict[str, int] = {}  # how often each name has come
        for path in self._paths:
            try:
                for name, where, entry in _entries(path):
                    unique = name
                    while unique in seen:
                        seen[name] += 1
                        unique = f"{name} ({seen[name]})"
                    try:
                        record = _convert(entry, unique, where)
                    except DataFormatError as error:
                        self.skipped.append((where, str(error)))
                        continue
                    seen[unique] = 1
                    yield record
            except DataFormatError as error:
                self.skipped.append((str(path), str(error)))


def _entries(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Name, place and content of each entry of a table, or frame of a file."""
    if is_table(path):
        for index, entry in enumerate(read_entries(path)):
            yield name_of(entry, index), f"{path}, entry {index}", entry
        return
    if not is_xyz(path):
        raise DataFormatError(
            f"{path}: is neither a table (.json) nor extended XYZ (.xyz, .extxyz)."
        )
    for index, frame in read_frames(path):
        name = f"{path.name.split('.')[0]}/{index}"
        if isinstance(frame, Atoms):
            name = str(frame.info.get("name", frame.info.get("mp_id", name)))
        yield name, f"{path}, frame {index}", frame


def _convert(
    entry: dict[str, Any] | Atoms | DataFormatError, name: str, where: str
) -> ElasticRecord:
    """Check an entry or a frame.

    Raises:
        DataFormatError: it is no crystal, or has no elastic data that can be used.
    """
    if isinstance(entry, DataFormatError):
        raise entry
    crystal: Atoms | PhonopyAtoms
    if isinstance(entry, Atoms):
        crystal, constants = entry, entry.info.get(CONSTANTS_KEY)
        columns = {
            modulus: next((entry.info[c] for c in names if c in entry.info), None)
            for modulus, names in _FRAME_COLUMNS.items()
        }
        clamped = entry.info.get(CLAMPED_KEY, False)
        check_bulk(int((crystal.pbc & crystal.cell.any(axis=1)).sum()), where)
    else:
        crystal, constants = crystal_of(entry, where), entry.get("elastic_tensor")
        columns = {modulus: moduli_of(entry).get(modulus) for modulus in (BULK, SHEAR)}
        clamped = entry.get(CLAMPED_KEY, False)
    # Any text is true, "no" among them.
    if not isinstance(clamped, (bool, np.bool_)):
        raise DataFormatError(
            f"{where}: {CLAMPED_KEY} is {clamped!r}; expected T or F (in a table true "
            "or false)."
        )
    if isinstance(constants, dict):
        constants = constants.get("raw")
    record = ElasticRecord(
        structure=validate(_structure(crystal, name, where), source=where),
        constants=None if constants is None else check_constants(constants, where),
        moduli=_check_moduli(columns, where),
        clamped=bool(clamped),
    )
    if record.constants is None and record.moduli is None:
        raise DataFormatError(
            f"{where}: has no elastic_constants (36 numbers, GPa; in a table "
            "elastic_tensor) and no bulk and shear modulus (GPa). Add them, or take "
            "it out."
        )
    return record


def _structure(crystal: Atoms | PhonopyAtoms, name: str, where: str) -> StructureRecord:
    cell = np.asarray(crystal.cell, dtype=np.float64).reshape(3, 3)
    return StructureRecord(
        name=name,
        atomic_numbers=np.asarray(crystal.numbers, dtype=np.int64),
        positions=np.asarray(crystal.positions, dtype=np.float64),
        cell=cell,
        pbc=np.ones(3, dtype=bool),
        info={"source": where},
    )


def check_constants(values: Any, where: str) -> np.ndarray:
    """Check elastic constants, and give their symmetric part (6, 6), GPa.

    Raises:
        DataFormatError: their shape, size or symmetry is that of no crystal.
    """
    try:
        constants = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataFormatError(
            f"{where}: elastic constants are no numbers ({error}); expected 6 x 6, GPa."
        ) from error
    if constants.size == 36:
        constants = constants.reshape(6, 6)
    check_array("elastic constants", constants, (6, 6), where)
    largest = float(np.abs(constants).max())
    if not _SMALLEST < largest < _LARGEST:
        raise DataFormatError(
            f"{where}: the largest elastic constant is {largest:g}; expected GPa, "
            f"between {_SMALLEST:g} and {_LARGEST:g}. Are they in kbar, Pa or eV/Å³?"
        )
    asymmetry = float(np.abs(constants - constants.T).max())
    if asymmetry > _ASYMMETRY * largest:
        raise DataFormatError(
            f"{where}: elastic constants differ from their transpose by {asymmetry:g} "
            f"GPa, of {largest:g}. Is an element missing, or are they compliances?"
        )
    if constants.diagonal().min() <= 0:
        raise DataFormatError(
            f"{where}: the elastic constant C{int(constants.diagonal().argmin()) + 1}"
            f"{int(constants.diagonal().argmin()) + 1} is "
            f"{constants.diagonal().min():g} GPa: a crystal that gives way has no "
            "elastic constants to learn. Take it out."
        )
    return (constants + constants.T) / 2


def _check_moduli(columns: dict[str, Any], where: str) -> np.ndarray | None:
    """Bulk and shear modulus (2,), GPa; None where one is missing.

    Raises:
        DataFormatError: one is no modulus of a crystal.
    """
    if any(value is None for value in columns.values()):
        return None
    try:
        moduli = np.array([float(columns[name]) for name in (BULK, SHEAR)])
    except (TypeError, ValueError) as error:
        raise DataFormatError(
            f"{where}: a modulus is no number ({error}); expected GPa."
        ) from error
    for name, value in zip((BULK, SHEAR), moduli, strict=True):
        if not _SMALLEST < value < _LARGEST:
            raise DataFormatError(
                f"{where}: {name} is {value:g}; expected GPa, between {_SMALLEST:g} "
                f"and {_LARGEST:g}. Is it in kbar, Pa or eV/Å³, or of a crystal that "
                "gives way?"
            )
    return moduli
