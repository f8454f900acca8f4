"""Layers of the Nequix network: linear layers, radial networks, norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import silu

from pft_lightning.backends.nequix.paths import o3


@dataclass(frozen=True, slots=True)
class Instruction:
    """One block of an ``IrrepsLinear``, named as in e3nn's own linear layers.

    Attributes:
        i_in: place of the representation in ``irreps_in``.
        start: of the block in ``weight``.
        path_shape: channels in, channels out.
    """

    i_in: int
    start: int
    path_shape: tuple[int, int]


class IrrepsLinear(torch.nn.Module):
    """Mixing of the channels of each irreducible representation.

    Args:
        irreps_in: sorted, each representation once.
        irreps_out: the same way.

    Attributes:
        weight: blocks (channels in, channels out), flattened, one after the other.
        instructions: the blocks.
    """

    def __init__(self, irreps_in: o3.Irreps, irreps_out: o3.Irreps) -> None:
        super().__init__()
        self.instructions: list[Instruction] = []
        size = 0
        for place, (n_in, irrep) in enumerate(irreps_in):
            n_out = irreps_out.count(irrep)
            if n_out:
                self.instructions.append(Instruction(place, size, (n_in, n_out)))
                size += n_in * n_out
        self.weight = torch.nn.Parameter(torch.randn(size))

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """One tensor for each representation that input and output share."""
        outputs = []
        weight = self.weight
        for instruction in self.instructions:
            n_in, n_out = instruction.path_shape
            start = instruction.start
            block = weight[start : start + n_in * n_out].view(n_in, n_out)
            outputs.append(features[instruction.i_in] @ (block / math.sqrt(n_in)))
        return outputs


class _Dense(torch.nn.Module):
    def __init__(self, n_in: int, n_out: int, scale: float) -> None:
        super().__init__()
        weights = torch.randn(n_in, n_out) * math.sqrt(scale / n_in)
        self.weights = torch.nn.Parameter(weights)


class RadialMLP(torch.nn.Module):
    """Radial basis to the weights of messages.

    Args:
        sizes: of the layers, first and last included.
        scale: variance of the initial weights of all but the last layer.
    """

    layers: Any  # what a ModuleList holds is not known to type checkers

    def __init__(self, sizes: Sequence[int], scale: float) -> None:
        super().__init__()
        n_layers = len(sizes) - 1
        self.layers = torch.nn.ModuleList(
            _Dense(sizes[i], sizes[i + 1], scale if i < n_layers - 1 else 1.0)
            for i in range(n_layers)
        )

    def forward(
        self, x: torch.Tensor, sizes: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        """(n_edges, sizes[0]) to several (n_edges, size); zero stays zero.

        The last matrix is cut, not its product: gradients of a cut array are filled up
        with zeros, which took most of the time where the array was long.
        """
        *first, last = self.layers
        for layer in first:
            x = silu(x @ layer.weights)
        return tuple(x @ w for w in last.weights.split(list(sizes), dim=1))


class RMSNorm(torch.nn.Module):
    """Division of an atom's features by their mean square over all representations.

    Args:
        irreps: of the features.
        eps: added to the mean square.
    """

    def __init__(self, irreps: o3.Irreps, eps: float = 1e-12) -> None:
        super().__init__()
        self.affine_weight = torch.nn.ParameterList(torch.ones(n) for n, _ in irreps)
        self.eps = eps

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Same shapes as the input."""
        # The squares of the dimension and no number of channels: so Nequix has it.
        squares = [x.square().sum(dim=(1, 2)) / x.shape[1] ** 2 for x in features]
        mean = torch.stack(squares).sum(dim=0) / len(features)
        inverse = (mean + self.eps).rsqrt()[:, None, None]
        return [
            x * inverse * w for x, w in zip(features, self.affine_weight, strict=True)
        ]
