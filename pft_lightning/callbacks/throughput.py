"""Structures and steps per second."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import ThroughputMonitor

from pft_lightning.data.loading import count_structures


class Throughput(ThroughputMonitor):
    """Lightning's monitor, which counts the structures of our batches.

    Args:
        window_size: Batches that a mean is taken over.
        options: Other arguments of ``ThroughputMonitor``.
    """

    def __init__(self, window_size: int = 20, **options: Any) -> None:
        super().__init__(count_structures, window_size=window_size, **options)
