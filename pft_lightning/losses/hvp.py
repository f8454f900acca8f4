"""The loss term on Hessian-vector products."""

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
class HvpTarget:
    """Tangents of a batch, their reference products, and how those of a model count.

    Attributes:
        tangents: (n_atoms, n_probes, 3).
        targets: (n_atoms, n_probes, 3), reference force constants times tangents.
        weight: Of the term in the total loss.
        kind: Of the loss.
        huber_delta: Where the Huber loss turns linear, eV/Å².
    """

    tangents: torch.Tensor
    targets: torch.Tensor
    weight: float
    kind: LossKind = "mae"
    huber_delta: float = 0.01

    def term(self, hvp: torch.Tensor, batch: Batch, reduction: Reduction) -> TermSum:
        """Sum the residuals over the local batch; probes of an atom are averaged.

        A commensurate cell counts with the atoms of its supercell: what is summed over
        its atoms is divided by the number of atoms of the supercell, so that a q-point
        weighs the same in cells of all sizes.

        Raises:
            ShapeError: ``hvp`` has another shape than the targets.
        """
        if hvp.shape != self.targets.shape:
            raise ShapeError(
                f"hvp has shape {tuple(hvp.shape)}; the targets have "
                f"{tuple(self.targets.shape)}."
            )
        return compute_term(
            (hvp - self.targets).to(hvp.dtype),
            batch[keys.COUNTED],
            kind=self.kind,
            reduction=reduction,
            structure_index=batch[keys.STRUCTURE_INDEX],
            huber_delta=self.huber_delta,
            shares=_shares(batch).to(hvp.dtype),
        )

    def count(self, batch: Batch, reduction: Reduction) -> torch.Tensor:
        """Give the count of ``term``, which depends on no prediction."""
        return term_count(
            batch[keys.COUNTED],
            reduction,
            batch[keys.STRUCTURE_INDEX],
            _shares(batch),
        )


def _shares(batch: Batch) -> torch.Tensor:
    """Give the (n_structures,) shares of their supercells that the cells are."""
    if keys.SHARE in batch:
        given: torch.Tensor = batch[keys.SHARE]
        return given
    shares = [constants.share for constants in batch[keys.FORCE_CONSTANTS]]
    return torch.tensor(shares, dtype=torch.float64, device=batch[keys.COUNTED].device)
