"""Checkpoints that are either whole or absent, and what is said of damaged ones."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from pft_lightning.errors import CheckpointError
from pft_lightning.files import make_folder, write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write beside the target and rename.

    Lightning's own transaction goes through the system's temporary folder; where
    that is another file system, as on most clusters, its last step is a copy, and
    a job killed during it leaves a truncated ``last.ckpt`` and nothing to resume.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,
    ) -> None:
        """Write a checkpoint to a local path.

        Raises:
            StorageError: The disk is full, or the folder cannot be written; the
                checkpoint before is untouched.
        """
        make_folder(Path(path).parent)
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))


def read_checkpoint(
    path: Path, *, parts: Iterable[str] = ("state_dict",), remedy: str
) -> dict[str, Any]:
    """Read a checkpoint of a training; nothing in it is executed.

    Args:
        path: Of the file.
        parts: What has to be in it.
        remedy: What to do where it cannot be read.

    Raises:
        CheckpointError: It is damaged or truncated, lacks a part, or is something
            else.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            # torch writes checksums and does not look at them.
            if (damaged := packed.testzip()) is not None:
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (
        zipfile.BadZipFile,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        OSError,
        pickle.PickleError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint of pft-train; it is truncated, "
            f"damaged or something else ({reason}). {remedy}"
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"{path}: is not a checkpoint of pft-train but holds a "
            f"{type(checkpoint).__name__}. {remedy}"
        )
    missing = [part for part in parts if part not in checkpoint]
    if missing:
        raise CheckpointError(
            f"{path}: is not a checkpoint of pft-train: it has no {missing[0]}. "
            f"{remedy}"
        )
    return checkpoint
