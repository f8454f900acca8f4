"""What a store consists of, and its header and index.

A store is a directory: ``store.json`` says what it was built with, one data file
holds a block per structure, ``index.json`` lists the structures and is written last,
so that it marks a finished store.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pft_lightning.data.readers.names import STORE_HEADER, STORE_INDEX
from pft_lightning.data.store import earlier
from pft_lightning.data.store.file import PLACE, BlockReader
from pft_lightning.data.store.report import PrepareReport
from pft_lightning.errors import DataFormatError
from pft_lightning.files import write_atomically
from pft_lightning.json_files import parse_json, read_json, write_json


FORMAT_VERSION = 3

HEADER_FILE = STORE_HEADER
INDEX_FILE = STORE_INDEX
LOCK_FILE = "build.lock"
RECORDS_FILES = "records.*"

_CHECKSUM = '{{"crc32": "{:08x}", '
_LENGTH = len(_CHECKSUM.format(0))


def open_store(
    store: Path,
) -> tuple[float, list[dict[str, Any]], PrepareReport, BlockReader]:
    """Open a finished store of any version that can be read.

    Returns:
        Cutoff of the graphs, entries (also of skipped structures), report, and the
        open data file.

    Raises:
        DataFormatError: no store, an unfinished, damaged or truncated one, or one of
            a version that cannot be read.
    """
    path = store / HEADER_FILE
    if path.is_file():
        header = read_json(path, remedy=_remedy(store))
        if header.get("format_version") == earlier.VERSION:
            entries, report, reader = earlier.open_earlier(store, INDEX_FILE)
            return report.cutoff, entries, report, reader
    header, entries, report, reader = open_finished(store)
    return float(header["cutoff"]), entries, report, reader


def write_header(store: Path, settings: dict[str, Any]) -> None:
    """Write what a store is built with."""
    write_json(store / HEADER_FILE, settings)


def read_header(store: Path) -> dict[str, Any]:
    """Read what a store was built with.

    Raises:
        DataFormatError: no store, damaged, or of another version.
    """
    path = store / HEADER_FILE
    if not path.is_file():
        raise DataFormatError(
            f"{store}: not a store (no {HEADER_FILE} in it). Build one: "
            f"pft-prepare phonons=... out={store}"
        )
    header = read_json(path, remedy=_remedy(store))
    version, cutoff = header.get("format_version"), header.get("cutoff")
    if version != FORMAT_VERSION:
        raise DataFormatError(
            f"{store}: a store of format version {version}; this release reads version "
            f"{FORMAT_VERSION}. Build it again with pft-prepare."
        )
    if isinstance(cutoff, bool) or not isinstance(cutoff, (int, float)) or cutoff <= 0:
        raise DataFormatError(
            f"{path}: cutoff is {cutoff!r}; a positive length in Å is needed. "
            + _remedy(store)
        )
    return header


def write_index(
    store: Path,
    records_file: str,
    entries: list[dict[str, Any]],
    report: PrepareReport,
) -> None:
    """Write the index, which marks a store as finished.

    Args:
        store: its directory.
        records_file: name of the data file.
        entries: one for each structure, also of those that were skipped.
        report: of the build.
    """
    text = json.dumps(
        {"records_file": records_file, "entries": entries, "report": report.to_dict()}
    )[1:].encode()
    head = _CHECKSUM.format(zlib.crc32(text)).encode()
    write_atomically(store / INDEX_FILE, lambda file: file.write(head + text))


def open_finished(
    store: Path,
) -> tuple[dict[str, Any], list[dict[str, Any]], PrepareReport, BlockReader]:
    """Open a finished store.

    Returns:
        Header, entries (also of skipped structures), report, and the open data file.

    Raises:
        DataFormatError: no store, an unfinished, damaged or truncated one, or one of
            another version.
    """
    header = read_header(store)
    index = read_index(store)
    try:
        reader = BlockReader(store / index["records_file"])
    except FileNotFoundError:
        # Another process may just have replaced both.
        index = read_index(store)
        reader = _open_data(store, index["records_file"])
    except OSError as error:
        raise _no_data(store, index["records_file"], error) from error
    try:
        entries = index["entries"]
        report = PrepareReport.from_dict(index["report"])
        cutoff = report.cutoff
        ends = [sum(e[PLACE][:2]) for e in entries if "skipped" not in e]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(store / INDEX_FILE, f"lacks or garbles {error}") from error
    if cutoff != header["cutoff"]:
        raise _damaged(
            store / HEADER_FILE,
            f"says a cutoff of {header['cutoff']} Å, the index one of {cutoff} Å",
        )
    if reader.size < max(ends, default=0):
        raise _damaged(
            reader.path,
            f"has {reader.size} bytes, {max(ends)} are expected; it was truncated",
        )
    return header, entries, report, reader


def read_index(store: Path) -> dict[str, Any]:
    """Read the index of a finished store, whole and unchanged.

    Raises:
        DataFormatError: there is none, or it is damaged.
    """
    path = store / INDEX_FILE
    if not path.is_file():
        raise DataFormatError(
            f"{store}: the store is not finished; its build was interrupted. Run the "
            "same pft-prepare command again: it goes on where it stopped."
        )
    text = path.read_bytes()
    if not text.startswith(_CHECKSUM.format(zlib.crc32(text[_LENGTH:])).encode()):
        raise _damaged(
            path, "is damaged, or was changed since it was written (wrong checksum)"
        )
    index: dict[str, Any] = parse_json(text)
    return index


def unique_names(names: Iterable[str]) -> list[str]:
    """Number the names that occur twice."""
    seen: set[str] = set()
    found = []
    for name in names:
        unique, copy_number = name, 1
        while unique in seen:
            copy_number += 1
            unique = f"{name} ({copy_number})"
        seen.add(unique)
        found.append(unique)
    return found


def _open_data(store: Path, name: str) -> BlockReader:
    try:
        return BlockReader(store / name)
    except OSError as error:
        raise _no_data(store, name, error) from error


def _no_data(store: Path, name: str, error: OSError) -> DataFormatError:
    return DataFormatError(
        f"{store / name}: cannot be opened ({error.strerror}), though the store's "
        f"index names it. {_remedy(store)}"
    )


def _damaged(path: Path, what: str) -> DataFormatError:
    return DataFormatError(f"{path}: {what}. {_remedy(path.parent)}")


def _remedy(store: Path) -> str:
    return (
        f"The store is damaged: run the same pft-prepare command again, or delete the "
        f"folder {store} and build it again."
    )
