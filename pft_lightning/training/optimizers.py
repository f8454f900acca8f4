"""Parameter groups, which say what decays; optimisers and schedules of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from pft_lightning.errors import ConfigError


OptimizerFactory = Callable[..., torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer], Any]


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


def make_optimizer(
    factory: OptimizerFactory, groups: list[dict[str, Any]]
) -> torch.optim.Optimizer:
    """Make an optimizer, and check that its steps leave something of the weights.

    Raises:
        ConfigError: It does not take its arguments, or decays too fast.
    """
    try:
        optimizer = factory(groups)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer: cannot be made ({error}).") from error
    for group in optimizer.param_groups:
        if (product := group.get("weight_decay", 0) * group["lr"]) >= 1:
            raise ConfigError(
                f"Learning rate times decay is {product:g}: every step would take "
                "away more than there is. Lower optimizer.lr or the decay until "
                "their product is well below 1."
            )
    return optimizer


def make_scheduler(factory: SchedulerFactory, optimizer: torch.optim.Optimizer) -> Any:
    """Make a schedule of the learning rate.

    Raises:
        ConfigError: It does not take its arguments, or a cosine has no length.
    """
    try:
        scheduler = factory(optimizer)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"scheduler: cannot be made ({error}).") from error
    if getattr(scheduler, "T_max", 1) < 1:  # of torch's own cosine
        raise ConfigError(
            f"scheduler.T_max is {scheduler.T_max}; a cosine needs to know its "
            "length. Set trainer.max_steps or scheduler.T_max."
        )
    return scheduler
