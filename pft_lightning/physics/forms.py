"""Functions whose derivatives of every order take few operations.

Automatic differentiation of a Hessian loss takes three derivatives of every operation,
and each of them launches kernels. Here all derivatives of a function are one form: the
derivative of some order at ``x``, times some of the tensors that meet it. Derivatives
of that are sums of the same form, with one tensor exchanged or the order raised. What
does not depend on the tensors is computed once in a step.
"""

from __future__ import annotations

import functools
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
        call = _gradients(
            ctx.spaces,
            ctx.sums,
            tuple(cotangent is not None for cotangent in cotangents),
            tuple(is_wanted(ctx, 4, place) for place in range(1 + len(tensors))),
        )
        gradients: list[torch.Tensor | None] = [None] * (1 + len(tensors))
        found = _apply(ctx, call, x, (*tensors, *cotangents))
        for place, value in zip(call.reached, found, strict=True):
            gradients[place] = value.sum_to_size(ctx.saved_tensors[place].shape)
        return None, None, None, None, *gradients

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[torch.Tensor, ...]:
        x, *tensors = ctx.saved_tensors
        given = tuple(tangent is not None for tangent in tangents[4:])
        call = _tangents(ctx.spaces, ctx.sums, given)
        return _apply(ctx, call, x, (*tensors, *tangents[4:]))

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


class _Call(NamedTuple):
    """Sums of old tensors and new ones.

    Attributes:
        reached: place of the argument (0) or tensor that each sum is the gradient of.
        spaces: of the tensors.
        sums: to compute.
    """

    reached: tuple[int, ...]
    spaces: tuple[int, ...]
    sums: tuple[Sum, ...]


# What to compute is found out once, not in each step: this is most of the work of a
# call with few atoms.
@functools.lru_cache(maxsize=4096)
def _gradients(
    spaces: tuple[int, ...],
    sums: tuple[Sum, ...],
    given: tuple[bool, ...],
    wanted: tuple[bool, ...],
) -> _Call:
    """Gradients from cotangents, which come after the tensors."""
    found: dict[int, Sum] = {}
    for place, space in enumerate((ARGUMENT, *spaces)):
        terms = tuple(
            derived
            for i, each in enumerate(sums)
            if given[i]
            for term in each.terms
            for derived in _derived(term, place - 1, len(spaces) + i)
        )
        if wanted[place] and terms:
            found[place] = Sum(space, terms)
    more = (each.space for each in sums)
    return _Call(tuple(found), (*spaces, *more), tuple(found.values()))


@functools.lru_cache(maxsize=4096)
def _tangents(
    spaces: tuple[int, ...], sums: tuple[Sum, ...], given: tuple[bool, ...]
) -> _Call:
    """Tangents of sums from those of argument and tensors, which come after these."""
    found = tuple(
        Sum(
            each.space,
            tuple(
                derived
                for place, is_given in enumerate(given)
                if is_given
                for term in each.terms
                for derived in _derived(term, place - 1, len(spaces) + place)
            ),
        )
        for each in sums
    )
    return _Call((), (*spaces, ARGUMENT, *spaces), found)


def _derived(term: Term, place: int, other: int) -> list[Term]:
    """Derivative of a term by a tensor, or by the argument (-1), along another."""
    if place < 0:
        return [Term(term.order + 1, (*term.places, other))]
    return [
        Term(term.order, (*term.places[:i], other, *term.places[i + 1 :]))
        for i, each in enumerate(term.places)
        if each == place
    ]


@functools.lru_cache(maxsize=4096)
def _named(sums: tuple[Sum, ...]) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    """The places that sums name, and the sums with places among these."""
    named = sorted({i for each in sums for term in each.terms for i in term.places})
    new = {old: place for place, old in enumerate(named)}
    renamed = tuple(
        Sum(
            each.space,
            tuple(Term(t.order, tuple(new[i] for i in t.places)) for t in each.terms),
        )
        for each in sums
    )
    return tuple(named), renamed


def _apply(
    ctx: Any, call: _Call, x: torch.Tensor, tensors: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor, ...]:
    """Compute sums, with the tensors that they name and no others."""
    if not call.sums:
        return ()
    found: tuple[torch.Tensor, ...] = ()
    for group in ((each,) for each in call.sums) if ctx.form.separate else (call.sums,):
        named, sums = _named(group)
        spaces = tuple(call.spaces[i] for i in named)
        some = (tensors[i] for i in named)
        found += _Sums.apply(ctx.form, ctx.known, spaces, sums, x, *some)
    return found
