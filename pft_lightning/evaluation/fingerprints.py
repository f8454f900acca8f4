"""What tells models and sources apart, so that results are computed again in time."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import FunctionType, ModuleType
from typing import Any, Protocol

import numpy as np
import torch

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.settings import PLAIN, plain_settings
from pft_lightning.evaluation.force_constants import Potential


# What of a calculator changes from one structure to the next.
_VOLATILE = ("atoms", "results", "_directory", "directory", "label", "prefix")

# Objects that belong to the whole process, not to a calculator.
_SHARED = (ModuleType, logging.Logger, logging.Handler)


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
        _add_attributes(found, model, set())
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


def _add_attributes(found: _Hash, holder: Any, seen: set[int]) -> None:
    """Add what an object holds, once."""
    if id(holder) in seen:
        return
    seen.add(id(holder))
    for name, value in sorted(vars(holder).items()):
        if name not in _VOLATILE:
            found.update(f"{name}=".encode())
            _add(found, value, seen)


def _add(found: _Hash, value: Any, seen: set[int]) -> None:
    """Add what of a value is weights or settings; compiled objects by their kind.

    Args:
        found: gets it.
        value: of an attribute.
        seen: addresses of the objects that were added.
    """
    if isinstance(value, torch.nn.Module):
        _add_module(found, value)
    elif isinstance(value, torch.Tensor):
        found.update(_bytes(value))
    elif isinstance(value, Mapping):
        for key, held in value.items():
            found.update(f"{key!r}:".encode())
            _add(found, held, seen)
    elif isinstance(value, (list, tuple)):
        for held in value:
            _add(found, held, seen)
    elif isinstance(value, (set, frozenset)):
        found.update(repr(sorted(map(repr, value))).encode())
    elif isinstance(value, PLAIN):
        found.update(f"{value!r} ".encode())
    elif isinstance(value, (type, FunctionType)):
        found.update(f"{value.__module__}.{value.__qualname__} ".encode())
    else:
        _add_name(found, type(value))
        if (array := _array_of(value)) is not None:
            found.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
        elif not isinstance(value, _SHARED) and hasattr(value, "__dict__"):
            _add_attributes(found, value, seen)


def _array_of(value: Any) -> np.ndarray | None:
    """Numbers or texts that an object holds as an array, as those of jax do."""
    if not hasattr(value, "__array__"):
        return None
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if array.dtype.hasobject else array


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()
