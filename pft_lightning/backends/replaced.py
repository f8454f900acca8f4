"""Forms in place of what e3nn computes in many operations, while a network runs."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch

from pft_lightning.backends.convolutions import exchanged_forwards
from pft_lightning.physics.forms import Form
from pft_lightning.physics.harmonics import Harmonics, Solid
from pft_lightning.physics.smooth import ScaledSilu


_FOUND: weakref.WeakKeyDictionary[torch.nn.Module, list[tuple[Any, Form]]] = (
    weakref.WeakKeyDictionary()
)


@contextlib.contextmanager
def derived_by_forms(
    network: torch.nn.Module, solid: Solid | None = None
) -> Iterator[None]:
    """Let forms compute the activations and the harmonics of a network of e3nn.

    Args:
        network: to change while the context lasts.
        solid: ``e3nn.o3.spherical_harmonics``; None leaves harmonics as they are.
    """
    if network not in _FOUND:
        named = ((module, _form(module, solid)) for module in network.modules())
        _FOUND[network] = [(module, form) for module, form in named if form is not None]
    with exchanged_forwards(_FOUND[network]):
        yield


def _form(module: Any, solid: Solid | None) -> Form | None:
    """What computes the same; None for other modules.

    Packages of NequIP bring classes of their own, so that only names can be compared.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return None
    name = type(module).__name__
    if name == "normalize2mom":
        function = module.f
        is_silu = function is torch.nn.functional.silu
        if is_silu or type(function) is torch.nn.SiLU:
            return ScaledSilu(1.0 if module._is_id else module.cst)
    if name == "SphericalHarmonics" and solid is not None:
        degrees = list(range(module._lmax + 1))
        kind = module._ls_list, module.normalize, module.normalization
        if kind == (degrees, True, "component"):
            return Harmonics(module._lmax, solid)
    return None
