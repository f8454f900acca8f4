"""Deep copies of networks of e3nn."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch


_Module = TypeVar("_Module", bound=torch.nn.Module)


def deep_copy(module: _Module, memo: dict[int, Any]) -> _Module:
    """What ``__deepcopy__`` of a module gives, with compiled parts as they are.

    e3nn pickles and traces them anew: constants become buffers that the original does
    not have, and a moving average pairs the buffers of model and copy.

    Args:
        module: to copy.
        memo: of ``copy.deepcopy``.
    """
    # Functions have no state, and those of TorchScript cannot be copied.
    memo |= {
        id(value): value
        for child in module.modules()
        for value in vars(child).values()
        if isinstance(value, torch.jit.ScriptFunction)
    }
    twin = module.__class__.__new__(module.__class__)
    memo[id(module)] = twin
    twin.__dict__.update(copy.deepcopy(module.__dict__, memo))
    for name, child in module.named_modules():
        if isinstance(child, torch.fx.GraphModule):
            parent, _, own_name = name.rpartition(".")
            setattr(twin.get_submodule(parent), own_name, copy.deepcopy(child, memo))
    return twin
