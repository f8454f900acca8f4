"""Checkpoints that are either whole or absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO


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
        """Write a checkpoint to a local path."""
        target = Path(path)
        partial = target.with_name(target.name + ".partial")
        super().save_checkpoint(checkpoint, partial, storage_options)
        partial.replace(target)
