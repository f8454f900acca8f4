"""Failures of one material or model: which are kept, and which end the evaluation."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import numpy as np

from pft_lightning.errors import (
    ConfigError,
    DivergenceError,
    PFTError,
    StorageError,
    UnknownElementError,
)
from pft_lightning.evaluation.folder import ERROR, FAILED, STATUS
from pft_lightning.files import find_system_error


def check_failure(error: Exception) -> None:
    """Raise what is no failure of a material: a wrong option, or a full disk.

    Raises:
        ConfigError: an option is wrong, for every material.
        StorageError: results cannot be written.
    """
    is_option = isinstance(error, ConfigError)
    if isinstance(error, StorageError) or (
        is_option and not isinstance(error, UnknownElementError)
    ):
        raise error


def is_lasting(error: Exception) -> bool:
    """Tell whether the same input would fail again.

    Lack of memory, an unreachable disk and what nobody foresaw may pass.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return False
        cause = cause.__cause__ or cause.__context__
    return isinstance(error, PFTError) and find_system_error(error) is None


def describe(error: Exception) -> str:
    """Say what happened in one line or a few."""
    return f"{type(error).__name__}: {error}"


def failed_row(error: Exception) -> dict[str, str]:
    """Columns of a failure."""
    row = {STATUS: FAILED, ERROR: describe(error)}
    if not isinstance(error, PFTError):
        # Nobody foresaw it: keep what a bug report needs.
        row["traceback"] = "".join(traceback.format_exception(error))
    return row


def check_finite(arrays: np.ndarray | Sequence[np.ndarray], what: str) -> None:
    """Refuse what a potential gives of displaced supercells if it is not finite.

    Args:
        arrays: of each supercell.
        what: they are.

    Raises:
        DivergenceError: a number is NaN or infinite.
    """
    broken = sum(not np.isfinite(array).all() for array in arrays)
    if broken:
        raise DivergenceError(
            f"{what} are not finite in {broken} of {len(arrays)} displaced supercells."
        )
