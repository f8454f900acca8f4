"""Gradients of one training step, in parts where the device has no memory for all.

Everything here is local to a process: gradients are taken with ``torch.autograd.grad``,
which runs no hook of DDP, and handed to the loss that Lightning differentiates. A
process that has to split its batch does so without the others noticing; they take part
in the same collective operations, once per step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.memory import free_memory, is_out_of_memory
from pft_lightning.errors import DeviceMemoryError
from pft_lightning.graphs import build_batch
from pft_lightning.losses import (
    ElasticTarget,
    HvpTarget,
    PropertyTarget,
    ThirdOrderTarget,
)


# Of each parameter; None where nothing depends on it.
Gradients = list[torch.Tensor | None]
Terms = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Work:
    """Structures of one source in a step, and what is asked of higher derivatives."""

    source: str
    structures: Batch
    request: HvpTarget | None
    third: ThirdOrderTarget | None = None
    elastic: ElasticTarget | None = None
    properties: PropertyTarget | None = None

    @property
    def tangents(self) -> torch.Tensor | None:
        """(n_atoms, n_probes, 3), those of products, then those of properties."""
        found = (
            None if self.request is None else self.request.tangents,
            None if self.properties is None else self.properties.wanted_tangents,
        )
        parts = [tangents for tangents in found if tangents is not None]
        return torch.cat(parts, dim=1) if parts else None

    def share_products(
        self, hvp: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Give products with ``tangents`` to what asked for them."""
        n = 0 if self.request is None else self.request.tangents.shape[1]
        if hvp is None:
            return None, None
        rest = hvp[:, n:]
        return hvp[:, :n], rest if rest.shape[1] else None

    def halves(self) -> tuple[Work, Work]:
        """Share the structures between two parts."""
        structures = self.structures.to_data_list()
        middle = len(structures) // 2
        first_atom = int(self.structures.ptr[middle])
        parts = (
            (slice(middle), slice(first_atom)),
            (slice(middle, None), slice(first_atom, None)),
        )
        first, second = (
            Work(
                self.source,
                build_batch(structures[part]),
                None
                if self.request is None
                else replace(
                    self.request,
                    tangents=self.request.tangents[atoms],
                    targets=self.request.targets[atoms],
                ),
                None if self.third is None else self.third.part(part, atoms),
                self.elastic,
                None if self.properties is None else self.properties.part(part, atoms),
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


class Evaluate(Protocol):
    """Gives the terms of some of the work of a step."""

    def __call__(
        self, counts: Mapping[str, torch.Tensor], work: Sequence[Work]
    ) -> dict[str, torch.Tensor]:
        """Terms of two halves of the structures sum to those of the whole."""


class Differentiate(Protocol):
    """Gives the terms of some of the work of a step, and their weighted gradient."""

    def __call__(
        self,
        work: Sequence[Work],
        counts: Mapping[str, torch.Tensor],
        weights: Mapping[str, float],
        evaluate: Evaluate,
        parameters: Sequence[torch.nn.Parameter],
    ) -> tuple[dict[str, torch.Tensor], Gradients]:
        """See ``differentiate``."""


def differentiate(
    work: Sequence[Work],
    counts: Mapping[str, torch.Tensor],
    weights: Mapping[str, float] | Mapping[str, torch.Tensor],
    evaluate: Evaluate,
    parameters: Sequence[torch.nn.Parameter],
) -> tuple[dict[str, torch.Tensor], Gradients]:
    """Terms, detached, and the gradient of their weighted sum, None where it has none.

    Args:
        work: of a step.
        counts: that the sums of its terms are divided by.
        weights: of the terms.
        evaluate: gives the terms.
        parameters: that are trained.
    """
    found = evaluate(counts, work)
    loss = torch.stack([weights[name] * term for name, term in found.items()])
    gradients = torch.autograd.grad(loss.sum(), parameters, allow_unused=True)
    terms = {name: term.detach() for name, term in found.items()}
    return terms, list(gradients)


def run_step(
    work: Sequence[Work],
    evaluate: Evaluate,
    counts: Mapping[str, torch.Tensor],
    weights: Mapping[str, float],
    parameters: Sequence[torch.nn.Parameter],
    take_whole: Differentiate = differentiate,
) -> LocalStep:
    """Take the gradient of the weighted terms, in halves where memory runs out.

    Args:
        work: of all sources of the step.
        evaluate: gives the terms of some of the work.
        counts: that the sums of terms are divided by.
        weights: of the terms.
        parameters: that are trained.
        take_whole: takes the gradient of a step that is not split.

    Raises:
        DeviceMemoryError: a single structure does not fit; names it.
    """

    def take(
        part: Sequence[Work], is_whole: bool
    ) -> tuple[Terms, dict[str, Gradients]]:
        by = take_whole if is_whole else differentiate
        terms, gradients = by(part, counts, weights, evaluate, parameters)
        return terms, {"": gradients}

    terms, gradients, n_splits = _take_in_parts(work, take)
    return _finish(terms, gradients[""], weights, parameters, n_splits)


def run_measured_step(
    work: Sequence[Work],
    evaluate: Evaluate,
    counts: Mapping[str, torch.Tensor],
    weigh: Callable[[Mapping[str, Gradients]], Mapping[str, float]],
    parameters: Sequence[torch.nn.Parameter],
) -> LocalStep:
    """Take the gradient of each term, and then that of their sum; see ``run_step``.

    Args:
        work: of all sources of the step.
        evaluate: gives the terms of some of the work.
        counts: that the sums of terms are divided by.
        weigh: gives the weights of the terms, told their gradients on this process, in
            the order of ``counts``, which is the same on all of them.
        parameters: that are trained.

    Raises:
        DeviceMemoryError: a single structure does not fit; names it.
    """

    def take(
        part: Sequence[Work], is_whole: bool
    ) -> tuple[Terms, dict[str, Gradients]]:
        found = evaluate(counts, part)
        # A term of structures that have nothing to compare depends on no weight.
        known = [name for name, term in found.items() if term.requires_grad]
        gradients: dict[str, Gradients] = {
            name: [None] * len(parameters) for name in found
        }
        for name in known:
            gradients[name] = list(
                torch.autograd.grad(
                    found[name],
                    parameters,
                    retain_graph=name != known[-1],
                    allow_unused=True,
                )
            )
        return {name: term.detach() for name, term in found.items()}, gradients

    terms, gradients, n_splits = _take_in_parts(work, take)
    gradients = {name: gradients[name] for name in counts}
    weights = weigh(gradients)
    total: Gradients = [None] * len(parameters)
    for name, of_term in gradients.items():
        weighted = (None if g is None else weights[name] * g for g in of_term)
        total = list(map(_add, total, weighted))
    return _finish(terms, total, weights, parameters, n_splits)


def _take_in_parts(
    work: Sequence[Work],
    take: Callable[[Sequence[Work], bool], tuple[Terms, dict[str, Gradients]]],
) -> tuple[Terms, dict[str, Gradients], int]:
    """Sum terms and gradients over parts that fit in memory; count the splits."""
    todo: list[Sequence[Work]] = [work]
    terms: Terms = {}
    gradients: dict[str, Gradients] = {}
    n_splits = 0
    while todo:
        part = todo.pop(0)
        try:
            found, new = take(part, n_splits == 0)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            smaller = _split(part, error)
        else:
            for name, term in found.items():
                terms[name] = terms.get(name, 0) + term
            for name, more in new.items():
                known = gradients.get(name, [None] * len(more))
                gradients[name] = list(map(_add, known, more))
            continue
        # Only here the traceback is gone, and with it the tensors that it kept alive.
        found, new = {}, {}
        free_memory()
        todo = [*smaller, *todo]
        n_splits += 1
    return terms, gradients, n_splits


def _finish(
    terms: Terms,
    gradients: Gradients,
    weights: Mapping[str, float],
    parameters: Sequence[torch.nn.Parameter],
    n_splits: int,
) -> LocalStep:
    """Give the loss the gradient that is known."""
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
