"""The radial basis of Nequix, with all its derivatives."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from pft_lightning.physics.forms import Known
from pft_lightning.physics.smooth import RowFunction


class RadialBasis(RowFunction):
    """Bessel functions of lengths (n, 1) times an envelope; 0 from the cutoff on.

    Args:
        cutoff: Å.
        size: number of functions.
        exponent: of the envelope.
    """

    def __init__(self, cutoff: float, size: int, exponent: float) -> None:
        self.cutoff, self.size, self.exponent = cutoff, size, exponent

    def derivative(self, order: int, x: torch.Tensor, known: Known) -> torch.Tensor:
        """See ``RowFunction.derivative``; by the rule for products."""
        total = self._wave(0, x, known) * self._envelope(order, x, known)
        for i in range(1, order + 1):
            wave, envelope = (
                self._wave(i, x, known),
                self._envelope(order - i, x, known),
            )
            total = torch.addcmul(total, wave, envelope, value=math.comb(order, i))
        return total

    def _wave(self, order: int, x: torch.Tensor, known: Known) -> torch.Tensor:
        """Derivative of the sines."""
        if ("wave", order) not in known:
            wavenumbers, squares = _wavenumbers(
                self.cutoff, self.size, x.dtype, x.device
            )
            if order == 0:
                value = torch.sin(x * wavenumbers)
            elif order == 1:
                value = torch.cos(x * wavenumbers) * wavenumbers
            else:
                value = self._wave(order - 2, x, known) * squares
            known["wave", order] = value
        return known["wave", order]

    def _envelope(self, order: int, x: torch.Tensor, known: Known) -> torch.Tensor:
        """Derivative of the envelope over the length, times 2 / cutoff: (n, 1)."""
        if ("envelope", order) not in known:
            powers, factors = _envelope_table(
                self.cutoff, self.exponent, order, x.dtype, x.device
            )
            value = (x / self.cutoff) ** powers @ factors
            known["envelope", order] = torch.where(x < self.cutoff, value, 0.0)
        return known["envelope", order]


@functools.lru_cache(maxsize=64)
def _wavenumbers(
    cutoff: float, size: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Wavenumbers of the sines, and their squares with the sign of two derivatives."""
    numbers = torch.arange(1, size + 1, dtype=torch.float64) * math.pi / cutoff
    return numbers.to(device, dtype), -numbers.square().to(device, dtype)


@functools.lru_cache(maxsize=64)
def _envelope_table(
    cutoff: float, p: float, order: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Powers (4,) of length over cutoff, and what each is multiplied with, (4, 1)."""
    powers = np.array([0.0, p, p + 1, p + 2]) - 1.0
    factors = np.array([1.0, -(p + 1) * (p + 2) / 2, p * (p + 2), -p * (p + 1) / 2])
    factors *= 2.0 / cutoff ** (2 + order)
    for i in range(order):
        factors *= powers - i
    # Copied: numpy's memory begins anywhere, and products have other last bits then.
    table = torch.tensor(factors[:, None], dtype=dtype, device=device)
    return torch.tensor(powers - order, dtype=dtype, device=device), table
