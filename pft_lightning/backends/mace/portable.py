"""MACE networks as weights and a description, readable under every e3nn.

A safetensors file: the weights, and in its metadata the arguments with which MACE
builds the network, as JSON. Unlike a ``.model`` file it holds no code, so that reading
it runs none. Classes and functions are kept by name and looked up in MACE.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pft_lightning.backends.mace.files import generated_prefixes
from pft_lightning.backends.mace.state import keep_global_state
from pft_lightning.backends.mace.stored import SUPPORTED
from pft_lightning.backends.reading.content import MACE_PORTABLE
from pft_lightning.errors import CheckpointError
from pft_lightning.files import write_atomically
from pft_lightning.json_files import parse_json


with keep_global_state():
    import mace.modules
    import mace.modules.blocks
    from e3nn.o3 import Irreps


SUFFIX = ".safetensors"
_VERSION = "1"


def write(path: Path, network: torch.nn.Module, config: dict[str, Any]) -> None:
    """Write the description and the weights of a network.

    Args:
        path: file to write; an existing one is replaced.
        network: as MACE builds it, merged; the code that e3nn generated is left out.
        config: from ``mace_files.extract_config``.

    Raises:
        CheckpointError: the description holds something that cannot be named.
    """
    generated = generated_prefixes(network)
    weights = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in network.state_dict().items()
        if not name.startswith(generated)
    }
    description = json.dumps({key: _encode(key, v) for key, v in config.items()})
    metadata = {
        "format": MACE_PORTABLE,
        "version": _VERSION,
        "class": type(network).__name__,
        "config": description,
        "sha256": _digest(description, weights),
    }
    write_atomically(path, lambda file: file.write(save(weights, metadata)))


def read(path: Path) -> tuple[str, dict[str, Any], dict[str, torch.Tensor]]:
    """Class, arguments and weights of a network, for ``mace_files.build``.

    Raises:
        CheckpointError: damaged, of a newer version, or naming what MACE lacks.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}). Copy or download it again."
        ) from error
    version = str(metadata.get("version"))
    if not version.isdecimal() or int(version) > int(_VERSION):
        raise CheckpointError(
            f"{path}: format version {version[:100]}, this package reads up to "
            f"{_VERSION}. Upgrade pft_lightning."
        )
    kind = metadata.get("class", "")
    if kind not in SUPPORTED:
        raise CheckpointError(
            f"{path}: holds a {kind[:100]}; expected one of {', '.join(SUPPORTED)}."
        )
    try:
        config = parse_json(metadata.get("config", "{}"))
        if not isinstance(config, dict) or not config:
            raise ValueError(f"it is {str(config)[:100]!r}")
        decoded = {key: _decode(value) for key, value in config.items()}
        for key in ("interaction_cls", "interaction_cls_first"):
            if not issubclass(decoded[key], mace.modules.blocks.InteractionBlock):
                raise KeyError(decoded[key].__name__)
    except (AttributeError, KeyError) as error:
        raise CheckpointError(
            f"{path}: names {error}, which the MACE installed here lacks. It was "
            "written with another version of MACE: install that one."
        ) from error
    # A damaged description may hold anything in place of anything.
    except (ValueError, TypeError, RecursionError, AssertionError) as error:
        raise CheckpointError(
            f"{path}: its description of the network cannot be read ({error}). Copy "
            "or download it again."
        ) from error
    # Files of earlier versions of this package have none.
    recorded = metadata.get("sha256")
    if recorded not in (None, _digest(metadata.get("config", ""), weights)):
        raise CheckpointError(
            f"{path}: is damaged: its checksum does not fit. Copy or download it again."
        )
    return kind, decoded, weights


def _digest(description: str, weights: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def differences(path: Path, config: dict[str, Any]) -> list[str]:
    """Names of the arguments that differ from those in a file.

    Args:
        path: written by ``write``.
        config: from ``mace_files.extract_config``.

    Raises:
        CheckpointError: see ``read``.
    """
    _, kept, _ = read(path)
    names = sorted(kept.keys() | config.keys())
    return [n for n in names if not _agree(kept.get(n), config.get(n))]


def _agree(one: Any, other: Any) -> bool:
    numbers = (int, float, np.ndarray, np.generic, torch.Tensor)
    if isinstance(one, numbers) and isinstance(other, numbers):
        # Machines add up in another order; single precision has 1e-7.
        return np.shape(one) == np.shape(other) and np.allclose(one, other, rtol=1e-5)
    return bool(str(one) == str(other))


def _encode(key: str, value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Irreps):  # before tuples, which they are too
        return {"irreps": str(value)}
    if isinstance(value, (list, tuple)):
        return [_encode(key, item) for item in value]
    if isinstance(value, dict):
        return {"dict": {name: _encode(key, item) for name, item in value.items()}}
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, type) and hasattr(mace.modules.blocks, value.__name__):
        return {"class": value.__name__}
    for name, function in _gates().items():
        if value is function:
            return {"gate": name}
    if not getattr(value, "enabled", True):  # kernels that are switched off
        return None
    raise CheckpointError(
        f"the network is described by {key}={value!r}, which has no portable form. "
        "Write a .model file instead."
    )


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {name: _decode(item) for name, item in value["dict"].items()}
    if "irreps" in value:
        return Irreps(value["irreps"])
    if "array" in value:
        dtype = np.dtype(value["dtype"])
        if dtype.kind not in "biuf":
            raise ValueError(f"an array of {dtype}")
        return np.array(value["array"], dtype=dtype)
    if "class" in value:
        found = getattr(mace.modules.blocks, value["class"])
        if (
            not isinstance(found, type)
            or found.__module__ != mace.modules.blocks.__name__
        ):
            raise KeyError(value["class"])
        return found
    return _gates()[value["gate"]]


def _gates() -> dict[str, Callable[..., torch.Tensor]]:
    return {k: gate for k, gate in mace.modules.gate_dict.items() if gate is not None}
