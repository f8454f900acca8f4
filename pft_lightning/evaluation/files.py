"""Files of an evaluation folder; each is complete or not there."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from pft_lightning.files import write_atomically


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON; what is not finite becomes null."""
    text = json.dumps(_plain(content), indent=2, allow_nan=False)
    _write(path, lambda file: file.write(text.encode() + b"\n"))


def read_json(path: Path) -> dict[str, Any] | None:
    """Read JSON; None where there is no file or no whole one."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def write_csv(
    path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Write rows under their columns; what is unknown stays empty."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), restval="", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if v is None else v for k, v in row.items()})
    _write(path, lambda file: file.write(text.getvalue().encode()))


def _write(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write)


def _plain(value: Any) -> Any:
    """Turn numpy scalars, tuples and numbers that JSON lacks into plain values."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value
