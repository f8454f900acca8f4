"""What this package's own ``torch.autograd.Function``s have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


class Function(torch.autograd.Function):
    """A function of settings, and of tensors after them, given by position alone.

    torch looks up the signature of ``forward`` in each call, which takes longer than
    a small matrix product.
    """

    @classmethod
    def apply(cls, *inputs: Any) -> Any:
        """Compute the function, as torch's ``apply`` does."""
        if torch._C._are_functorch_transforms_active():
            return super().apply(*inputs)
        inputs = torch._functorch.utils.unwrap_dead_wrappers(inputs)
        return super(torch.autograd.Function, cls).apply(*inputs)  # type: ignore[misc]


def is_wanted(ctx: Any, settings: int, place: int) -> bool:
    """Whether the running backward pass needs the gradient of a tensor.

    ``needs_input_grad`` also counts those that lead to other leaves than were asked
    for: to weights, while the gradient to the positions is taken.

    Args:
        ctx: of a ``torch.autograd.Function``.
        settings: number of its inputs before the first tensor.
        place: of the tensor, among those that follow.
    """
    if not ctx.needs_input_grad[settings + place]:
        return False
    node = ctx.next_functions[place][0]
    # The question is not answered for leaves.
    if node is None or node.name().endswith("AccumulateGrad"):
        return True
    return bool(torch._C._will_engine_execute_node(node))


def move_forward(
    tensors: Sequence[torch.Tensor], dims: Sequence[int | None]
) -> list[torch.Tensor]:
    """Tensors with the axis of a vmap, where they have it, in front."""
    return [
        tensor if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, dims, strict=True)
    ]


def apply_one_by_one(
    call: Callable[..., tuple[torch.Tensor, ...]],
    tensors: Sequence[torch.Tensor],
    dims: Sequence[int | None],
) -> tuple[tuple[torch.Tensor, ...], tuple[int, ...]]:
    """A vmap's results, and their axes, from calls with one of the tensors each.

    Args:
        call: of these tensors.
        tensors: of the vmap.
        dims: axis of each that is mapped over.
    """
    moved = move_forward(tensors, dims)
    pairs = list(zip(moved, dims, strict=True))
    size = next(len(tensor) for tensor, dim in pairs if dim is not None)
    found = [
        call(*(tensor if dim is None else tensor[k] for tensor, dim in pairs))
        for k in range(size)
    ]
    stacked = tuple(torch.stack(parts) for parts in zip(*found, strict=True))
    return stacked, (0,) * len(stacked)
