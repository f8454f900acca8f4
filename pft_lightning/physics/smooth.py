"""SiLU and functions of rows, with all their derivatives."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from pft_lightning.physics.forms import ARGUMENT, Form, Known, Sum


class ScaledSilu(Form):
    """``factor * x * sigmoid(x)`` of each number.

    Args:
        factor: of the values.
    """

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def evaluate(
        self,
        known: Known,
        spaces: Sequence[int],
        sums: Sequence[Sum],
        x: torch.Tensor,
        tensors: Sequence[torch.Tensor],
    ) -> list[torch.Tensor]:
        """See ``Form.evaluate``."""
        products: dict[tuple[int, ...], torch.Tensor] = {}

        def multiplied(places: tuple[int, ...]) -> torch.Tensor:
            if len(places) == 1:
                return tensors[places[0]]
            if places not in products:
                products[places] = multiplied(places[:-1]) * tensors[places[-1]]
            return products[places]

        found = []
        for each in sums:
            total: torch.Tensor | None = None
            for order, places in each.terms:
                factor = self._derivative(order, x, known)
                if not places:
                    value = factor.detach()  # its own object: autograd marks it
                    total = value if total is None else total + value
                    continue
                product = multiplied(tuple(sorted(places)))
                total = (
                    factor * product
                    if total is None
                    else torch.addcmul(total, factor, product)
                )
            assert total is not None
            found.append(total)
        return found

    def _derivative(self, order: int, x: torch.Tensor, known: Known) -> torch.Tensor:
        if ("silu", order) not in known:
            sigmoid = self._sigmoid(order, x, known)
            if order == 0:
                value = x * sigmoid
            elif order == 1:
                value = torch.addcmul(self._sigmoid(0, x, known), x, sigmoid)
            else:
                before = self._sigmoid(order - 1, x, known)
                value = torch.add(x * sigmoid, before, alpha=order)
            known["silu", order] = value
        return known["silu", order]

    def _sigmoid(self, order: int, x: torch.Tensor, known: Known) -> torch.Tensor:
        """Derivative of ``factor * sigmoid(x)``."""
        if ("sigmoid",) not in known:
            known["sigmoid",] = torch.sigmoid(x)
        plain = known["sigmoid",]
        if ("sigmoid", order) not in known:
            if order == 0:
                value = plain if self.factor == 1.0 else plain * self.factor
            elif order == 1:
                scaled = self._sigmoid(0, x, known)
                value = torch.addcmul(scaled, scaled, plain, value=-1)
            else:
                highest, *others = _sigmoid_polynomial(order)
                value = plain * highest + others[0]
                for coefficient in others[1:]:
                    value = value * plain + coefficient
                value = value * self._sigmoid(1, x, known)
            known["sigmoid", order] = value
        return known["sigmoid", order]


@functools.cache
def _sigmoid_polynomial(order: int) -> list[float]:
    """Derivative of the sigmoid over its first one, in powers of it, highest first."""
    polynomial = np.polynomial.Polynomial([1.0])
    step = np.polynomial.Polynomial([0.0, 1.0, -1.0])
    for _ in range(order - 1):
        polynomial = polynomial.deriv() * step + polynomial * step.deriv()
    return [float(x) for x in polynomial.coef[::-1]]


class RowFunction(Form):
    """A function of rows to rows: (n, n_in) to (n, n_out)."""

    separate = True  # directions do not depend on the weights, cotangents do

    @abstractmethod
    def derivative(self, order: int, x: torch.Tensor, known: Known) -> torch.Tensor:
        """Derivative tensors (n, n_in ** order * n_out), the last axis last."""

    def evaluate(
        self,
        known: Known,
        spaces: Sequence[int],
        sums: Sequence[Sum],
        x: torch.Tensor,
        tensors: Sequence[torch.Tensor],
    ) -> list[torch.Tensor]:
        """See ``Form.evaluate``."""
        contracted: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}

        def along(order: int, directions: tuple[int, ...]) -> torch.Tensor:
            if (order, directions) not in contracted:
                if directions:
                    before = along(order, directions[:-1])
                    before = before.unflatten(-1, (x.shape[-1], -1))
                    value = _contract("nir,ni->nr", before, tensors[directions[-1]])
                else:
                    if (order,) not in known:
                        known[order,] = self.derivative(order, x, known)
                    value = known[order,]
                contracted[order, directions] = value
            return contracted[order, directions]

        found = []
        for each in sums:
            total: torch.Tensor | None = None
            for order, places in each.terms:
                directions = [i for i in places if spaces[i] == ARGUMENT]
                value = along(order, tuple(sorted(directions)))
                for i in set(places).difference(directions):  # one cotangent or none
                    value = value.unflatten(-1, (x.shape[-1], -1))
                    value = _contract("nir,nr->ni", value, tensors[i])
                total = value if total is None else total + value
            assert total is not None
            found.append(total.detach())  # its own object: autograd marks it
        return found


def _contract(what: str, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``torch.einsum`` of two tensors, either of which may have axes in front."""
    inputs, output = what.split("->")
    first, second = inputs.split(",")
    return torch.einsum(f"...{first},...{second}->...{output}", one, other)
