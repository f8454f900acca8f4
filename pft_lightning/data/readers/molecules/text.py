"""Numbers in the text files of quantum chemistry, with errors that name the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pft_lightning.errors import DataFormatError
from pft_lightning.files import read_data


def read_lines(path: Path, *, ends: bool = False) -> list[str]:
    """Read a plain or compressed text file as lines, without their ends.

    Args:
        path: of the file.
        ends: whether programmes end every line of it; without the end, the last
            number may have lost some of its digits, and is left out.
    """
    text = read_data(path).decode("utf-8", errors="replace")
    lines = text.splitlines()
    if ends and lines and not text.endswith(("\n", "\r")):
        lines[-1] = " ".join(lines[-1].split()[:-1])
    return lines


def numbers_of(words: Sequence[str], what: str, path: Path) -> np.ndarray:
    """Read numbers, also with Fortran's D as exponent.

    Raises:
        DataFormatError: one of them is no finite number.
    """
    try:
        found = np.array([word.replace("D", "E") for word in words], dtype=np.float64)
    except ValueError as error:
        raise DataFormatError(
            f"{path}: {what} holds {' '.join(words)[:60]!r}; numbers are needed. The "
            "file was changed or cut off: write it again."
        ) from error
    if not np.isfinite(found).all():
        raise DataFormatError(
            f"{path}: {what} holds a number that is not finite. Repeat the calculation."
        )
    return found


def number_of(line: str, what: str, path: Path) -> float:
    """Read the only number of a line.

    Raises:
        DataFormatError: there is none, or several.
    """
    words = line.split()
    if len(words) != 1:
        raise truncated(path, f"{what} is missing")
    return float(numbers_of(words, what, path)[0])


def truncated(path: Path, problem: str) -> DataFormatError:
    """Give the error over a file that ends early."""
    return DataFormatError(
        f"{path}: {problem}. The calculation was stopped, or the file was cut off: "
        "finish it, or copy it again."
    )
