"""Networks whose weights are computed from others: telling them, and merging.

torch's own ``remove_parametrizations`` takes the weight away from the class of the
module, which deep copies share: merging a copy with it would break the original.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch.nn.utils import parametrize

from pft_lightning.backends.copying import deep_copy


_Module = TypeVar("_Module", bound=torch.nn.Module)


class WeightChange(torch.nn.Module):
    """Base of the parametrizations that belong to an adaptation.

    Frameworks may bring others of their own (NequIP: spectral norm), which stay.
    """


def is_adapted(network: torch.nn.Module) -> bool:
    """Whether any weight of a network is computed by a ``WeightChange``."""
    return any(isinstance(module, WeightChange) for module in network.modules())


@torch.no_grad()
def merge(network: torch.nn.Module) -> None:
    """Replace computed weights by plain ones of the same value, in place.

    The parameters, their names and the classes of the modules are afterwards those
    that the framework built; ``requires_grad`` of each stays as it is.
    """
    # All values are taken before the first weight is written: two names may share one.
    values = [
        {name: getattr(module, name).clone() for name in steps}
        for module, steps in _changed_modules(network)
    ]
    for weights, computed in zip(undo_changes(network), values, strict=True):
        for name, value in computed.items():
            weights[name].copy_(value)


def undo_changes(network: torch.nn.Module) -> list[dict[str, torch.nn.Parameter]]:
    """Replace computed weights by the plain ones that they are computed from, in place.

    Returns:
        Of each module that had some, these by name.
    """
    found = []
    for module, steps in list(_changed_modules(network)):
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module._modules["parametrizations"]
        found.append({name: chain.original for name, chain in steps.items()})
        for name, weight in found[-1].items():
            module.register_parameter(name, weight)
    return found


def plain(network: _Module) -> _Module:
    """The network itself, or a merged copy where weights are computed."""
    if not is_adapted(network):
        return network
    merged = deep_copy(network, {})
    merge(merged)
    return merged


def _changed_modules(
    network: torch.nn.Module,
) -> Iterator[tuple[torch.nn.Module, Any]]:
    for module in network.modules():
        if parametrize.is_parametrized(module):
            steps: Any = module.parametrizations
            if any(isinstance(chain[0], WeightChange) for chain in steps.values()):
                yield module, steps
