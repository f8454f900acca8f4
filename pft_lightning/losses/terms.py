"""Loss terms as sums and counts, so that their mean can be taken over all processes.

A term is a mean over structures (or atoms) of the *global* batch. Each process
holds a sum over its own share; the count is reduced over processes, so that one
process with batch B and n processes with batch B/n have the same loss and, after
the gradient averaging of DDP, the same gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.distributed

from pft_lightning.errors import ConfigError, ShapeError
from pft_lightning.graphs import count_atoms


LossKind = Literal["mae", "l2", "mse", "huber"]
Reduction = Literal["structures", "atoms"]


@dataclass(frozen=True, slots=True)
class TermSum:
    """Weighted sum of residuals over the local batch, and the sum of their weights."""

    total: torch.Tensor
    count: torch.Tensor


def check_kind(kind: str, *, name: str) -> None:
    """Raise ConfigError unless ``kind`` is one of the loss kinds."""
    if kind not in get_args(LossKind):
        raise ConfigError(
            f"{name} is {kind!r}; expected one of {', '.join(get_args(LossKind))}."
        )


def check_reduction(reduction: str) -> None:
    """Raise ConfigError unless ``reduction`` is a known one."""
    if reduction not in get_args(Reduction):
        raise ConfigError(
            f"loss.reduction is {reduction!r}; expected one of "
            f"{', '.join(get_args(Reduction))}."
        )


def row_residuals(
    difference: torch.Tensor, kind: LossKind, huber_delta: float
) -> torch.Tensor:
    """Reduce each row of (n_rows, ...) to one number, see ``compute_term``."""
    flat = difference.reshape(len(difference), -1)
    if kind == "mae":
        return flat.abs().mean(dim=1)
    if kind == "mse":
        return flat.square().mean(dim=1)
    if kind == "huber":
        zero = torch.zeros_like(flat)
        return torch.nn.functional.huber_loss(
            flat, zero, reduction="none", delta=huber_delta
        ).mean(dim=1)
    # The norm of a vector residual. Its gradient at exactly zero is taken as zero:
    # forces that vanish by symmetry would otherwise give 0/0.
    vectors = difference.reshape(len(difference), -1, difference.shape[-1])
    squared = vectors.square().sum(dim=-1)
    nonzero = squared > 0
    safe = torch.where(nonzero, squared, torch.ones_like(squared)).sqrt()
    return torch.where(nonzero, safe, torch.zeros_like(safe)).mean(dim=1)


def compute_term(
    difference: torch.Tensor,
    mask: torch.Tensor,
    *,
    kind: LossKind,
    reduction: Reduction = "structures",
    structure_index: torch.Tensor | None = None,
    huber_delta: float = 0.01,
    shares: torch.Tensor | None = None,
    structure_weights: torch.Tensor | None = None,
) -> TermSum:
    """Sum the residuals of one quantity over the local batch.

    Args:
        difference: Prediction minus reference. First axis: atoms if
            ``structure_index`` is given, else structures. For ``l2`` the last
            axis is the vector that the norm is taken of.
        mask: (n_structures,) bool, the reference is known.
        kind: ``mae``, ``mse`` or ``huber`` per component, ``l2`` per vector.
        reduction: ``structures`` gives every structure the same weight,
            ``atoms`` every atom (the mean of the published recipe). Without
            ``structure_index`` both give every structure the same weight.
        structure_index: (n_atoms,) structure of each atom.
        huber_delta: Where the Huber loss turns linear, unit of ``difference``.
        shares: (n_structures,), atoms of each structure divided by those that it
            counts as; 1 if left out. Only for residuals of atoms.
        structure_weights: (n_structures,), factors of the residuals; 1 if left out.
            As in MACE a mean is not divided by them: half the weight is half the term.

    Returns:
        Sum of weighted residuals and sum of weights, both scalar.

    Raises:
        ShapeError: The first axis of ``difference`` fits neither case.
    """
    rows = len(mask) if structure_index is None else len(structure_index)
    if len(difference) != rows:
        raise ShapeError(f"difference has {len(difference)} rows; expected {rows}.")
    if kind == "l2" and difference.ndim < 2:
        difference = difference.unsqueeze(-1)
    weights = mask.to(difference.dtype)
    if structure_weights is not None:
        weights = weights * structure_weights.to(difference.dtype)
    if structure_index is not None:
        if reduction == "structures":
            atoms = _counted_atoms(structure_index, len(mask), shares)
            weights = weights / atoms.clamp(min=1)
        weights = weights[structure_index]
    residuals = row_residuals(difference, kind, huber_delta)
    return TermSum(
        total=(residuals * weights).sum(),
        count=term_count(mask.to(difference.dtype), reduction, structure_index, shares),
    )


def term_count(
    mask: torch.Tensor,
    reduction: Reduction = "structures",
    structure_index: torch.Tensor | None = None,
    shares: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum the weights of a term; needs no prediction (see ``compute_term``)."""
    if structure_index is None or reduction == "structures":
        return mask.sum()
    return (mask * _counted_atoms(structure_index, len(mask), shares)).sum()


def _counted_atoms(
    structure_index: torch.Tensor, n_structures: int, shares: torch.Tensor | None
) -> torch.Tensor:
    atoms = count_atoms(structure_index, n_structures)
    return atoms if shares is None else atoms / shares


def global_mean(terms: dict[str, TermSum]) -> dict[str, torch.Tensor]:
    """Turn local sums into means over the global batch.

    The value of a term on one process, averaged over processes (as DDP averages
    gradients), is the mean over the global batch. A term that no process has a
    reference for is zero.

    Args:
        terms: Sums of this process; the names must agree on all processes.

    Returns:
        Per name: local sum * n_processes / global count.
    """
    counts = global_counts({name: term.count for name, term in terms.items()})
    return {
        name: term.total / counts[name].to(term.total.dtype)
        for name, term in terms.items()
    }


def global_counts(counts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Turn local counts into what local sums are divided by, at least one.

    Args:
        counts: Of this process; the names must agree on all processes.

    Returns:
        Per name: global count / n_processes, float64.
    """
    if not counts:
        return {}
    reduced = torch.stack([count.double() for count in counts.values()])
    n_processes = _sum_over_processes(reduced)
    safe = reduced.clamp(min=1) / n_processes
    return dict(zip(counts, safe, strict=True))


def mean_over_processes(values: torch.Tensor) -> torch.Tensor:
    """Average what each process has, as ``Strategy.reduce`` does, without a barrier.

    A barrier would let the host wait for its GPU.

    Args:
        values: of this process, of the same shape on all of them.
    """
    reduced = values.clone()
    n_processes = _sum_over_processes(reduced)
    return reduced if n_processes == 1 else reduced / n_processes


def _sum_over_processes(values: torch.Tensor) -> int:
    """Put the sum over all processes in place; give their number."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    torch.distributed.all_reduce(values)
    return torch.distributed.get_world_size()
