"""What the processes of a training send each other, step by step."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning
import psutil
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel


class Traffic(lightning.Callback):
    """Writes seconds, reduced gradients and bytes on the wire of every step.

    Args:
        path: JSON file to write.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._steps: list[dict[str, float]] = []
        self._reduced = 0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Count what DDP reduces, in front of its own reduction."""
        if isinstance(trainer.strategy.model, DistributedDataParallel):
            # Without annotations, which torch refuses where they are strings.
            trainer.strategy.model.register_comm_hook(
                None, lambda _, bucket: self._reduce(bucket)
            )

    def _reduce(
        self, bucket: torch.distributed.GradBucket
    ) -> torch.futures.Future[torch.Tensor]:
        self._reduced += bucket.buffer().nbytes
        return allreduce_hook(None, bucket)

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Let all processes start together."""
        trainer.strategy.barrier()
        self._start = time.perf_counter(), _sent(), self._reduced

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Keep the differences, once the last process has arrived."""
        trainer.strategy.barrier()
        seconds, sent, reduced = self._start
        self._steps.append(
            {
                "seconds": time.perf_counter() - seconds,
                "sent_bytes": _sent() - sent,
                "reduced_bytes": self._reduced - reduced,
            }
        )

    @rank_zero_only
    def on_train_end(self, *_: Any) -> None:
        """Write the steps."""
        self._path.write_text(json.dumps(self._steps))


def _sent() -> int:
    """Bytes that went through the loopback device: gloo's, of all processes."""
    devices = psutil.net_io_counters(pernic=True)
    return sum(c.bytes_sent for name, c in devices.items() if name.startswith("lo"))
