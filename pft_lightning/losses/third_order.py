"""The loss term on third derivatives along pairs of directions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.errors import ShapeError
from pft_lightning.losses.terms import (
    LossKind,
    Reduction,
    TermSum,
    compute_term,
    term_count,
)


@dataclass(frozen=True, slots=True)
class ThirdOrderTarget:
    """Pairs of directions of a batch, their references, and how those of a model count.

    Attributes:
        pairs: (n_atoms, n_pairs, 2, 3).
        targets: (n_atoms, n_pairs, 3), reference third-order force constants times both
            directions, eV/Å³.
        pair_weights: (n_structures, n_pairs), factors of the errors of each pair.
        known: (n_structures,), bool: the structure has a reference.
        weight: Of the term in the total loss.
        kind: Of the loss.
        huber_delta: Where the Huber loss turns linear, eV/Å³.
    """

    pairs: torch.Tensor
    targets: torch.Tensor
    pair_weights: torch.Tensor
    known: torch.Tensor
    weight: float
    kind: LossKind = "mae"
    huber_delta: float = 0.01

    @property
    def wanted_pairs(self) -> torch.Tensor | None:
        """Pairs to differentiate along; None where no structure has a reference."""
        return self.pairs if bool(self.known.any()) else None

    def term(
        self, third: torch.Tensor | None, batch: Batch, reduction: Reduction
    ) -> TermSum:
        """Sum the residuals over the local batch; pairs of a structure are averaged.

        Args:
            third: (n_atoms, n_pairs, 3), of the model; None where ``wanted_pairs`` is.
            batch: Neutral batch.
            reduction: Of the mean.

        Raises:
            ShapeError: ``third`` has another shape than the targets.
        """
        if third is None:
            zero = self.targets.new_zeros((), dtype=torch.float64)
            return TermSum(zero, self.count(batch, reduction))
        if third.shape != self.targets.shape:
            raise ShapeError(
                f"third has shape {tuple(third.shape)}; the targets have "
                f"{tuple(self.targets.shape)}."
            )
        difference = (third - self.targets).to(third.dtype)
        n_pairs = difference.shape[1]
        totals = [
            compute_term(
                difference[:, k],
                self._mask(batch),
                kind=self.kind,
                reduction=reduction,
                structure_index=batch[keys.STRUCTURE_INDEX],
                huber_delta=self.huber_delta,
                structure_weights=self.pair_weights[:, k],
            ).total
            for k in range(n_pairs)
        ]
        return TermSum(
            torch.stack(totals).sum() / n_pairs, self.count(batch, reduction)
        )

    def count(self, batch: Batch, reduction: Reduction) -> torch.Tensor:
        """Give the count of ``term``, which depends on no prediction."""
        return term_count(self._mask(batch), reduction, batch[keys.STRUCTURE_INDEX])

    def _mask(self, batch: Batch) -> torch.Tensor:
        counted: torch.Tensor = batch[keys.COUNTED]
        return counted & self.known

    def part(self, structures: slice, atoms: slice) -> ThirdOrderTarget:
        """Give that of some of the structures."""
        return ThirdOrderTarget(
            self.pairs[atoms],
            self.targets[atoms],
            self.pair_weights[structures],
            self.known[structures],
            self.weight,
            self.kind,
            self.huber_delta,
        )
