"""Functions whose derivatives of every order take few operations.

Automatic differentiation of a Hessian loss takes three derivatives of every operation,
and each of them launches kernels. Here all derivatives of a function are one form: the
derivative of some order at ``x``, times some of the tensors that meet it. Derivatives
of that are sums of the same form, with one tensor exchanged or the order raised. What
does not depend on the tensors is computed once in a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from pft_lightning.physics.functions import (
    Function,
    apply_one_by_one,
    is_wanted,
    move_forward,
)


# Spaces that tensors belong to: that of the arguments of a function (and directions in
# it), and that of its values (and cotangents of them). Where both are the same, as for
# functions of single numbers, nobody asks.
ARGUMENT, VALUE = range(2)

# What does not depend on the tensors, by the name that a form gives it.
Known = dict[Any, torch.Tensor]


class Term(NamedTuple):
    """A derivative times tensors.

    Attributes:
        order: of the derivative.
        places: of the tensors that it is multiplied with.
    """

    order: int
    places: tuple[int, ...] = ()


class Sum(NamedTuple):
    """A sum of terms.

    Attributes:
        space: that the sum belongs to.
        terms: of the sum.
    """

    space: int
    terms: tuple[Term, ...]


class Form(ABC):
    """A function of one tensor, with all its derivatives.

    Attributes:
        separate: whether sums are computed one by one. What is computed together seems
            to autograd to depend on the same weights.
    """

    separate = False

    @abstractmethod
    def evaluate(
        self,
        known: Known,
        spaces: Sequence[int],
        sums: Sequence[Sum],
        x: torch.Tensor,
        tensors: Sequence[torch.Tensor],
    ) -> list[torch.Tensor]:
        """Compute sums of terms, without gradients.

        Args:
            known: of this ``x``, to read and to fill.
            spaces: of the tensors.
            sums: what to compute.
            x: argument of the function.
            tensors: that the terms name. They, or all with ``x``, may have one more
                axis in front.
        """

    def __call__(self, x: torch.Tensor, *factors: torch.Tensor) -> torch.Tensor:
        """The function at ``x``, times factors of the same shape."""
        places = tuple(range(len(factors)))
        spaces = (ARGUMENT,) * len(factors)
        sums = (Sum(VALUE, (Term(0, places),)),)
        value: torch.Tensor
        (value,) = _Sums.apply(self, {}, spaces, sums, x, *factors)
        return value


class _Sums(Function):
    """Several sums of terms of one function at the same argument."""

    @staticmethod
    def forward(
        form: Form,
        known: Known,
        spaces: tuple[int, ...],
        sums: tuple[Sum, ...],
        x: torch.Tensor,
        *tensors: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        return tuple(form.evaluate(known, spaces, sums, x, tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.form, ctx.known, ctx.spaces, ctx.sums, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, ...]:
        x, *tensors = ctx.saved_tensors
        collected = _Collected(ctx, x, tensors)
        added = [
            collected.add(cotangent, each.space)
            for cotangent, each in zip(cotangents, ctx.sums, strict=True)
        ]
        sums: dict[int, Sum] = {}
        for place in range(-1, len(tensors)):
            if not is_wanted(ctx, 4, place + 1):
                continue
            terms = tuple(
                derived
                for cotangent, each in zip(added, ctx.sums, strict=True)
                if cotangent >= 0
                for term in each.terms
                for derived in _derived(term, place, cotangent)
            )
            if terms:
                space = ARGUMENT if place < 0 else ctx.spaces[place]
                sums[place] = Sum(space, terms)
        found = dict(zip(sums, collected.apply(tuple(sums.values())), strict=True))
        gradients = [
            found[i].sum_to_size(tensor.shape) if i in found else None
            for i, tensor in enumerate((x, *tensors), -1)
        ]
        return None, None, None, None, *gradients

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[torch.Tensor, ...]:
        x, *tensors = ctx.saved_tensors
        collected = _Collected(ctx, x, tensors)
        spaces = (ARGUMENT, *ctx.spaces)
        added = [
            collected.add(tangent, space)
            for tangent, space in zip(tangents[4:], spaces, strict=True)
        ]
        sums = tuple(
            Sum(
                each.space,
                tuple(
                    derived
                    for place, tangent in enumerate(added, -1)
                    if tangent >= 0
                    for term in each.terms
                    for derived in _derived(term, place, tangent)
                ),
            )
            for each in ctx.sums
        )
        return collected.apply(sums)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        form: Form,
        known: Known,
        spaces: tuple[int, ...],
        sums: tuple[Sum, ...],
        *tensors: torch.Tensor,
    ) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
        dims = in_dims[4:]
        axes = {
            tensor.ndim - (dim is not None)
            for tensor, dim in zip(tensors, dims, strict=True)
        }
        if len(axes) > 1:
            # Some have an axis of another vmap, which is not to meet the one of this.
            return apply_one_by_one(
                lambda *one: _Sums.apply(
                    form, known if dims[0] is None else {}, spaces, sums, *one
                ),
                tensors,
                dims,
            )
        moved = move_forward(tensors, dims)
        known = known if dims[0] is None else {}
        found = _Sums.apply(form, known, spaces, sums, *moved)
        # Sums that no mapped tensor is part of are the same for all.
        found = tuple(
            value.expand(info.batch_size, *value.shape)
            if value.ndim < tensors[0].ndim + (dims[0] is None)
            else value
            for value in found
        )
        return found, (0,) * len(found)


class _Collected:
    """The tensors of a call, to which others are added."""

    def __init__(
        self, ctx: Any, x: torch.Tensor, tensors: Sequence[torch.Tensor]
    ) -> None:
        self.form, self.known, self.x = ctx.form, ctx.known, x
        self.tensors, self.spaces = list(tensors), list(ctx.spaces)

    def add(self, tensor: torch.Tensor | None, space: int) -> int:
        """Add a tangent or cotangent and return its place; -1 for none."""
        if tensor is None:
            return -1
        self.tensors.append(tensor)
        self.spaces.append(space)
        return len(self.tensors) - 1

    def apply(self, sums: tuple[Sum, ...]) -> tuple[torch.Tensor, ...]:
        """Compute sums, with the tensors that they name and no others."""
        if not sums:
            return ()
        if self.form.separate and len(sums) > 1:
            return tuple(value for each in sums for value in self.apply((each,)))
        named = sorted({i for each in sums for term in each.terms for i in term.places})
        new = {old: place for place, old in enumerate(named)}
        renamed = tuple(
            Sum(
                each.space,
                tuple(
                    Term(t.order, tuple(new[i] for i in t.places)) for t in each.terms
                ),
            )
            for each in sums
        )
        found: tuple[torch.Tensor, ...] = _Sums.apply(
            self.form,
            self.known,
            tuple(self.spaces[i] for i in named),
            renamed,
            self.x,
            *(self.tensors[i] for i in named),
        )
        return found


def _derived(term: Term, place: int, other: int) -> list[Term]:
    """Derivative of a term by a tensor, or by the argument (-1), along another."""
    if place < 0:
        return [Term(term.order + 1, (*term.places, other))]
    return [
        Term(term.order, (*term.places[:i], other, *term.places[i + 1 :]))
        for i, each in enumerate(term.places)
        if each == place
    ]
