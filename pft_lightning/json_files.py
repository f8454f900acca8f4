"""JSON files that are whole, hold no NaN, and are read with errors that name them."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pft_lightning.errors import DataFormatError
from pft_lightning.files import make_folder, write_atomically


# Python's own limit; what it counts fits into the stack of any thread.
_MAX_RECURSION = 1000


def to_json(content: Mapping[str, Any]) -> str:
    """Give the text of a JSON file; what is not finite becomes null."""
    return json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, all or nothing, into a folder that is made if need be.

    What is not finite becomes null.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    make_folder(path.parent)
    text = to_json(content)
    write_atomically(path, lambda file: file.write(text.encode()))


def parse_json(text: str | bytes) -> Any:
    """Parse JSON of others, which may be nested deeper than the stack can hold.

    Raises:
        ValueError: no JSON.
        RecursionError: too deep.
    """
    before = sys.getrecursionlimit()
    # Libraries raise it (symfc, torch's compiler) beyond what the stack can hold.
    sys.setrecursionlimit(min(before, _MAX_RECURSION))
    try:
        return json.loads(text)
    finally:
        sys.setrecursionlimit(before)


def read_json(path: Path, *, remedy: str = "Write it again.") -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: of the file.
        remedy: what to do where it is damaged.

    Raises:
        DataFormatError: there is no file, or it is damaged or something else.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataFormatError(
            f"{path}: cannot be read as JSON ({type(error).__name__}: {error}); it is "
            f"damaged, or not there. {remedy}"
        ) from error
    if not isinstance(content, dict):
        raise DataFormatError(
            f"{path}: holds a {type(content).__name__}; expected a JSON object. "
            f"{remedy}"
        )
    return content


def find_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is no file or no whole one."""
    try:
        return read_json(path)
    except DataFormatError:
        return None


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
