"""Settings of networks that are no weights, as MACE's mean number of neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


PLAIN = (bool, int, float, str, bytes, type(None), np.generic, torch.dtype)


def plain_settings(module: torch.nn.Module) -> Iterator[tuple[str, str, str, Any]]:
    """Attributes of a module, and of all in it, that are plain values.

    Yields:
        Name of the part, of its class, of the attribute, and its value; once with an
        empty attribute for each part.
    """
    for name, part in module.named_modules():
        kind = type(part).__qualname__
        yield name, kind, "", None
        for attribute, value in sorted(vars(part).items()):
            is_setting = not attribute.startswith("_") and attribute != "training"
            if is_setting and isinstance(value, PLAIN):
                yield name, kind, attribute, value
