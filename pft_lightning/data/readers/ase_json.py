"""JSON as ASE writes it, looked at before ASE makes arrays of it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np


# Bytes that one text of an array takes.
_LONGEST_TEXT = 1024


def check_arrays(text: str) -> None:
    """Refuse JSON of ASE with arrays that take more memory than their text.

    ASE makes room for an array before it looks at the numbers.

    Raises:
        ValueError: an array is of others than numbers and short texts, or has
            fewer than it says.
    """
    json.loads(text, object_hook=_check_array)


def _check_array(content: dict[str, Any]) -> dict[str, Any]:
    if "__complex_ndarray__" in content:
        # Of two short vectors it makes a matrix.
        raise ValueError("an array is complex, as ASE wrote them long ago")
    shape, kind, numbers = content.get("__ndarray__", ([], "float64", [0]))
    if math.prod(shape) > len(numbers):
        raise ValueError(f"an array of shape {shape} has {len(numbers)} numbers")
    # One text can be of any length: names of atoms and residues are short.
    found = np.dtype(kind)
    is_text = found.kind in "US" and found.itemsize <= _LONGEST_TEXT
    if found.kind not in "biufc" and not is_text:
        raise ValueError(
            f"an array is of the kind {str(kind)[:40]!r}, neither numbers nor names"
        )
    return content
