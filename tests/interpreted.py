"""The Triton kernels under Triton's own interpreter, on the CPU."""

from __future__ import annotations

from typing import Any

import torch

from pft_lightning.kernels import host


class Twins:
    """Computes sums both in C and in Triton, compares, and goes on with Triton's.

    Attributes:
        slots: of the sums that were compared.
        worst: largest difference, of the largest number of a sum.
    """

    def __init__(self, calls: Any) -> None:
        self._calls = calls
        self.slots: list[int] = []
        self.worst = 0.0

    def contract(self, *args: Any) -> None:
        """Write the last of the arguments, as ``host.contract`` does."""
        *given, out = args
        host.contract(*given, out)
        expected = out.clone()
        out.fill_(torch.nan)
        self._calls.contract(*given, out)
        self.slots.append(given[2].slot)
        if out.numel():
            scale = float(expected.abs().max()) or 1.0
            difference = float((out - expected).abs().max()) / scale
            assert difference == difference, f"not all of {given[2]} was written"
            self.worst = max(self.worst, difference)
