"""Coupling coefficients of features and harmonics, as matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


# Wigner 3j symbols (2 a + 1, 2 b + 1, 2 c + 1) of degrees a, b, c, as of e3nn.
Symbols = Callable[..., torch.Tensor]


class Coupling(NamedTuple):
    """A product of degrees, and what its coefficients are multiplied by."""

    degree: int
    harmonic: int
    target: int
    factor: float = 1.0

    @property
    def columns(self) -> int:
        """Length of its block in a row of couplings."""
        return (2 * self.degree + 1) * (2 * self.target + 1)


def coupling_matrix(coupling: Coupling, wigner_3j: Symbols) -> torch.Tensor:
    """(2 * harmonic + 1, (2 * degree + 1) * (2 * target + 1)), float64.

    Wigner 3j symbols times the square root of 2 * target + 1 and the factor.
    """
    degree, harmonic, target, factor = coupling
    symbols = wigner_3j(degree, harmonic, target, dtype=torch.float64)
    scaled = symbols * math.sqrt(2 * target + 1) * factor
    return scaled.transpose(0, 1).reshape(2 * harmonic + 1, -1).contiguous()


def coupling_table(
    couplings: Sequence[Coupling], harmonics: Sequence[int], wigner_3j: Symbols
) -> torch.Tensor:
    """Matrices side by side, (components of all harmonics, all columns), float64.

    Args:
        couplings: whose matrices.
        harmonics: degrees of the harmonics, each once, in the order of the rows.
        wigner_3j: the symbols.
    """
    blocks = []
    for coupling in couplings:
        before = harmonics[: harmonics.index(coupling.harmonic)]
        first = sum(2 * degree + 1 for degree in before)
        block = torch.zeros(
            sum(2 * degree + 1 for degree in harmonics),
            coupling.columns,
            dtype=torch.float64,
        )
        block[first : first + 2 * coupling.harmonic + 1] = coupling_matrix(
            coupling, wigner_3j
        )
        blocks.append(block)
    return torch.cat(blocks, dim=1)
