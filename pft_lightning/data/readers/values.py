"""Values of a file that must be numbers: checked by type before numpy converts them.

numpy takes ``true`` for 1, the text "0.5" for a number and 2.5 for the integer 2; what
a file says by mistake would be trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pft_lightning.errors import DataFormatError


def read_numbers(
    value: Any, what: str, path: Path, shape: tuple[int | None, ...]
) -> np.ndarray:
    """Make an array of nested lists of numbers.

    Args:
        value: from a YAML file.
        what: name of the value in the file, for messages.
        path: the file.
        shape: expected; None where any length will do.

    Returns:
        float64.

    Raises:
        DataFormatError: something else than a finite number is in it, or the lists
            have other lengths.
    """
    found: list[int] = []
    level = [value]
    for expected in shape:
        if not set(map(type, level)) <= {list}:
            raise _wrong_shape(path, what, found, shape)
        lengths = set(map(len, level))
        if len(lengths) > 1 or (expected is not None and lengths != {expected}):
            raise _wrong_shape(path, what, [*found, *sorted(lengths)], shape)
        found.append(lengths.pop() if lengths else 0)
        level = list(chain.from_iterable(level))
    for kind in set(map(type, level)) - {int, float}:
        example = next(entry for entry in level if type(entry) is kind)
        raise DataFormatError(
            f"{path}: {what} holds {example!r}, a {kind.__name__} where a number is "
            "due. Correct the file."
        )
    try:
        array = np.array(level, dtype=np.float64).reshape(found)
    except OverflowError as error:
        raise DataFormatError(
            f"{path}: {what} holds an integer that is no physical number ({error})."
        ) from error
    if not np.isfinite(array).all():
        index = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
        raise DataFormatError(
            f"{path}: {what}{index or ''} is {array[tuple(index)]}; a finite number is "
            "needed. Repeat that calculation or remove the file."
        )
    return array


def read_number(value: Any, what: str, path: Path) -> float:
    """Give a finite number.

    Raises:
        DataFormatError: it is something else.
    """
    return float(read_numbers(value, what, path, ()))


def read_integers(
    value: Any, what: str, path: Path, shape: tuple[int | None, ...]
) -> np.ndarray:
    """Make an int64 array of nested lists of integers, or of floats without fraction.

    Raises:
        DataFormatError: it holds something else.
    """
    array = read_numbers(value, what, path, shape)
    if (array != np.rint(array)).any() or np.abs(array).max(initial=0.0) > 1e9:
        raise DataFormatError(
            f"{path}: {what} is {np.asarray(value).tolist()}; integers are needed. "
            "Correct the file."
        )
    return array.astype(np.int64)


def read_mapping(value: Any, what: str, path: Path) -> Mapping[str, Any]:
    """Give a mapping.

    Raises:
        DataFormatError: it is something else.
    """
    if not isinstance(value, Mapping):
        raise DataFormatError(
            f"{path}: {what} is a {type(value).__name__}; lines of 'name: value' are "
            "expected. Correct the file."
        )
    return value


def _wrong_shape(
    path: Path, what: str, found: list[int], shape: tuple[int | None, ...]
) -> DataFormatError:
    expected = ", ".join("any" if n is None else str(n) for n in shape)
    return DataFormatError(
        f"{path}: {what} has lists of lengths {found or 'none'}; expected numbers in "
        f"lists of lengths ({expected}). The file is damaged or of another kind."
    )
