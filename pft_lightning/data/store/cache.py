"""Stores that are built on first use and found again."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.readers.names import is_store
from pft_lightning.data.sources import Spec, find_sources
from pft_lightning.data.store.building import build_store
from pft_lightning.data.store.index import HEADER_FILE
from pft_lightning.data.store.reading import PhononStore
from pft_lightning.errors import ConfigError
from pft_lightning.json_files import find_json


def choose_cache(folder: str | os.PathLike[str] | None, option: str) -> Path:
    """Choose the folder in which stores are built on first use.

    Args:
        folder: that was asked for; None takes that of the user.
        option: that it was asked for with.

    Raises:
        ConfigError: it is no path, or that of a file.
    """
    if folder is None:
        return user_cache_path("pft_lightning")
    if not isinstance(folder, (str, os.PathLike)) or not str(folder):
        raise ConfigError(f"{option}={folder!r}; expected a folder, or null.")
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ConfigError(f"{option}={folder}: is a file; expected a folder, or null.")
    return Path(folder)


def cached_store(
    sources: Spec,
    *,
    cutoff: float,
    cache_dir: str | Path,
    progress: bool = True,
    n_workers: int = 0,
    **read_options: Any,
) -> PhononStore:
    """Open a store, or build one on first use and reuse it.

    Args:
        sources: a store, which is opened, or anything that ``build_store`` takes. For
            several stores, or stores among files, a new one is built.
        cutoff: of the model, Å.
        cache_dir: where built stores are kept.
        progress: show a progress bar while building.
        n_workers: processes that read; 0 reads in this one.
        **read_options: fields of ``PhononReadOptions``.

    Raises:
        ConfigError: an option of reading was given that a store was not made with.
        DataFormatError: see ``build_store``; the cutoff is larger than the store's.
    """
    paths = find_sources(sources).paths
    for path in filter(is_store, paths):
        _check_options(path, PhononReadOptions(**read_options))
    if len(paths) == 1 and is_store(paths[0]):
        path = paths[0]
    else:
        path = Path(cache_dir) / _cache_name(sources, cutoff, read_options)
        build_store(
            sources,
            path,
            cutoff=cutoff,
            progress=progress,
            n_workers=n_workers,
            verify=False,
            wait=True,
            **read_options,
        )
    store = PhononStore(path)
    store.require_cutoff(cutoff)
    return store


def _check_options(store: Path, given: PhononReadOptions) -> None:
    """Refuse an option that would have no effect on what was read before."""
    made = (find_json(store / HEADER_FILE) or {}).get("options")
    usual = asdict(PhononReadOptions())
    for name, value in asdict(given).items():
        if value == usual[name] or not isinstance(made, dict) or name not in made:
            continue
        if json.loads(json.dumps(value)) != made[name]:
            raise ConfigError(
                f"options.{name} is {value}, and {store} was made with {made[name]}, "
                "which the files were read with. Make the store again with "
                f"pft-prepare and options.{name}={value}, or leave the option out "
                "(an experiment may set it)."
            )


def _cache_name(sources: Spec, cutoff: float, read_options: dict[str, Any]) -> str:
    """Name a store by what it is built from, so that the same request finds it."""
    listed = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    identity = json.dumps(
        [
            [str(Path(source).expanduser().absolute()) for source in listed],
            float(cutoff),
            asdict(PhononReadOptions(**read_options)),
        ]
    )
    return f"phonons-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.store"
