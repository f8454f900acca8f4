"""Parameter groups: which weights decay."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch


def decay_groups(
    module: torch.nn.Module,
    *,
    no_decay: Sequence[str] = (),
    weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Split the trainable parameters into decayed and undecayed ones.

    Args:
        module: Whose parameters with ``requires_grad`` are taken.
        no_decay: Shell patterns of parameter names that must not decay. Scalars
            (scale factors, shifts) never do: shrinking them rescales the energy.
        weight_decay: Of all trainable parameters alike, whatever their names, where
            they are differences from base weights; None leaves it to the optimizer.

    Returns:
        Groups for a ``torch.optim`` optimizer, named ``decay`` and ``no_decay``;
        the second has ``weight_decay`` 0. Empty groups are left out.
    """
    if weight_decay is not None:
        trained = [p for p in module.parameters() if p.requires_grad]
        group = {"params": trained, "name": "difference", "weight_decay": weight_decay}
        return [group] if trained else []
    decayed: list[torch.nn.Parameter] = []
    undecayed: list[torch.nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = parameter.numel() == 1 or any(
            fnmatchcase(name, pattern) for pattern in no_decay
        )
        (undecayed if exempt else decayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "name": "decay"},
        {"params": undecayed, "name": "no_decay", "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
