"""What tells models and sources apart, so that results are computed again in time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import numpy as np
import torch
from ase.calculators.calculator import BaseCalculator

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.settings import PLAIN, plain_settings
from pft_lightning.evaluation.force_constants import Potential


# What of a calculator changes from one structure to the next.
_VOLATILE = ("atoms", "results", "_directory", "directory", "label", "prefix")


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def digest(value: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def library_versions(others: Sequence[str] = ()) -> dict[str, str]:
    """Versions of the libraries that compute numbers between model and result.

    Args:
        others: beside those of every evaluation.
    """
    found = {}
    for name in ("phonopy", "spglib", "symfc", *others):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def fingerprint(model: Potential) -> str:
    """Tell two models apart by their type, weights and settings."""
    found = hashlib.sha256()
    _add_name(found, type(model))
    if isinstance(model, EnergyModel):
        shown = (model.cutoff, model.head, str(model.dtype), model.atomic_numbers)
        found.update(repr(shown).encode())
        _add_module(found, model)
    else:
        _add_calculator(found, model)
    return found.hexdigest()


def _add_name(found: _Hash, kind: type) -> None:
    found.update(f"{kind.__module__}.{kind.__qualname__} ".encode())


def _add_module(found: _Hash, module: torch.nn.Module) -> None:
    """Add weights, and settings that are no weights, as MACE's number of neighbours."""
    tensors = {**module.state_dict(), **dict(module.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, torch.Tensor):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            found.update(_bytes(tensor))
    for name, kind, attribute, value in plain_settings(module):
        text = f"{attribute}={value!r} " if attribute else f"{name} {kind} "
        found.update(text.encode())


def _add_calculator(found: _Hash, calculator: BaseCalculator) -> None:
    for name, value in sorted(vars(calculator).items()):
        if name not in _VOLATILE:
            found.update(f"{name}=".encode())
            _add(found, value)


def _add(found: _Hash, value: Any) -> None:
    """Add what of a value is weights or settings; other objects by their kind."""
    if isinstance(value, torch.nn.Module):
        _add_module(found, value)
    elif isinstance(value, BaseCalculator):
        _add_calculator(found, value)
    elif isinstance(value, (torch.Tensor, np.ndarray)):
        found.update(_bytes(torch.as_tensor(value)))
    elif isinstance(value, Mapping):
        for key, held in value.items():
            found.update(f"{key!r}:".encode())
            _add(found, held)
    elif isinstance(value, (list, tuple)):
        for held in value:
            _add(found, held)
    elif isinstance(value, PLAIN):
        found.update(f"{value!r} ".encode())
    else:
        _add_name(found, type(value))


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
