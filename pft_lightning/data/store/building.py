"""Building a store: resumable at each structure, mended if damaged, skips counted."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pft_lightning.data.readers import PhononReadOptions, list_entries, read_entry
from pft_lightning.data.readers.names import is_store, source_state
from pft_lightning.data.readers.options import reading
from pft_lightning.data.records import StructureRecord
from pft_lightning.data.sources import Spec, find_sources
from pft_lightning.data.store.file import (
    PLACE,
    BlockReader,
    BlockWriter,
    read_blocks,
)
from pft_lightning.data.store.format import encode
from pft_lightning.data.store.index import (
    FORMAT_VERSION,
    INDEX_FILE,
    LOCK_FILE,
    RECORDS_FILES,
    open_finished,
    read_header,
    unique_names,
    write_header,
    write_index,
)
from pft_lightning.data.store.processes import mapper
from pft_lightning.data.store.report import PrepareReport, build_report
from pft_lightning.data.store.volumes import describe_crystal
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.files import make_folder, remove_partials, replacing, writing
from pft_lightning.graphs import build_graph
from pft_lightning.locks import locked


# Reasons shown when nothing could be read.
_MAX_REASONS = 5

_SUFFIX = ".dat"


@dataclass(frozen=True, slots=True)
class _Unit:
    """One structure of a source, before it is read."""

    path: Path
    entry: int | None
    fingerprint: str

    @property
    def key(self) -> str:
        text = f"{self.path.absolute()}#{self.entry}"
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def build_store(
    sources: Spec,
    out: str | Path,
    *,
    cutoff: float,
    progress: bool = True,
    n_workers: int = 0,
    verify: bool = True,
    wait: bool = False,
    **read_options: Any,
) -> PrepareReport:
    """Read phonon calculations into a store, or bring a store up to date.

    A build that was interrupted, by SIGKILL or a full disk too, goes on where it
    stopped, and a damaged store is mended. Structures whose files have not changed
    since (path, size, time of change) are kept; those whose files are gone are
    removed. A file that cannot be used is skipped, counted and named in the report.

    Args:
        sources: file, folder, glob, store, or a list of them.
        out: directory of the store, e.g. ``train.store``.
        cutoff: of the cached graphs, Å; at least that of the models to be trained.
        progress: show a progress bar.
        n_workers: processes that read; 0 reads in this one.
        verify: compare all that is there with its checksums, which takes a second or
            so per GB; otherwise that is done when it is used.
        wait: for another process that builds the same store.
        **read_options: fields of ``PhononReadOptions``.

    Returns:
        What was read and what was skipped; also kept in the store.

    Raises:
        DataFormatError: no source, or nothing in them could be read.
        ConfigError: ``out`` is a directory of something else, or an option is wrong.
        StorageError: the disk is full, ``out`` cannot be written, or another process
            builds the same store.
    """
    options, out = PhononReadOptions(**read_options), Path(out)
    if not cutoff > 0:
        raise ConfigError(f"cutoff={cutoff}; a positive length in Å is needed.")
    units, skipped = _find_units(sources, out)
    settings = {
        "format_version": FORMAT_VERSION,
        "cutoff": float(cutoff),
        "options": json.loads(json.dumps(asdict(options))),
    }
    builder = _Builder(
        out, settings, units, skipped, options, progress, n_workers, verify
    )
    if (report := builder.current()) is not None:
        return report
    make_folder(out)
    busy = f"{out}: another process builds this store now."
    with locked(out / LOCK_FILE, busy=busy, wait=wait):
        # The other process may have done it.
        return builder.current() or builder.build()


@dataclass(slots=True)
class _Builder:
    """Brings one store in line with its sources.

    Attributes:
        out: directory of the store.
        settings: content of its header.
        units: structures of the sources.
        skipped: sources that could not be listed, and why.
        options: how files are read.
        progress: show a progress bar.
        n_workers: processes that read.
        verify: read every record that is there, and read damaged ones anew.
    """

    out: Path
    settings: dict[str, Any]
    units: list[_Unit]
    skipped: list[tuple[str, str]]
    options: PhononReadOptions
    progress: bool
    n_workers: int
    verify: bool
    started: float = field(default_factory=time.perf_counter)

    def current(self) -> PrepareReport | None:
        """The report of a store that needs no work; None where it does.

        Nothing is written, so that finished stores on read-only disks can be used.
        """
        finished = self._finished()
        if finished is None:
            return None
        entries, reader = finished
        wanted = [(unit.key, unit.fingerprint) for unit in self.units]
        if [(e["key"], e["fingerprint"]) for e in entries] != wanted:
            return None
        if self.verify and not all(_is_whole(entry, reader) for entry in entries):
            return None
        return self._report(entries, set(), reader.size)

    def build(self) -> PrepareReport:
        """Read what is new or has changed, and write the index."""
        with writing(self.out):
            if self._header() != self.settings:
                self._remove((INDEX_FILE, RECORDS_FILES))
                write_header(self.out, self.settings)
            remove_partials(self.out)
            path, end, known = self._start()
        todo = [
            unit
            for unit in self.units
            if known.get(unit.key, {}).get("fingerprint") != unit.fingerprint
        ]
        make = partial(_make, cutoff=self.settings["cutoff"], options=self.options)
        with BlockWriter(path, end) as writer, mapper(self.n_workers) as mapped:
            for entry, value in tqdm(
                mapped(make, todo),
                total=len(todo),
                desc="reading phonons",
                unit="structure",
                disable=not self.progress or not todo,
            ):
                known[entry["key"]] = writer.append(entry, value or b"")
        entries = [known[unit.key] for unit in self.units]
        report = self._report(entries, {unit.key for unit in todo}, path.stat().st_size)
        write_index(self.out, path.name, entries, report)
        with writing(self.out):
            self._remove((RECORDS_FILES,), but=path.name)
        return report

    def _start(self) -> tuple[Path, int, dict[str, dict[str, Any]]]:
        """Choose the data file to go on with.

        A finished data file is never changed: runs that train on it go on reading it.

        Returns:
            The file, where its whole blocks end, and their entries by key.
        """
        finished = self._finished()
        newest = max(self.out.glob(f"{RECORDS_FILES}{_SUFFIX}"), default=None)
        if finished is None:
            (self.out / INDEX_FILE).unlink(missing_ok=True)
            path = newest or self.out / f"records.0001{_SUFFIX}"
        elif newest is not None and newest.name != finished[1].path.name:
            path = newest
        else:
            return self._copy(*finished)
        entries, end = read_blocks(path) if path.is_file() else ({}, 0)
        return path, end, entries

    def _copy(
        self, entries: list[dict[str, Any]], reader: BlockReader
    ) -> tuple[Path, int, dict[str, dict[str, Any]]]:
        """Start the next data file with what is still wanted of a finished one."""
        number = int(reader.path.name.split(".")[1]) + 1
        path = self.out / f"records.{number:04d}{_SUFFIX}"
        wanted = {unit.key: unit.fingerprint for unit in self.units}
        kept = {}
        with replacing(path) as temporary, BlockWriter(temporary) as writer:
            for entry in entries:
                if wanted.get(entry["key"]) != entry["fingerprint"]:
                    continue
                with suppress(DataFormatError):  # damaged ones are read anew
                    value = reader.get(entry[PLACE], entry["source"])
                    kept[entry["key"]] = writer.append(entry, value)
        return path, path.stat().st_size, kept

    def _finished(self) -> tuple[list[dict[str, Any]], BlockReader] | None:
        """Entries and data file of a finished, whole store with the same settings."""
        try:
            header, entries, _, reader = open_finished(self.out)
        except DataFormatError:
            return None
        return (entries, reader) if header == self.settings else None

    def _header(self) -> dict[str, Any] | None:
        try:
            return read_header(self.out)
        except DataFormatError:
            return None

    def _remove(self, patterns: tuple[str, ...], but: str = "") -> None:
        for pattern in patterns:
            for old in self.out.glob(pattern):
                if old.name != but:
                    old.unlink()

    def _report(
        self, entries: list[dict[str, Any]], read_now: set[str], n_bytes: int
    ) -> PrepareReport:
        skipped = [
            *self.skipped,
            *((e["source"], e["skipped"]) for e in entries if "skipped" in e),
        ]
        usable = [entry for entry in entries if "skipped" not in entry]
        if not usable:
            reasons = "\n".join(f"  {reason}" for _, reason in skipped[:_MAX_REASONS])
            more = len(skipped) - _MAX_REASONS
            raise DataFormatError(
                f"none of {len(skipped)} phonon sources could be read:\n{reasons}"
                + (f"\n  and {more} more" if more > 0 else "")
            )
        names = unique_names(entry["name"] for entry in usable)
        return build_report(
            [{**e, "name": name} for e, name in zip(usable, names, strict=True)],
            skipped,
            n_read=sum(entry["key"] in read_now for entry in usable),
            cutoff=self.settings["cutoff"],
            n_bytes=n_bytes,
            seconds=time.perf_counter() - self.started,
        )


def _is_whole(entry: dict[str, Any], reader: BlockReader) -> bool:
    try:
        reader.get(entry[PLACE], entry["source"])
    except DataFormatError:
        return False
    return True


def _check_out(out: Path) -> None:
    if out.exists() and not is_store(out) and (out.is_file() or any(out.iterdir())):
        leftover = {path.name for path in out.iterdir()} if out.is_dir() else {"."}
        if leftover - {LOCK_FILE}:
            raise ConfigError(
                f"{out}: exists and is not a store; nothing is written into it. Give "
                "another out=..., ending in .store by custom."
            )


def _find_units(sources: Spec, out: Path) -> tuple[list[_Unit], list[tuple[str, str]]]:
    """List the structures of all sources but the store itself, and what is skipped."""
    found = find_sources(sources)
    _check_out(out)
    units: list[_Unit] = []
    skipped = list(found.skipped)
    for path in found.paths:
        if path.absolute() == out.absolute():
            continue
        try:
            with reading(path):
                fingerprint = json.dumps(source_state(path))
            units += [_Unit(path, entry, fingerprint) for entry in list_entries(path)]
        except DataFormatError as error:
            skipped.append((str(path), str(error)))
    return units, skipped


def _make(
    unit: _Unit, *, cutoff: float, options: PhononReadOptions
) -> tuple[dict[str, Any], bytes | None]:
    """Read one structure; gives its index entry and its bytes, None where skipped."""
    entry: dict[str, Any] = {
        "key": unit.key,
        "fingerprint": unit.fingerprint,
        "source": str(unit.path),
    }
    try:
        record = read_entry(unit.path, unit.entry, options)
    except DataFormatError as error:
        return {**entry, "skipped": str(error)}, None
    graph = build_graph(record.positions, record.cell, record.pbc, cutoff)
    return {**entry, **_describe(record, graph.n_edges)}, encode(record, graph)


def _describe(record: StructureRecord, n_edges: int) -> dict[str, Any]:
    rules = ("acoustic_sum_rule", "permutation", "translation", "rotation")
    second = record.force_constants
    return {
        "name": record.name,
        "n_atoms": record.n_atoms,
        "n_edges": n_edges,
        "elements": sorted({int(number) for number in record.atomic_numbers}),
        "third_order": second is not None and second.third_order is not None,
        "removed": {
            rule: record.info[f"removed_{rule}"]
            for rule in rules
            if f"removed_{rule}" in record.info
        },
        "units": f"{record.info.get('units')} (from {record.info.get('units_from')})",
        "notes": record.info.get("notes", ""),
        "crystal": describe_crystal(record),
    }
