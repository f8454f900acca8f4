"""The direction of a Hessian-vector product, for those who can leave out what is still.

A column of the Hessian moves one atom. A function of the vector between two atoms that
do not move against each other has no directional derivative, whatever the weights of
the network are, and nobody needs the gradient with respect to it. Automatic
differentiation sees zeros, and not that they are always zero.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """Directions along which derivatives of the gradient are being taken.

    Attributes:
        tangents: (n_atoms, n_probes, 3).
        known: what has been found out about them.
    """

    tangents: torch.Tensor
    known: dict[Any, torch.Tensor] = field(default_factory=dict)


_CURRENT: ContextVar[Direction | None] = ContextVar("direction", default=None)
_STRAINED: ContextVar[bool] = ContextVar("strained", default=False)


@contextlib.contextmanager
def strained() -> Iterator[None]:
    """Directions inside hold strain, which leaves no pair of atoms still."""
    token = _STRAINED.set(True)
    try:
        yield
    finally:
        _STRAINED.reset(token)


@contextlib.contextmanager
def along(tangents: torch.Tensor) -> Iterator[None]:
    """Derivatives taken inside are along these directions.

    Nobody is told within a transform of torch.func, where they cannot be looked at, and
    of none that hold strain.
    Backward passes stay in this thread: those of a GPU run in one of their own, which
    would know of no direction.

    Args:
        tangents: (n_atoms, n_probes, 3), all of the probes that are computed at once;
            nothing may need their gradient.
    """
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tangents)
    unknown = wrapped or _STRAINED.get()
    direction = None if unknown else Direction(tangents.detach())
    token = _CURRENT.set(direction)
    try:
        with torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        _CURRENT.reset(token)


def current_direction() -> Direction | None:
    """The directions of the derivative that is being taken; None outside of one."""
    return _CURRENT.get()
