"""Upstream data: frames with energies, forces and stresses, read as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from ase import Atoms
from torch_geometric.data import Data

from pft_lightning.data.entries import Entries
from pft_lightning.data.readers.ase_database import SUFFIXES as DATABASE_SUFFIXES
from pft_lightning.data.readers.ase_database import get_row, row_ids
from pft_lightning.data.readers.options import reading
from pft_lightning.data.readers.targets import (
    TARGETS,
    Remarks,
    check_keys,
    frame_to_record,
    is_isolated_atom,
)
from pft_lightning.data.readers.xyz import read_frames
from pft_lightning.data.records import (
    MAX_ENERGY,
    MAX_FORCE,
    MAX_STRESS,
    StructureRecord,
    to_data,
    validate,
)
from pft_lightning.data.sources import Spec, find_sources, skip_lines
from pft_lightning.errors import DataFormatError
from pft_lightning.graphs import build_graph


# Frames that cannot be used at the start of a file, before the rest is left.
_MOST_BAD: Final = 10_000


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where a frame is, what is asked of it often, and itself if it is held."""

    path: Path
    row: int
    name: str
    elements: tuple[int, ...]
    n_atoms: int
    known: tuple[bool, ...]
    held: StructureRecord | None


class UpstreamFrames(Entries[_Frame]):
    """Frames of extended XYZ files and ASE databases.

    XYZ files (.xz, .gz and .bz2 too) are read once and held; rows of databases are
    read when they are asked for, so a database may be larger than memory. Every frame
    is looked at once when opened: those that cannot be used are left out and counted,
    and so are isolated atoms, which give the zero of energies (as in MACE).

    Args:
        spec: file, folder, glob, or a list of them.
        cutoff: of the graphs, Å.
        keys: names of "energy", "forces" and "stress" in the files. None takes the
            usual names of reference values (``REF_energy``, ``dft_energy``), else
            what ASE understands as calculator results; virials become a stress.
        max_force: largest component of a force, eV/Å; frames beyond are left out.
        max_stress: largest component of the stress, eV/Å³; likewise.
        max_energy: largest energy, eV/atom; likewise.

    Attributes:
        cutoff: of the graphs, Å.
        names: one per frame, unique.
        n_atoms: (n_frames,), int64.
        elements: for each frame, its sorted atomic numbers.
        known: (n_frames, 3), bool: energy, forces and stress are there.
        skipped: (file or frame, reason) for all that was left out.

    Raises:
        DataFormatError: no file, no usable frame, or no frame with any target.
    """

    def __init__(
        self,
        spec: Spec,
        cutoff: float,
        keys: Mapping[str, str | None] | None = None,
        *,
        max_force: float = MAX_FORCE,
        max_stress: float = MAX_STRESS,
        max_energy: float = MAX_ENERGY,
    ) -> None:
        self.cutoff = float(cutoff)
        self._keys = check_keys(keys or {})
        self._limits = {
            "max_force": max_force,
            "max_stress": max_stress,
            "max_energy": max_energy,
        }
        found = find_sources(spec, kind="upstream")
        self._paths = found.paths
        self.skipped: list[tuple[str, str]] = list(found.skipped)
        self._remarks = Remarks()
        self._index(self._scan())
        self._check()

    def __repr__(self) -> str:
        """Say where the frames come from and how many there are."""
        shown = ", ".join(str(path) for path in self._paths[:3])
        more = ", ..." if len(self._paths) > 3 else ""
        return f"UpstreamFrames({shown}{more}, {len(self)} frames)"

    @property
    def atomic_numbers(self) -> set[int]:
        """All elements that occur."""
        return {number for elements in self.elements for number in elements}

    def record(self, index: int) -> StructureRecord:
        """Give one frame, from memory or its database."""
        frame = self._entries[index]
        if frame.held is not None:
            return frame.held
        atoms = _database_frame(frame.path, frame.row)
        return self._convert(atoms, frame.name, frame.path, Remarks())

    def data(self, index: int) -> Data:
        """Give one frame as a graph in the neutral schema, float64."""
        record = self.record(index)
        graph = build_graph(record.positions, record.cell, record.pbc, self.cutoff)
        return to_data(record, graph)

    def counts(self) -> dict[str, int]:
        """Number of frames that have an energy, forces and a stress."""
        return dict(zip(TARGETS, self.known.sum(axis=0).tolist(), strict=True))

    def summary(self) -> str:
        """Say how many frames have what, and what was left out."""
        n_frames = len(self)
        mean = float(self.n_atoms.mean()) if n_frames else 0.0
        lines = [f"{n_frames} frames, {mean:.1f} atoms on average"]
        for target, count in self.counts().items():
            note = "" if count else ", its loss weight has no effect"
            lines.append(f"{target}: {count} of {n_frames} frames{note}")
        lines += self._remarks.lines()
        return "\n".join([*lines, *skip_lines(self.skipped)])

    @property
    def is_plain(self) -> bool:
        """Nothing was left out or noticed, and every frame has every target."""
        return not self.skipped and not self._remarks and bool(self.known.all())

    def _describe(self, entry: _Frame) -> tuple[str, tuple[int, ...], int]:
        return entry.name, entry.elements, entry.n_atoms

    def _index(self, entries: list[_Frame]) -> None:
        super()._index(entries)
        known = np.array([frame.known for frame in entries], dtype=bool)
        self.known = known.reshape(-1, len(TARGETS))

    def _scan(self) -> list[_Frame]:
        """Look at all frames once; note what was left out and what was noticed."""
        found: list[_Frame] = []
        labels = _labels(self._paths)
        for path, label in zip(self._paths, labels, strict=True):
            skipped, remarks = list(self.skipped), Remarks()
            try:
                found += list(self._scan_file(path, label, remarks))
            except DataFormatError as error:
                # Of a file that is damaged nothing is used, as what was read before
                # the damage showed may be wrong too.
                self.skipped = [*skipped, (str(path), str(error))]
            else:
                self._remarks.extend(remarks)
        return found

    def _scan_file(self, path: Path, label: str, remarks: Remarks) -> Iterator[_Frame]:
        in_memory = not path.name.endswith(DATABASE_SUFFIXES)
        n_good = n_bad = 0
        for row, atoms in _frames(path):
            if n_bad == _MOST_BAD and not n_good:
                raise DataFormatError(
                    f"{path}: none of its first {n_bad} frames can be used, the last "
                    f"because of: {self.skipped[-1][1]}"
                )
            name = f"{label}/{row}"
            try:
                record = self._convert(atoms, name, path, remarks)
            except DataFormatError as error:
                self.skipped.append((name, str(error)))
                n_bad += 1
                continue
            n_good += 1
            yield _Frame(
                path=path,
                row=row,
                name=name,
                elements=tuple(sorted(set(record.atomic_numbers.tolist()))),
                n_atoms=record.n_atoms,
                known=tuple(getattr(record, t) is not None for t in TARGETS),
                held=record if in_memory else None,
            )

    def _convert(
        self, atoms: Atoms | DataFormatError, name: str, path: Path, remarks: Remarks
    ) -> StructureRecord:
        if isinstance(atoms, DataFormatError):
            raise atoms
        where = f"{path}, frame {name.rsplit('/', 1)[-1]}"
        if is_isolated_atom(atoms):
            raise DataFormatError(
                f"{where}: an isolated atom (config_type="
                f"{atoms.info['config_type']}), which gives the zero of energies and "
                "is not trained on."
            )
        noticed = Remarks()
        with reading(Path(where)):
            record = frame_to_record(atoms, name, where, self._keys, noticed)
        record = validate(record, source=where, **self._limits)
        remarks.extend(noticed)
        return record

    def _check(self) -> None:
        where = ", ".join(str(path) for path in self._paths[:3])
        if not self.names:
            lines = "\n".join(skip_lines(self.skipped, most=5)[1:])
            raise DataFormatError(
                f"{where}: none of {len(self.skipped)} frames or files can be used:\n"
                f"{lines}"
            )
        counts = self.counts()
        absent = [t for t, key in self._keys.items() if key and not counts[t]]
        if absent:
            raise DataFormatError(
                f"{where}: no frame has {absent[0]} under the name "
                f"{self._keys[absent[0]]!r}. {self._present()}"
            )
        if not any(counts.values()):
            raise DataFormatError(
                f"{where}: no frame has an energy, forces or a stress under a known "
                f"name. {self._present()}"
            )

    def _present(self) -> str:
        first = self._entries[0]
        atoms = next(atoms for row, atoms in _frames(first.path) if row == first.row)
        assert isinstance(atoms, Atoms)
        results = [] if atoms.calc is None else list(atoms.calc.results)
        names = sorted(
            {*results, *atoms.info, *atoms.arrays} - {"numbers", "positions"}
        )
        return (
            f"The first frame holds {', '.join(names) or 'nothing'}: say which with "
            "data.upstream.energy_key and alike (pft-train), or upstream_keys.energy "
            "and alike (pft-evaluate)."
        )


def _frames(path: Path) -> Iterator[tuple[int, Atoms | DataFormatError]]:
    """Give the frames of a file with their numbers, or why one cannot be read."""
    if not path.name.endswith(DATABASE_SUFFIXES):
        yield from read_frames(path)
        return
    for row_id in row_ids(path):
        try:
            yield row_id, _database_frame(path, row_id)
        except DataFormatError as error:
            yield row_id, error


def _database_frame(path: Path, row_id: int) -> Atoms:
    row = get_row(path, row_id)
    with reading(path):
        atoms = row.toatoms()
        atoms.info.update(row.key_value_pairs)
        if isinstance(row.data, dict):
            atoms.info.update(row.data)
    return atoms


def _labels(paths: list[Path]) -> list[str]:
    """Name files in short, in full where two are called the same."""
    short = [path.name.split(".")[0] for path in paths]
    return [
        label if short.count(label) == 1 else str(path)
        for label, path in zip(short, paths, strict=True)
    ]
