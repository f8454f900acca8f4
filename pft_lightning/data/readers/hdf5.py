"""Arrays of HDF5 files, whose sizes are looked at before anything is read.

A compressed array of some kilobytes may be larger than memory.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np

from pft_lightning.errors import DataFormatError


# Most bytes of a chunk that is larger than its array: to read one number of a chunk,
# all of it is unpacked.
_MAX_CHUNK: Final = 1 << 24

# Longest name of a unit.
_MAX_UNIT: Final = 80


def check_numbers(array: Any, file: Path, kinds: str = "iuf") -> None:
    """Refuse an array that is not of numbers, or in chunks larger than it is.

    Args:
        array: of h5py; its shape is checked already.
        file: for the message.
        kinds: of numbers, as numpy has them.

    Raises:
        DataFormatError: names the array and what it holds.
    """
    chunk = math.prod(array.chunks or ()) * array.dtype.itemsize
    if array.dtype.kind not in kinds or chunk > max(array.nbytes, _MAX_CHUNK):
        raise DataFormatError(
            f"{file}: {array.name} has the type {str(array.dtype)[:80]} and chunks of "
            f"{chunk} bytes; numbers in chunks of at most {_MAX_CHUNK} bytes are "
            "expected. Write it again with phonopy or phono3py."
        )


def read_rows(content: Any, n_rows: int, file: Path) -> np.ndarray | None:
    """Read the atoms that the rows of compact force constants belong to.

    Args:
        content: the open file.
        n_rows: of the force constants.
        file: for the message.

    Returns:
        (n_rows,), or None where the file does not say.

    Raises:
        DataFormatError: there are more or fewer atoms than rows.
    """
    if "p2s_map" not in content:
        return None
    rows = content["p2s_map"]
    if rows.shape != (n_rows,):
        raise DataFormatError(
            f"{file}: p2s_map has shape {rows.shape}; expected {(n_rows,)}, an atom "
            "for each row of the force constants. Write full force constants."
        )
    check_numbers(rows, file, "iu")
    return np.array(rows)


def read_unit(content: Any, file: Path) -> str | None:
    """Read the unit of force constants; None where the file does not say.

    Raises:
        DataFormatError: it is no short text.
    """
    if "physical_unit" not in content:
        return None
    unit = content["physical_unit"]
    if unit.shape != (1,) or unit.dtype.itemsize > _MAX_UNIT or unit.chunks:
        raise DataFormatError(
            f"{file}: physical_unit has shape {unit.shape} and the type "
            f"{str(unit.dtype)[:80]}; one name of a unit is expected. Write the file "
            "again with phonopy."
        )
    name = unit[0]
    return name.decode() if isinstance(name, bytes) else str(name)
