"""Loss terms on energy per atom, forces and stress."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.errors import ConfigError
from pft_lightning.graphs import count_atoms
from pft_lightning.losses.terms import (
    TermSum,
    check_kind,
    check_reduction,
    compute_term,
    term_count,
)
from pft_lightning.types import Derivatives


QUANTITIES = ("energy", "forces", "stress")

# The published recipe (arXiv:2601.07742): MAE on energy per atom and stress, the
# Euclidean norm of force errors.
PAPER_KINDS: Mapping[str, str] = MappingProxyType(
    {"energy": "mae", "forces": "l2", "stress": "mae"}
)


def residuals(
    derivatives: Derivatives, batch: Batch
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Errors of the predicted quantities and masks of known references.

    Returns:
        Per quantity that was predicted: prediction minus reference, and a mask
        (n_structures,). Energy is per atom, (n_structures,), eV; forces (n_atoms, 3),
        eV/Å; stress (n_structures, 3, 3), eV/Å³.
    """
    dtype = derivatives.energy.dtype
    atoms = count_atoms(batch[keys.STRUCTURE_INDEX], batch.num_graphs)
    # Subtract in the precision of the reference: total energies are large.
    energy = (derivatives.energy - batch[keys.ENERGY]) / atoms
    found = {"energy": (energy.to(dtype), batch[keys.ENERGY_MASK])}
    if derivatives.forces is not None:
        forces = derivatives.forces - batch[keys.FORCES]
        found["forces"] = (forces.to(dtype), batch[keys.FORCES_MASK])
    if derivatives.stress is not None:
        stress = derivatives.stress - batch[keys.STRESS]
        found["stress"] = (stress.to(dtype), batch[keys.STRESS_MASK])
    return found


def absolute_errors(
    derivatives: Derivatives, batch: Batch
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Mean absolute error of each structure, over its atoms and components.

    Returns:
        ``energy_mae`` (eV/atom), ``forces_mae`` (eV/Å) and ``stress_mae`` (eV/Å³) of
        the predicted quantities, (n_structures,) each, and masks of known references.
    """
    index = batch[keys.STRUCTURE_INDEX]
    errors = {}
    for quantity, (difference, mask) in residuals(derivatives, batch).items():
        rows = difference.abs().reshape(len(difference), -1).mean(dim=1)
        if quantity == "forces":
            total = rows.new_zeros(len(mask)).index_add(0, index, rows)
            rows = total / count_atoms(index, len(mask))
        errors[f"{quantity}_mae"] = (rows, mask)
    return errors


class EnergyForceStressLoss:
    """Weighted terms on the structures of one source.

    Args:
        weights: Per quantity; a quantity without weight, or with weight 0, is not
            computed at all.
        kinds: Per quantity, ``mae``, ``l2``, ``mse`` or ``huber``.
        reduction: ``structures`` or ``atoms`` (see ``losses.terms``).
        huber_delta: Where the Huber loss turns linear (eV/atom, eV/Å, eV/Å³).
        name: Of the source, for messages.

    Raises:
        ConfigError: An unknown quantity, kind or reduction, or a negative weight.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        kinds: Mapping[str, str] = PAPER_KINDS,
        *,
        reduction: str = "structures",
        huber_delta: float = 0.01,
        name: str = "",
    ) -> None:
        check_reduction(reduction)
        unknown = (set(weights) | set(kinds)) - set(QUANTITIES)
        if unknown:
            raise ConfigError(
                f"loss.{name} names {', '.join(sorted(unknown))}; expected some of "
                f"{', '.join(QUANTITIES)}."
            )
        for quantity, weight in weights.items():
            if weight < 0:
                raise ConfigError(f"loss.{name}.{quantity} is {weight}; at least 0.")
        self.weights = {q: float(w) for q, w in weights.items() if w > 0}
        self.kinds = {**PAPER_KINDS, **kinds}
        for quantity, kind in self.kinds.items():
            check_kind(kind, name=f"loss.kind.{quantity}")
        self.reduction = reduction
        self.huber_delta = huber_delta

    def terms(self, derivatives: Derivatives, batch: Batch) -> dict[str, TermSum]:
        """Sum the residuals of every weighted quantity over the local batch."""
        found = residuals(derivatives, batch)
        return {
            quantity: compute_term(
                found[quantity][0],
                found[quantity][1],
                kind=self.kinds[quantity],  # type: ignore[arg-type]
                reduction=self.reduction,  # type: ignore[arg-type]
                structure_index=(
                    batch[keys.STRUCTURE_INDEX] if quantity == "forces" else None
                ),
                huber_delta=self.huber_delta,
                structure_weights=_structure_weights(batch, quantity),
            )
            for quantity in self.weights
        }

    def counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Give the counts of ``terms``, which depend on no prediction."""
        masks = {
            "energy": keys.ENERGY_MASK,
            "forces": keys.FORCES_MASK,
            "stress": keys.STRESS_MASK,
        }
        return {
            quantity: term_count(
                batch[masks[quantity]],
                self.reduction,  # type: ignore[arg-type]
                batch[keys.STRUCTURE_INDEX] if quantity == "forces" else None,
            )
            for quantity in self.weights
        }


def _structure_weights(batch: Batch, quantity: str) -> torch.Tensor | None:
    """Give the (n_structures,) weights of a quantity, where the batch has any."""
    if keys.WEIGHTS not in batch:
        return None
    weights: torch.Tensor = batch[keys.WEIGHTS]
    return weights[:, QUANTITIES.index(quantity)]
