"""Weights as the base weight plus a trainable difference that starts at zero."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch.nn.utils import parametrize

from pft_lightning.adaptation.weights import Weight
from pft_lightning.backends.parametrized import WeightChange, is_adapted
from pft_lightning.errors import ConfigError


class Difference(WeightChange):
    """Any difference from the base weight.

    Args:
        weight: base weight.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.difference = torch.nn.Parameter(torch.zeros_like(weight))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Base weight plus the difference."""
        return weight + self.difference


class LowRank(WeightChange):
    """A difference of rank r in each block of the base weight.

    Blocks of an equivariant layer are its irrep paths: each mixes copies of one irrep
    and leaves their components alone, so that any update of it is equivariant. A block
    that a product of two factors would not make smaller gets a full difference.

    The first factor is normal with variance 1 / rank, the second zero: with alpha =
    rank, one step of Adam then moves a weight about as far as in full fine-tuning at
    the same learning rate.

    Args:
        weight: base weight.
        blocks: (rows, columns) in the order in which they are stored.
        rank: of each block.
        alpha: the product is multiplied with alpha / rank.
        generator: of the first factors.

    Source: LoRA, arXiv:2106.09685.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        blocks: Sequence[tuple[int, int]],
        *,
        rank: int,
        alpha: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self._scale = alpha / rank
        self.down = torch.nn.ParameterDict()
        self.up = torch.nn.ParameterDict()
        # Neighbouring blocks of one shape are one batched product.
        runs = [(shape, len(list(run))) for shape, run in itertools.groupby(blocks)]
        for i, ((rows, columns), n_blocks) in enumerate(runs):
            if rank * (rows + columns) < rows * columns:
                factor = torch.randn(n_blocks, rows, rank, generator=generator)
                self.down[str(i)] = torch.nn.Parameter(factor.to(weight) / rank**0.5)
                shape = (n_blocks, rank, columns)
            else:
                shape = (n_blocks, rows, columns)
            self.up[str(i)] = torch.nn.Parameter(weight.new_zeros(shape))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Base weight plus the low-rank difference."""
        updates = []
        for name, up in self.up.items():
            update = self._scale * (self.down[name] @ up) if name in self.down else up
            updates.append(update.flatten())
        update = updates[0] if len(updates) == 1 else torch.cat(updates)
        return weight + update.view_as(weight)


def parametrize_weight(weight: Weight, change: WeightChange) -> None:
    """Freeze a weight and apply a change wherever it is used.

    Raises:
        ConfigError: the framework itself computes weights of this layer from others.
    """
    for module, _ in weight.owners:
        if isinstance(module, parametrize.ParametrizationList) or (
            parametrize.is_parametrized(module) and not is_adapted(module)
        ):
            raise ConfigError(
                f"{weight.name}: this layer is reparametrised by the framework itself "
                "(a weight or spectral norm), which cannot be combined with "
                "adaptation=lora or delta. Leave it out with adaptation.targets, or "
                "use adaptation=freeze."
            )
    weight.parameter.requires_grad_(False)
    for module, attribute in weight.owners:
        parametrize.register_parametrization(module, attribute, change)
