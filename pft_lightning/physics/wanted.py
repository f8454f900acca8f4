"""Which gradients a running backward pass needs."""

from __future__ import annotations

from typing import Any

import torch


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
