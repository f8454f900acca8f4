"""Structures and steps per second."""

from __future__ import annotations

from typing import Annotated, Any

from lightning.pytorch.callbacks import ThroughputMonitor
from pydantic import Field

from pft_lightning.data.loading import count_structures
from pft_lightning.option_types import Unit


class Throughput(ThroughputMonitor):
    """Lightning's monitor, which counts the structures of our batches.

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
