"""What tells models and sources apart, so that results are computed again in time."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pft_lightning.backends.base import EnergyModel
from pft_lightning.evaluation.force_constants import Potential


def digest(value: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def fingerprint(model: Potential) -> str:
    """Tell two models apart by their type and weights (calculators: parameters)."""
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    if not isinstance(model, EnergyModel):
        return digest([kind, repr(getattr(model, "parameters", None))])
    found = hashlib.sha256(f"{kind} {model.cutoff} {model.head}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
