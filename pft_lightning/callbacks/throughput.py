"""Structures and steps per second."""

from __future__ import annotations

import time
from typing import Annotated, Any

import lightning
import torch
from lightning.pytorch.callbacks import ThroughputMonitor
from pydantic import Field

from pft_lightning.data.loading import count_structures
from pft_lightning.option_types import Unit


class Throughput(ThroughputMonitor):
    """Lightning's monitor, which counts the structures of our batches.

    Lightning waits for a GPU after each batch; here only where the numbers are logged.

    Args:
        window_size: Batches that a mean is taken over.
        options: Other arguments of ``ThroughputMonitor``.
    """

    def __init__(
        self,
        window_size: Annotated[int, Field(ge=2), Unit("batches")] = 20,
        **options: Any,
    ) -> None:
        super().__init__(count_structures, window_size=window_size, **options)

    def _update(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        iter_num: int,
    ) -> None:
        stage = trainer.state.stage
        assert stage is not None
        on_gpu = trainer.strategy.root_device.type == "cuda"
        if on_gpu and trainer._logger_connector.should_update_logs:
            torch.cuda.synchronize()
        if self.length_fn is not None:
            self._lengths[stage] += self.length_fn(batch)
        self._samples[stage] += self.batch_size_fn(batch)
        self._batches[stage] += 1
        self._throughputs[stage].update(
            time=time.perf_counter() - self._t0s[stage],
            batches=self._batches[stage],
            samples=self._samples[stage],
            lengths=None if self.length_fn is None else self._lengths[stage],
        )
