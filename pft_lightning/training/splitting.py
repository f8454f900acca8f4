"""Gradients of one training step, in parts where the device has no memory for all.

Everything here is local to a process: gradients are taken with ``torch.autograd.grad``,
which runs no hook of DDP, and handed to the loss that Lightning differentiates. A
process that has to split its batch does so without the others noticing; they take part
in the same collective operations, once per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.memory import free_memory, is_out_of_memory
from pft_lightning.errors import DeviceMemoryError
from pft_lightning.graphs import build_batch
from pft_lightning.losses import HvpTarget


@dataclass(frozen=True, slots=True)
class Work:
    """Structures of one source in a step, and what is asked of their Hessians."""

    source: str
    structures: Batch
    request: HvpTarget | None

    def halves(self) -> tuple[Work, Work]:
        """Share the structures between two parts."""
        structures = self.structures.to_data_list()
        middle = len(structures) // 2
        first_atom = int(self.structures.ptr[middle])
        parts = (
            (structures[:middle], slice(first_atom)),
            (
                structures[middle:],
                slice(first_atom, None),
            ),
        )
        first, second = (
            Work(
                self.source,
                build_batch(part),
                None
                if self.request is None
                else replace(
                    self.request,
                    tangents=self.request.tangents[atoms],
                    targets=self.request.targets[atoms],
                ),
            )
            for part, atoms in parts
        )
        return first, second


@dataclass(frozen=True, slots=True)
class LocalStep:
    """What a process contributes to a step.

    Attributes:
        terms: by name, detached.
        loss: weighted sum of the terms, with the gradient of all parts.
        n_splits: how often a part did not fit in memory.
    """

    terms: dict[str, torch.Tensor]
    loss: torch.Tensor
    n_splits: int


def run_step(
    work: Sequence[Work],
    evaluate: Callable[[Sequence[Work]], dict[str, torch.Tensor]],
    weights: dict[str, float],
    parameters: Sequence[torch.nn.Parameter],
) -> LocalStep:
    """Take the gradient of the weighted terms, in halves where memory runs out.

    Args:
        work: of all sources of the step.
        evaluate: gives the terms of some of the work; those of two halves of the
            structures must sum to those of the whole.
        weights: of the terms.
        parameters: that are trained.

    Raises:
        DeviceMemoryError: a single structure does not fit; names it.
    """
    todo: list[Sequence[Work]] = [work]
    terms: dict[str, torch.Tensor] = {}
    gradients: list[torch.Tensor | None] = [None] * len(parameters)
    n_splits = 0
    while todo:
        part = todo.pop(0)
        try:
            found = evaluate(part)
            loss = torch.stack([weights[name] * term for name, term in found.items()])
            new = torch.autograd.grad(loss.sum(), parameters, allow_unused=True)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            smaller = _split(part, error)
        else:
            for name, term in found.items():
                terms[name] = terms.get(name, 0) + term.detach()
            gradients = list(map(_add, gradients, new))
            continue
        # Only here the traceback is gone, and with it the tensors that it kept alive.
        found, loss, new = {}, torch.empty(0), ()
        free_memory()
        todo = [*smaller, *todo]
        n_splits += 1
    used = [
        (parameter, gradient)
        for parameter, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None
    ]
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    with_gradient = _WithGradient.apply(
        total, [gradient for _, gradient in used], *[parameter for parameter, _ in used]
    )
    return LocalStep(terms, with_gradient, n_splits)


def _split(part: Sequence[Work], error: Exception) -> list[Sequence[Work]]:
    if len(part) > 1:
        return [[work] for work in part]
    (work,) = part
    if work.structures.num_graphs > 1:
        return [[half] for half in work.halves()]
    raise DeviceMemoryError(
        f"{work.structures[keys.NAME][0]}: this structure alone "
        f"({work.structures.num_nodes} atoms, {work.structures.num_edges} edges) needs "
        "more memory than the device has. Leave it out, use probe=commensurate, "
        f"fewer probes or a device with more memory. ({str(error).splitlines()[0]})"
    ) from error


def _add(old: torch.Tensor | None, more: torch.Tensor | None) -> torch.Tensor | None:
    if old is None or more is None:
        return more if old is None else old
    return old + more


class _WithGradient(torch.autograd.Function):
    """A number whose gradient is known already."""

    @staticmethod
    def forward(
        ctx: Any,
        value: torch.Tensor,
        gradients: list[torch.Tensor],
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, factor: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        return None, None, *(factor * gradient for gradient in ctx.gradients)
