"""Division of rows by their norm, with all derivatives."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import torch

from pft_lightning.physics.forms import Form, Known, Sum


class Normalise(Form):
    """``x / sqrt(x . x + eps)`` of each row.

    It is the gradient of ``sqrt(x . x + eps)``, so that its derivatives are symmetric:
    the one of some order times as many tensors is a sum over the ways to make pairs of
    these, ``x`` and the result. All products of rows come out of one matrix product,
    and all sums of another.

    Args:
        eps: added to the square.
    """

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def evaluate(
        self,
        known: Known,
        spaces: Sequence[int],
        sums: Sequence[Sum],
        x: torch.Tensor,
        tensors: Sequence[torch.Tensor],
    ) -> list[torch.Tensor]:
        """See ``Form.evaluate``."""
        terms = tuple(tuple(term.places for term in each.terms) for each in sums)
        factors, weights = _contraction(terms, len(tensors), x.dtype, x.device)
        one, inverse = self._norm(x, known)
        # Each row over the norm: its powers alone exceed the range of float32.
        rows = torch.stack(torch.broadcast_tensors(x, *tensors), dim=-2)
        rows = rows * inverse[..., None]
        squares = (rows @ rows.mT).flatten(-2)
        numbers = torch.cat([one.expand(*squares.shape[:-1], 1), squares], dim=-1)
        chosen = numbers.index_select(-1, factors.flatten())
        products = chosen.unflatten(-1, factors.shape).prod(dim=-1)
        mixed = (products @ weights).unflatten(-1, (len(sums), rows.shape[-2]))
        return list((mixed @ rows).unbind(-2))

    def _norm(self, x: torch.Tensor, known: Known) -> tuple[torch.Tensor, torch.Tensor]:
        """Ones, and one over the root of the square, (n, 1) each."""
        if "inverse" not in known:
            square = (x[..., None, :] @ x[..., :, None])[..., 0] + self.eps
            known["inverse"] = square.rsqrt()
            known["one"] = torch.ones_like(square)
        return known["one"], known["inverse"]


@functools.lru_cache(maxsize=256)
def _contraction(
    sums: tuple[tuple[tuple[int, ...], ...], ...],
    n_tensors: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which products of numbers there are, and what each adds to the rows of a sum.

    Returns:
        (n_products, n_factors), int64, places of the numbers: a one, then the products
        of rows (``x`` and the tensors); and (n_products, n_sums * n_rows).
    """
    n_rows = n_tensors + 1
    found: dict[tuple[int, ...], dict[int, float]] = {}
    for place, terms in enumerate(sums):
        for places in terms:
            result = -1
            for pairs, alone in _pairings((*(i + 1 for i in places), result)):
                # Each pair is a second derivative of the square, each other tensor a
                # first one, which holds x.
                blocks = [*pairs, *((0, i) for i in alone)]
                dots = [a * n_rows + b for a, b in blocks if b != result]
                (row,) = (a for a, b in blocks if b == result)
                value = math.prod(2.0 * (0.5 - i) for i in range(len(blocks)))
                key = tuple(sorted(1 + dot for dot in dots))
                column = place * n_rows + row
                columns = found.setdefault(key, {})
                columns[column] = columns.get(column, 0.0) + value
    n_factors = max(1, *map(len, found))
    factors = torch.zeros(len(found), n_factors, dtype=torch.int64)
    weights = torch.zeros(len(found), len(sums) * n_rows, dtype=dtype)
    for product, (key, columns) in enumerate(found.items()):
        factors[product, : len(key)] = torch.tensor(key)
        for column, value in columns.items():
            weights[product, column] = value
    return factors.to(device), weights.to(device)


def _pairings(
    items: tuple[int, ...],
) -> Iterator[tuple[list[tuple[int, int]], list[int]]]:
    """All ways to make pairs of some items: the pairs, and those left over."""
    if not items:
        yield [], []
        return
    first, *others = items
    for pairs, alone in _pairings(tuple(others)):
        yield pairs, [first, *alone]
    for i, partner in enumerate(others):
        rest = (*others[:i], *others[i + 1 :])
        for pairs, alone in _pairings(rest):
            yield [(first, partner), *pairs], alone
