"""Numbers in the text files of quantum chemistry, with errors that name the file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from pft_lightning.errors import DataFormatError
from pft_lightning.files import read_data


# Fortran leaves the letter out before exponents of three digits.
_LONG_EXPONENT: Final = re.compile(r"(?<=\d)(?=[+-]\d{3}$)")


def read_lines(path: Path, *, ends: bool = False) -> list[str]:
    """Read a plain or compressed text file as lines, without their ends.

    Args:
        path: of the file.
        ends: whether programmes end every line of it; without the end, the last
            number may have lost some of its digits, and is left out.
    """
    text = read_data(path).decode("utf-8-sig", errors="replace")
    lines = text.splitlines()
    if ends and lines and not text.endswith(("\n", "\r")):
        lines[-1] = " ".join(lines[-1].split()[:-1])
    return lines


def numbers_of(words: Sequence[str], what: str, path: Path) -> np.ndarray:
    """Read numbers, also with Fortran's D as exponent, or no letter before it.

    Raises:
        DataFormatError: one of them is no finite number.
    """
    try:
        found = _floats(words)
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


def _floats(words: Sequence[str]) -> np.ndarray:
    try:
        return np.array(words, dtype=np.float64)
    except ValueError:
        plain = [word.upper().replace("D", "E") for word in words]
        return np.array(
            [_LONG_EXPONENT.sub("E", word) for word in plain], dtype=np.float64
        )


def number_of(line: str, what: str, path: Path) -> int:
    """Read the only number of a line, an integer.

    Raises:
        DataFormatError: there is none, or several, or it is no integer.
    """
    words = line.split()
    if len(words) != 1:
        raise truncated(path, f"{what} is missing")
    number = float(numbers_of(words, what, path)[0])
    if not number.is_integer():
        raise DataFormatError(
            f"{path}: {what} is {words[0][:20]}; an integer is needed. Write it again."
        )
    return int(number)


def truncated(path: Path, problem: str) -> DataFormatError:
    """Give the error over a file that ends early."""
    return DataFormatError(
        f"{path}: {problem}. The calculation was stopped, or the file was cut off: "
        "finish it, or copy it again."
    )


def repeated(path: Path, what: str) -> DataFormatError:
    """Give the error over a file with two of what a calculation has one of."""
    return DataFormatError(
        f"{path}: has {what} twice, so it holds several calculations; one is needed. "
        "Split it into a file for each."
    )
