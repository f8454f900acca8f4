"""Rows of blocks with each block transposed: e3nn's order and that of the messages."""

from __future__ import annotations

import functools
from typing import Any

import torch

from pft_lightning.physics.functions import Function


_Shapes = tuple[tuple[int, int], ...]


def transpose_blocks(rows: torch.Tensor, shapes: _Shapes) -> torch.Tensor:
    """Transpose each block of a row; one operation, and so is each derivative.

    Args:
        rows: (n, row).
        shapes: of the blocks, one after the other.
    """
    if all(1 in shape for shape in shapes):
        return rows
    transposed: torch.Tensor = _Transposed.apply(rows, shapes)
    return transposed


class _Transposed(Function):
    """A permutation of columns; its adjoint is its inverse, and reads as it does."""

    @staticmethod
    def forward(rows: torch.Tensor, shapes: _Shapes) -> torch.Tensor:
        return rows.index_select(-1, _columns(shapes, rows.device))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.shapes = inputs[1]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor | None) -> tuple[Any, ...]:
        if cotangent is None:
            return None, None
        back = tuple((columns, rows) for rows, columns in ctx.shapes)
        return _Transposed.apply(cotangent, back), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: None) -> torch.Tensor:
        found: torch.Tensor = _Transposed.apply(tangent, ctx.shapes)
        return found

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], rows: torch.Tensor, shapes: _Shapes
    ) -> tuple[torch.Tensor, int]:
        return _Transposed.apply(rows.movedim(in_dims[0], 0), shapes), 0


@functools.lru_cache(maxsize=256)
def _columns(shapes: _Shapes, device: torch.device) -> torch.Tensor:
    """Where each column of the result comes from, on the device for good."""
    parts, start = [], 0
    for rows, columns in shapes:
        size = rows * columns
        part = torch.arange(start, start + size).view(rows, columns)
        parts.append(part.T.flatten())
        start += size
    return torch.cat(parts).to(device)
