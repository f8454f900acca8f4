"""Building a store: resumable, one transaction per few structures, skips counted."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import lmdb
from tqdm import tqdm

from pft_lightning.data._prepare_report import PrepareReport, build_report
from pft_lightning.data._store_format import (
    ENTRY_PREFIX,
    FORMAT_VERSION,
    HEADER_FILE,
    INDEX_FILE,
    RECORD_PREFIX,
    Reader,
    encode,
    open_for_writing,
    read_json,
    write_json,
)
from pft_lightning.data.readers import PhononReadOptions, list_entries, read_entry
from pft_lightning.data.readers.registry import is_store
from pft_lightning.data.records import StructureRecord
from pft_lightning.data.sources import Spec, find_sources
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.graphs import build_graph


# Work that an interruption may cost, s.
_SECONDS_PER_COMMIT = 1.0

# Reasons shown when nothing could be read.
_MAX_REASONS = 5

_RECORDS_FILES = "records.*.lmdb"


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
    **read_options: Any,
) -> PrepareReport:
    """Read phonon calculations into a store, or bring a store up to date.

    A build that was interrupted, by SIGKILL too, goes on where it stopped. Structures
    whose files have not changed since (path, size, time of change) are kept; those
    whose files are gone are removed. A file that cannot be used is skipped, counted
    and named in the report.

    Args:
        sources: file, folder, glob, store, or a list of them.
        out: directory of the store, e.g. ``train.store``.
        cutoff: of the cached graphs, Å; at least that of the models to be trained.
        progress: show a progress bar.
        n_workers: processes that read; 0 reads in this one.
        **read_options: fields of ``PhononReadOptions``.

    Returns:
        What was read and what was skipped; also kept in the store.

    Raises:
        DataFormatError: no source, or nothing in them could be read.
        ConfigError: ``out`` is a directory of something else, or an option is wrong.
    """
    started = time.perf_counter()
    options = PhononReadOptions(**read_options)
    if not cutoff > 0:
        raise ConfigError(f"cutoff={cutoff}; a positive length in Å is needed.")
    paths = [
        path for path in find_sources(sources) if path.absolute() != _absolute(out)
    ]
    out = Path(out)
    _create(out)
    with filelock.FileLock(out / "build.lock"):
        units, skipped = _list_units(paths)
        settings = {
            "format_version": FORMAT_VERSION,
            "cutoff": float(cutoff),
            "options": json.loads(json.dumps(asdict(options))),
        }
        _prepare_files(out, settings)
        records_file, entries, read_now = _update(
            out, units, float(cutoff), options, progress, n_workers
        )
        return _finish(out, records_file, entries, skipped, read_now, cutoff, started)


def _absolute(path: str | Path) -> Path:
    return Path(path).absolute()


def _create(out: Path) -> None:
    if out.exists() and not is_store(out) and (out.is_file() or any(out.iterdir())):
        leftover = {path.name for path in out.iterdir()} if out.is_dir() else {"."}
        if leftover - {"build.lock"}:
            raise ConfigError(
                f"{out}: exists and is not a store; nothing is written into it. Give "
                "another out=..., ending in .store by custom."
            )
    out.mkdir(parents=True, exist_ok=True)


def _prepare_files(out: Path, settings: dict[str, Any]) -> None:
    """Write the header, and start anew where the settings changed."""
    header = read_json(out / HEADER_FILE) if is_store(out) else None
    if header is None or any(header.get(key) != settings[key] for key in settings):
        (out / INDEX_FILE).unlink(missing_ok=True)
        for old in out.glob(_RECORDS_FILES):
            old.unlink()
        write_json(out / HEADER_FILE, settings)


def _next_file(out: Path) -> tuple[Path, Path | None]:
    """Name the data file to work on, and a finished one that it starts as a copy of.

    A finished data file is never changed: runs that train on it go on reading it.
    """
    existing = sorted(out.glob(_RECORDS_FILES))
    newest = existing[-1] if existing else None
    if not (out / INDEX_FILE).is_file():
        return newest or out / "records.0001.lmdb", None
    finished = out / str(read_json(out / INDEX_FILE)["records_file"])
    if newest is not None and newest != finished:
        return newest, None
    number = int(finished.name.split(".")[1]) + 1
    return out / f"records.{number:04d}.lmdb", finished


def _list_units(paths: list[Path]) -> tuple[list[_Unit], list[tuple[str, str]]]:
    units: list[_Unit] = []
    skipped: list[tuple[str, str]] = []
    for path in paths:
        try:
            fingerprint = _fingerprint(path)
            units += [_Unit(path, entry, fingerprint) for entry in list_entries(path)]
        except DataFormatError as error:
            skipped.append((str(path), str(error)))
    return units, skipped


def _fingerprint(path: Path) -> str:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return json.dumps([[name, s.st_size, s.st_mtime_ns] for name, s in stats])


def _update(
    out: Path,
    units: list[_Unit],
    cutoff: float,
    options: PhononReadOptions,
    progress: bool,
    n_workers: int,
) -> tuple[Path, list[dict[str, Any]], set[str]]:
    """Bring the data file in line with the sources.

    Returns:
        The data file, its entries in the order of the sources, and the keys of those
        that were read now.
    """
    records_file, finished = _next_file(out)
    known: dict[str, dict[str, Any]] = {}
    if finished is not None or records_file.is_file():
        known = _read_entries(Reader.of(finished or records_file).environment)
    todo = [
        unit
        for unit in units
        if known.get(unit.key, {}).get("fingerprint") != unit.fingerprint
    ]
    gone = set(known) - {unit.key for unit in units}
    if finished is not None:
        if not todo and not gone:
            return finished, [known[unit.key] for unit in units], set()
        temporary = records_file.with_suffix(".copy")
        temporary.unlink(missing_ok=True)
        Reader.of(finished).environment.copy(str(temporary), compact=True)
        temporary.replace(records_file)
    environment = open_for_writing(records_file)
    try:
        with environment.begin(write=True) as transaction:
            for key in gone:
                transaction.delete(RECORD_PREFIX + key.encode())
                transaction.delete(ENTRY_PREFIX + key.encode())
        make = partial(_make, cutoff=cutoff, options=options)
        with _mapper(n_workers) as mapped:
            results = tqdm(
                mapped(make, todo),
                total=len(todo),
                desc="reading phonons",
                unit="structure",
                disable=not progress or not todo,
            )
            _write(environment, results)
        known = _read_entries(environment)
    finally:
        environment.close()
    return records_file, [known[unit.key] for unit in units], {u.key for u in todo}


@contextmanager
def _mapper(n_workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """Give ``map``, or that of a pool of processes."""
    if n_workers < 1:
        yield map
        return
    # fork would copy the locks of torch's and BLAS's running threads.
    with multiprocessing.get_context("spawn").Pool(n_workers) as pool:
        yield pool.imap


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
    rules = ("acoustic_sum_rule", "permutation", "translation")
    return {
        "name": record.name,
        "n_atoms": record.n_atoms,
        "n_edges": n_edges,
        "elements": sorted({int(number) for number in record.atomic_numbers}),
        "removed": {rule: record.info.get(f"removed_{rule}", 0.0) for rule in rules},
        "units": f"{record.info.get('units')} (from {record.info.get('units_from')})",
    }


def _write(
    environment: lmdb.Environment,
    results: Iterable[tuple[dict[str, Any], bytes | None]],
) -> None:
    pending: list[tuple[dict[str, Any], bytes | None]] = []
    last = time.monotonic()
    try:
        for result in results:
            pending.append(result)
            if time.monotonic() - last > _SECONDS_PER_COMMIT:
                _commit(environment, pending)
                last = time.monotonic()
    finally:
        # Ctrl-C loses nothing that was read.
        _commit(environment, pending)


def _commit(
    environment: lmdb.Environment, pending: list[tuple[dict[str, Any], bytes | None]]
) -> None:
    with environment.begin(write=True) as transaction:
        for entry, value in pending:
            key = entry["key"].encode()
            if value is None:
                transaction.delete(RECORD_PREFIX + key)
            else:
                transaction.put(RECORD_PREFIX + key, value)
            transaction.put(ENTRY_PREFIX + key, json.dumps(entry).encode())
    pending.clear()


def _read_entries(environment: lmdb.Environment) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    with environment.begin() as transaction:
        cursor = transaction.cursor()
        found = cursor.set_range(ENTRY_PREFIX)
        while found and cursor.key().startswith(ENTRY_PREFIX):
            entry = json.loads(cursor.value())
            entries[entry["key"]] = entry
            found = cursor.next()
    return entries


def _finish(
    out: Path,
    records_file: Path,
    entries: list[dict[str, Any]],
    skipped: list[tuple[str, str]],
    read_now: set[str],
    cutoff: float,
    started: float,
) -> PrepareReport:
    skipped = [
        *skipped,
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
    _make_names_unique(usable)
    report = build_report(
        usable,
        skipped,
        n_read=sum(entry["key"] in read_now for entry in usable),
        cutoff=float(cutoff),
        n_bytes=records_file.stat().st_size,
        seconds=time.perf_counter() - started,
    )
    index = out / INDEX_FILE
    if not index.is_file() or read_json(index)["records_file"] != records_file.name:
        fields = ("key", "name", "n_atoms", "n_edges", "elements", "source")
        write_json(
            index,
            {
                "records_file": records_file.name,
                "entries": [{f: entry[f] for f in fields} for entry in usable],
                "report": report.to_dict(),
            },
        )
        for old in out.glob(f"{_RECORDS_FILES}*"):
            if not old.name.startswith(records_file.name):
                old.unlink()
    return report


def _make_names_unique(entries: list[dict[str, Any]]) -> None:
    seen: set[str] = set()
    for entry in entries:
        name, copy_number = entry["name"], 1
        while entry["name"] in seen:
            copy_number += 1
            entry["name"] = f"{name} ({copy_number})"
        seen.add(entry["name"])
