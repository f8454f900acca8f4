"""Layers of the Nequix network: linear layers, radial networks, norms, gates.

Features are rows: one block (2l+1, channels) after the other for each irreducible
representation.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import silu

from pft_lightning.backends.nequix.blocks import Block, mix_blocks
from pft_lightning.backends.nequix.normalise import Normalise
from pft_lightning.backends.nequix.paths import o3
from pft_lightning.physics.smooth import ScaledSilu


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
        scales: what each representation of the output is multiplied with.

    Attributes:
        weight: blocks (channels in, channels out), flattened, one after the other.
        instructions: the blocks.
    """

    def __init__(
        self,
        irreps_in: o3.Irreps,
        irreps_out: o3.Irreps,
        scales: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.instructions: list[Instruction] = []
        blocks = []
        places = {irrep: place for place, (_, irrep) in enumerate(irreps_out)}
        size = 0
        for place, (n_in, irrep) in enumerate(irreps_in):
            n_out = irreps_out.count(irrep)
            if n_out:
                target = places[irrep]
                scale = 1.0 if scales is None else scales[target]
                blocks.append(
                    Block(
                        components=irrep.dim,
                        shape=(n_in, n_out),
                        source=irreps_in[:place].dim,
                        target=irreps_out[:target].dim,
                        weight=size,
                        scale=scale / math.sqrt(n_in),
                    )
                )
                self.instructions.append(Instruction(place, size, (n_in, n_out)))
                size += n_in * n_out
        self._blocks = tuple(blocks)
        self._widths = irreps_in.dim, irreps_out.dim
        self.weight = torch.nn.Parameter(torch.randn(size))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows of the output; zero where no representation of the input goes."""
        return mix_blocks(self._blocks, self._widths, rows, self.weight)


class _Dense(torch.nn.Module):
    def __init__(self, n_in: int, n_out: int, scale: float) -> None:
        super().__init__()
        weights = torch.randn(n_in, n_out) * math.sqrt(scale / n_in)
        self.weights = torch.nn.Parameter(weights)


class RadialMLP(torch.nn.Module):
    """Radial basis to the weights of messages; see ``hidden_values`` for the rest.

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
        self, hidden: torch.Tensor, sizes: Sequence[int]
    ) -> tuple[torch.Tensor, ...]:
        """Last layer: (n_edges, n_hidden) to several (n_edges, size).

        The matrix is cut, not its product: gradients of a cut array are filled up with
        zeros, which took most of the time where the array was long.
        """
        last: torch.Tensor = self.layers[-1].weights
        return tuple(hidden @ part for part in last.split(list(sizes), dim=1))


def hidden_values(
    networks: Sequence[RadialMLP], x: torch.Tensor
) -> Sequence[torch.Tensor]:
    """What the last layer of each network takes; zero stays zero.

    Args:
        networks: of equal sizes but for the last layer, computed together.
        x: (n_edges, sizes[0]).
    """
    depth = len(networks[0].layers) - 1
    if depth == 0:
        return [x] * len(networks)
    activation = ScaledSilu()
    first = torch.cat([network.layers[0].weights for network in networks], dim=1)
    values = activation(x @ first).unflatten(1, (len(networks), -1)).transpose(0, 1)
    for i in range(1, depth):
        weights = torch.stack([network.layers[i].weights for network in networks])
        values = activation(values @ weights)
    return values.unbind(0)


class WithConstants(torch.nn.Module):
    """A module with arrays that are neither weights nor kept in files."""

    def __init__(self) -> None:
        super().__init__()
        self._constants: dict[str, torch.Tensor] = {}

    def add_constant(self, name: str, value: torch.Tensor) -> None:
        """Make a float64 array an attribute, in the dtype of the weights."""
        self._constants[name] = value
        value = value.to(torch.get_default_dtype())
        self.register_buffer(name, value, persistent=False)

    def _apply(self, *args: Any, **kwargs: Any) -> WithConstants:
        """Follow a change of dtype without keeping the rounding of a shorter one."""
        super()._apply(*args, **kwargs)
        for name, value in self._constants.items():
            getattr(self, name).copy_(value)
        return self


class RMSNorm(WithConstants):
    """Division of an atom's features by their mean square over all representations.

    Args:
        irreps: of the features.
        eps: added to the mean square.
    """

    _inverse_scales: torch.Tensor

    def __init__(self, irreps: o3.Irreps, eps: float = 1e-12) -> None:
        super().__init__()
        self.affine_weight = torch.nn.ParameterList(torch.ones(n) for n, _ in irreps)
        self._normalise = Normalise(eps)
        self._components = [irrep.dim for _, irrep in irreps]
        inverse = [
            torch.full((irrep.dim * n,), 1 / scale, dtype=torch.float64)
            for (n, irrep), scale in zip(irreps, self.scales(irreps), strict=True)
        ]
        self.add_constant("_inverse_scales", torch.cat(inverse))

    @staticmethod
    def scales(irreps: o3.Irreps) -> list[float]:
        """What each representation is multiplied with before it comes in.

        The mean is then a plain sum of squares.
        """
        # The squares of the dimension and no number of channels: so Nequix has it.
        return [1 / (irrep.dim * math.sqrt(len(irreps))) for _, irrep in irreps]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Same shape as the input, which is scaled."""
        weights = [
            weight.expand(components, -1).flatten()
            for components, weight in zip(
                self._components, self.affine_weight, strict=True
            )
        ]
        return self._normalise(rows) * (torch.cat(weights) * self._inverse_scales)


class Gate(WithConstants):
    """SiLU of scalars; the last of them multiply the channels of what follows.

    Args:
        irreps: of the features, scalars first.
        n_gates: number of scalars that are gates, one for each other channel.
    """

    spread: torch.Tensor

    def __init__(self, irreps: o3.Irreps, n_gates: int) -> None:
        super().__init__()
        self._activation = ScaledSilu(1.0 / silu_norm())
        n_scalars = irreps[0].mul
        self._sizes = n_scalars, irreps.dim - n_scalars
        self._n_plain = n_scalars - n_gates
        # Zeros and ones: exact in any precision, and the same sums in every run.
        columns, start = [], 0
        for n, irrep in irreps[1:]:
            columns += list(range(start, start + n)) * irrep.dim
            start += n
        spread = torch.zeros(n_gates, len(columns), dtype=torch.float64)
        spread[columns, range(len(columns))] = 1.0
        self.add_constant("spread", spread)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows without the gates."""
        if not len(self.spread):
            return self._activation(rows)
        scalars, others = rows.split(self._sizes, dim=1)
        plain, gates = self._activation(scalars).tensor_split([self._n_plain], dim=1)
        return torch.cat([plain, (gates @ self.spread) * others], dim=1)


@functools.lru_cache(maxsize=1)
def silu_norm() -> float:
    """Root mean square of SiLU over a normal distribution, as Nequix computes it."""
    quantiles = torch.linspace(-1.0, 1.0, 1_000_003, dtype=torch.float64)[1:-1]
    points = math.sqrt(2.0) * torch.erfinv(quantiles)
    return math.sqrt(float(silu(points).square().mean()))
