"""Where data come from: files, folders, globs, stores, or lists of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from pft_lightning.data.readers.registry import (
    is_material_folder,
    is_phonon_source,
    is_store,
)
from pft_lightning.errors import ConfigError, DataFormatError


UPSTREAM_SUFFIXES = tuple(
    [
        kind + packed
        for kind in (".xyz", ".extxyz")
        for packed in ("", ".xz", ".gz", ".bz2")
    ]
    + [".db", ".json", ".aselmdb"]
)

_INPUT_FILES = ("phonopy.yaml", "phonopy_disp.yaml")

_EXPECTED = {
    "phonons": "phonopy yaml files (.yaml, .yaml.xz, .bz2, .gz), folders with "
    "FORCE_SETS or FORCE_CONSTANTS, .aselmdb files or stores",
    "upstream": f"files that end in {', '.join(UPSTREAM_SUFFIXES)}",
}

Spec = str | os.PathLike[str] | Sequence["str | os.PathLike[str]"]


def is_upstream_source(path: Path) -> bool:
    """Tell whether a file looks like energy, force and stress data."""
    return path.is_file() and path.name.endswith(UPSTREAM_SUFFIXES)


def find_sources(
    spec: Spec, *, kind: Literal["phonons", "upstream"] = "phonons"
) -> list[Path]:
    """Find the sources that a file, folder, glob, store or list of them stands for.

    Folders are searched to any depth. The order is that of the list, and sorted by
    path within each entry, so it does not depend on the file system; a source that is
    found twice is kept once.

    Args:
        spec: one path or pattern, or a list of them.
        kind: what to look for in folders.

    Raises:
        DataFormatError: an entry matches nothing, or a folder holds no source.
        ConfigError: no entry was given.
    """
    entries = [spec] if isinstance(spec, (str, os.PathLike)) else list(spec or [])
    if not entries:
        raise ConfigError(f"no source of {kind} data was given; expected a path.")
    found: dict[Path, None] = {}
    for entry in entries:
        for path in _find_one(os.path.expanduser(os.fspath(entry)), kind):
            found[path] = None
    return list(found)


def _find_one(entry: str, kind: Literal["phonons", "upstream"]) -> list[Path]:
    path = Path(entry)
    if path.exists():
        matches = [path]
    elif glob.has_magic(entry):
        matches = sorted(Path(match) for match in glob.glob(entry, recursive=True))
        if not matches:
            raise DataFormatError(
                f"{entry}: the pattern matches nothing (seen from {Path.cwd()}). Check "
                "it, and quote it in the shell."
            )
    else:
        raise DataFormatError(
            f"{entry}: no such file or folder (seen from {Path.cwd()}). Check the path."
        )
    found = [source for match in matches for source in _expand(match, kind)]
    if not found:
        raise DataFormatError(
            f"{entry}: no {kind} data in it; expected {_EXPECTED[kind]}."
        )
    return found


def _expand(path: Path, kind: Literal["phonons", "upstream"]) -> list[Path]:
    if path.is_file() or _is_one_material(path, kind):
        return [path]
    if is_store(path):
        return [path] if kind == "phonons" else []
    wanted: Callable[[Path], bool] = (
        is_phonon_source if kind == "phonons" else is_upstream_source
    )
    return list(_walk(path, wanted, kind))


def _walk(
    folder: Path, wanted: Callable[[Path], bool], kind: Literal["phonons", "upstream"]
) -> Iterator[Path]:
    paths = sorted(folder.iterdir())
    is_complete = any(path.name.startswith("phonopy_params.yaml") for path in paths)
    for path in paths:
        if path.name.startswith("."):
            continue
        if is_complete and path.name.startswith(_INPUT_FILES):
            # Earlier files of the same calculation, without forces.
            continue
        if path.is_dir():
            yield from _expand(path, kind)
        elif wanted(path):
            yield path


def _is_one_material(path: Path, kind: str) -> bool:
    return kind == "phonons" and is_material_folder(path)
