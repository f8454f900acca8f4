"""Upstream data: frames with energies, forces and stresses, read as they are."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from torch_geometric.data import Data

from pft_lightning.data.ase_database import SUFFIXES as DATABASE_SUFFIXES
from pft_lightning.data.ase_database import get_row, row_ids
from pft_lightning.data.readers.options import reading
from pft_lightning.data.records import MAX_FORCE, StructureRecord, to_data, validate
from pft_lightning.data.sources import Spec, find_sources
from pft_lightning.data.targets import TARGETS, check_keys, frame_to_record
from pft_lightning.errors import DataFormatError
from pft_lightning.graphs import build_graph


class UpstreamFrames:
    """Frames of extended XYZ files and ASE databases.

    XYZ files (.xz, .gz and .bz2 too) are read once and held; rows of databases are
    read when they are asked for, so a database may be larger than memory. Every frame
    is looked at once when opened: those that cannot be used are left out and counted.

    Args:
        spec: file, folder, glob, or a list of them.
        cutoff: of the graphs, Å.
        keys: names of "energy", "forces" and "stress" in the files. None takes what
            ASE understands as calculator results, else the usual names
            (``REF_energy``, ``dft_energy``, ...; virials become a stress).
        max_force: largest component of a force, eV/Å; frames beyond are left out.

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
    ) -> None:
        self.cutoff = float(cutoff)
        self.skipped: list[tuple[str, str]] = []
        self._keys = check_keys(keys or {})
        self._max_force = max_force
        self._n_edges: np.ndarray | None = None
        self._paths = find_sources(spec, kind="upstream")
        # For each frame: its file, its row there, and itself if it is held.
        self._files: list[int] = []
        self._rows: list[int] = []
        self._held: list[StructureRecord | None] = []
        self.names: list[str] = []
        self.elements: list[tuple[int, ...]] = []
        known: list[list[bool]] = []
        sizes: list[int] = []
        for record in self._scan():
            sizes.append(record.n_atoms)
            self.names.append(record.name)
            self.elements.append(tuple(sorted(set(record.atomic_numbers.tolist()))))
            known.append([getattr(record, target) is not None for target in TARGETS])
        self.known = np.array(known, dtype=bool).reshape(-1, len(TARGETS))
        self.n_atoms = np.array(sizes, dtype=np.int64)
        self._check()

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.names)

    def __repr__(self) -> str:
        """Say where the frames come from and how many there are."""
        shown = ", ".join(str(path) for path in self._paths[:3])
        more = ", ..." if len(self._paths) > 3 else ""
        return f"UpstreamFrames({shown}{more}, {len(self)} frames)"

    @property
    def n_edges(self) -> np.ndarray:
        """(n_frames,), int64: builds all graphs once to count their edges."""
        if self._n_edges is None:
            counts = []
            for i in range(len(self)):
                frame = self.record(i)
                graph = build_graph(frame.positions, frame.cell, frame.pbc, self.cutoff)
                counts.append(graph.n_edges)
            self._n_edges = np.array(counts, dtype=np.int64)
        return self._n_edges

    @property
    def atomic_numbers(self) -> set[int]:
        """All elements that occur."""
        return {number for elements in self.elements for number in elements}

    def record(self, index: int) -> StructureRecord:
        """Give one frame, from memory or its database."""
        held = self._held[index]
        if held is not None:
            return held
        path, row_id = self._paths[self._files[index]], self._rows[index]
        return self._convert(_database_frame(path, row_id), self.names[index], path)

    def data(self, index: int) -> Data:
        """Give one frame as a graph in the neutral schema, float64."""
        record = self.record(index)
        graph = build_graph(record.positions, record.cell, record.pbc, self.cutoff)
        return to_data(record, graph)

    def subset(self, indices: Sequence[int]) -> UpstreamFrames:
        """Give a view of some frames, in the given order."""
        view, chosen = copy.copy(self), list(indices)
        for name in ("names", "elements", "_files", "_rows", "_held"):
            setattr(view, name, [getattr(self, name)[i] for i in chosen])
        view.n_atoms, view.known = self.n_atoms[chosen], self.known[chosen]
        view._n_edges = None if self._n_edges is None else self._n_edges[chosen]
        return view

    def select(self, allowed: Iterable[int]) -> tuple[UpstreamFrames, list[str]]:
        """Keep the frames whose elements are all allowed.

        Args:
            allowed: atomic numbers that the model knows.

        Returns:
            The view, and the names of the frames that were left out.
        """
        permitted = set(allowed)
        fits = [permitted >= set(elements) for elements in self.elements]
        kept = [i for i, fit in enumerate(fits) if fit]
        return self.subset(kept), [
            name for name, fit in zip(self.names, fits, strict=True) if not fit
        ]

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
        lines.append(f"{len(self.skipped)} skipped" + (":" if self.skipped else ""))
        lines += [f"  {reason}" for _, reason in self.skipped]
        return "\n".join(lines)

    def _scan(self) -> Iterator[StructureRecord]:
        """Look at all frames once; note where they are, and what was left out."""
        labels = _labels(self._paths)
        for number, (path, label) in enumerate(zip(self._paths, labels, strict=True)):
            in_memory = not path.name.endswith(DATABASE_SUFFIXES)
            try:
                for row, atoms in _frames(path):
                    try:
                        record = self._convert(atoms, f"{label}/{row}", path)
                    except DataFormatError as error:
                        self.skipped.append((f"{label}/{row}", str(error)))
                        continue
                    self._files.append(number)
                    self._rows.append(row)
                    self._held.append(record if in_memory else None)
                    yield record
            except DataFormatError as error:
                if len(self._paths) == 1:
                    raise
                self.skipped.append((str(path), str(error)))

    def _convert(self, atoms: Atoms, name: str, path: Path) -> StructureRecord:
        where = f"{path}, frame {name.rsplit('/', 1)[-1]}"
        with reading(Path(where)):
            record = frame_to_record(atoms, name, where, self._keys)
        return validate(record, source=where, max_force=self._max_force)

    def _check(self) -> None:
        where = ", ".join(str(path) for path in self._paths[:3])
        if not self.names:
            reasons = "\n".join(f"  {reason}" for _, reason in self.skipped[:5])
            raise DataFormatError(
                f"{where}: none of {len(self.skipped)} frames or files can be used:\n"
                f"{reasons}"
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
        _, atoms = next(_frames(self._paths[self._files[0]]))
        results = [] if atoms.calc is None else list(atoms.calc.results)
        names = sorted(
            {*results, *atoms.info, *atoms.arrays} - {"numbers", "positions"}
        )
        return (
            f"The first frame holds {', '.join(names) or 'nothing'}: say which with "
            "energy_key, forces_key and stress_key."
        )


def _frames(path: Path) -> Iterator[tuple[int, Atoms]]:
    """Give the frames of a file with their numbers, one after the other."""
    if path.name.endswith(DATABASE_SUFFIXES):
        for row_id in row_ids(path):
            yield row_id, _database_frame(path, row_id)
        return
    import ase.io
    from ase.io.formats import open_with_compression

    with reading(path):
        # Decompressed at once: ASE seeks back and forth, which xz and bz2 can only do
        # by starting over (80 s for 800 frames). And a file that ends early is
        # refused, not used in part.
        with open_with_compression(str(path), "r") as file:
            text = io.StringIO(file.read())
        frames = ase.io.read(text, ":", format="extxyz")
    if not frames:
        raise DataFormatError(f"{path}: the file has no frames; give another one.")
    yield from enumerate(frames)


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
