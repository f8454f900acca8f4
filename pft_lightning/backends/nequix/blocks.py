"""Linear layers on rows of blocks: each block times a matrix of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pft_lightning.physics.functions import (
    Function,
    apply_one_by_one,
    is_wanted,
    move_forward,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a row, of its image, and the matrix between them.

    Attributes:
        components: rows of the block.
        shape: columns of the block and of its image.
        source: where the block starts.
        target: where its image starts.
        weight: where the matrix starts in the weights.
        scale: of the matrix.
    """

    components: int
    shape: tuple[int, int]
    source: int
    target: int
    weight: int
    scale: float


_Blocks = tuple[Block, ...]
# The arguments of the form that is linear in each of three.
_ROWS, _WEIGHTS, _IMAGES = range(3)


def mix_blocks(
    blocks: _Blocks, widths: tuple[int, int], rows: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Images (n, widths[1]) of rows (n, widths[0]); zero where no block goes."""
    images: torch.Tensor = _Mixed.apply(blocks, widths, _IMAGES, rows, weights)
    return images


class _Mixed(Function):
    """One argument of the form from the two others, in their order.

    One matrix product for each block, without copies of blocks and without sums of
    arrays that are zero but for one of them.
    """

    @staticmethod
    def forward(
        blocks: _Blocks,
        widths: tuple[int, int],
        slot: int,
        first: torch.Tensor,
        second: torch.Tensor,
    ) -> torch.Tensor:
        if first.dtype != second.dtype:  # under autocast
            first, second = first.float(), second.float()
        with torch.autocast(first.device.type, enabled=False):
            if slot == _WEIGHTS:
                return _weights(blocks, first, second)
            rows, weights = (first, second) if slot == _IMAGES else (second, first)
            return _rows(blocks, widths, rows, weights, slot == _ROWS)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.blocks, ctx.widths, ctx.slot, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor | None) -> tuple[Any, ...]:
        gradients: list[torch.Tensor | None] = [None, None]
        roles = _others(ctx.slot)
        for place, tensor in enumerate(ctx.saved_tensors):
            if cotangent is not None and is_wanted(ctx, 3, place):
                role, other = roles[place], roles[1 - place]
                known = {ctx.slot: cotangent, other: ctx.saved_tensors[1 - place]}
                found = _Mixed.apply(
                    ctx.blocks, ctx.widths, role, *(known[i] for i in _others(role))
                )
                gradients[place] = found.sum_to_size(tensor.shape)
        return None, None, None, *gradients

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> torch.Tensor | None:
        first, second = ctx.saved_tensors
        settings = ctx.blocks, ctx.widths, ctx.slot
        parts = []
        if tangents[3] is not None:
            parts.append(_Mixed.apply(*settings, tangents[3], second))
        if tangents[4] is not None:
            parts.append(_Mixed.apply(*settings, first, tangents[4]))
        return sum(parts[1:], parts[0])

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        blocks: _Blocks,
        widths: tuple[int, int],
        slot: int,
        *tensors: torch.Tensor,
    ) -> tuple[torch.Tensor, int]:
        dims = in_dims[3:]
        mapped = {
            role
            for role, dim in zip(_others(slot), dims, strict=True)
            if dim is not None
        }
        if slot != _WEIGHTS and _WEIGHTS not in mapped:
            moved = move_forward(tensors, dims)
            return _Mixed.apply(blocks, widths, slot, *moved), 0
        # Weights of each: nobody maps over them but to compare.
        (found,), (dim,) = apply_one_by_one(
            lambda *one: (_Mixed.apply(blocks, widths, slot, *one),), tensors, dims
        )
        return found, dim


def _others(slot: int) -> tuple[int, ...]:
    return tuple(role for role in (_ROWS, _WEIGHTS, _IMAGES) if role != slot)


def _rows(
    blocks: _Blocks,
    widths: tuple[int, int],
    rows: torch.Tensor,
    weights: torch.Tensor,
    back: bool,
) -> torch.Tensor:
    """Images of rows; or, back, rows from images."""
    width = widths[0] if back else widths[1]
    flat = _flat(rows)
    covered = sum(block.components * block.shape[not back] for block in blocks)
    make = flat.new_empty if covered == width else flat.new_zeros
    out = make(len(flat), width)
    weights = weights.contiguous()
    one, other = (_IMAGES, _ROWS) if back else (_ROWS, _IMAGES)
    for block in blocks:
        left, right = _view(block, flat, one), _matrices(block, weights, back)
        _multiply(block, _view(block, out, other), left, right)
    return out.view(*rows.shape[:-1], width)


def _weights(blocks: _Blocks, rows: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Sum over rows of their products with images."""
    if rows.ndim != images.ndim:
        leading = torch.broadcast_shapes(rows.shape[:-1], images.shape[:-1])
        rows, images = (x.expand(*leading, x.shape[-1]) for x in (rows, images))
    rows, images = _flat(rows), _flat(images)
    last = blocks[-1]
    out = rows.new_empty(last.weight + last.shape[0] * last.shape[1])
    for block in blocks:
        matrices = _matrices(block, out, False)
        left, right = _view(block, rows, _ROWS).mT, _view(block, images, _IMAGES)
        several = block.components > 1
        product = _multiply(block, matrices, left, right, keep=several)
        if several:
            torch.sum(product, dim=0, out=matrices[0])
    return out


def _flat(rows: torch.Tensor) -> torch.Tensor:
    """(n, row), neighbours in a row next to each other in memory."""
    if rows._is_zerotensor():
        rows = torch.zeros(rows.shape, dtype=rows.dtype, device=rows.device)
    flat = rows.reshape(-1, rows.shape[-1])
    return flat if flat.stride(1) == 1 else flat.contiguous()


def _multiply(
    block: Block,
    onto: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    *,
    keep: bool = False,
) -> torch.Tensor:
    """Products of a block's matrices, one for each component, written onto others.

    With keep they are given alone, and the others stay as they are.
    """
    form = torch.addmm if block.components == 1 else torch.baddbmm
    out = None if keep else onto
    return form(onto, left, right, beta=0, alpha=block.scale, out=out)


def _view(block: Block, rows: torch.Tensor, role: int) -> torch.Tensor:
    """(components, n, columns) of a block in its rows; of one component a matrix.

    One call in place of the three that cut, unflatten and transpose: there are some
    thousand of these in a Hessian step.
    """
    start = block.source if role == _ROWS else block.target
    columns = block.shape[role == _IMAGES]
    one = block.components == 1
    return rows.as_strided(
        (len(rows), columns) if one else (block.components, len(rows), columns),
        (rows.stride(0), 1) if one else (columns, rows.stride(0), 1),
        rows.storage_offset() + start,
    )


def _matrices(block: Block, weights: torch.Tensor, back: bool) -> torch.Tensor:
    """(columns in, columns out), again for each component; or, back, transposed."""
    n_in, n_out = block.shape
    shape: tuple[int, ...] = (n_out, n_in) if back else (n_in, n_out)
    stride: tuple[int, ...] = (1, n_out) if back else (n_out, 1)
    if block.components > 1:
        shape, stride = (block.components, *shape), (0, *stride)
    return weights.as_strided(shape, stride, weights.storage_offset() + block.weight)
