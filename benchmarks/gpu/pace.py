"""How fast a training goes, and how long it waits, for its data and for the device."""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import lightning
import torch


class Pace(lightning.Callback):
    """Writes the seconds of every step, and of the time between two steps.

    Between the end of a step and the start of the next lie the loader and the copy of
    the batch to the device. On a GPU a step is handed over before it is done, so single
    steps say little; their sum is right.

    Args:
        path: JSON file to write, after every tenth step and at the end.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._steps: list[float] = []
        self._gaps: list[float] = []
        self._ended: float | None = None
        self._started = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """Note how long the batch took to come."""
        self._started = time.perf_counter()
        if self._ended is not None:
            self._gaps.append(self._started - self._ended)

    def on_train_batch_end(self, *_: Any) -> None:
        """Note how long the step took."""
        self._ended = time.perf_counter()
        self._steps.append(self._ended - self._started)
        if len(self._steps) % 10 == 0:
            self._write()

    def on_validation_start(self, *_: Any) -> None:
        """Leave out what lies between two steps where a validation does."""
        self._ended = None

    def on_train_end(self, *_: Any) -> None:
        """Write the rest, once the device has done all."""
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            started = time.perf_counter()
            torch.cuda.synchronize()
            self._gaps.append(time.perf_counter() - started)
        self._write()

    def _write(self) -> None:
        content = {"steps": self._steps, "gaps": self._gaps}
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(content))
        part.replace(self._path)


class DeviceWaits(lightning.Callback):
    """Writes where the host waits for the GPU, from one step to the next.

    Args:
        path: JSON file to write.
        first: step, from 0, before which nothing is counted: what is made once.
        last: step up to which it is.
    """

    def __init__(self, path: str, first: int, last: int) -> None:
        self._path = Path(path)
        self._first, self._last = first, last
        self._steps = 0
        self._catching: warnings.catch_warnings | None = None
        self._seen: list[warnings.WarningMessage] = []

    def on_train_batch_start(self, *_: Any) -> None:
        """Begin to count."""
        if self._steps == self._first and self._catching is None:
            self._catching = warnings.catch_warnings(record=True)
            self._seen = self._catching.__enter__() or []
            warnings.simplefilter("always")
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(self, *_: Any) -> None:
        """Count the step, and stop after the last."""
        self._steps += 1
        if self._steps > self._last and self._catching is not None:
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("default")
            self._catching.__exit__(None, None, None)
            self._catching = None
            self._path.write_text(json.dumps(count_waits(self._seen)))


def count_waits(seen: list[warnings.WarningMessage]) -> dict[str, int]:
    """How often the host waited for the device, by line."""
    return dict(
        Counter(
            f"{Path(w.filename).name}:{w.lineno}"
            for w in seen
            if "synchroniz" in str(w.message)
        )
    )
