"""A further output head for a MACE network, as a copy of one that it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pft_lightning.backends.mace import files as mace_files
from pft_lightning.errors import ConfigError


def add_head(
    network: Any, head: str, source: int, atomic_energies: Mapping[int, float]
) -> torch.nn.Module:
    """Rebuild a network with one head more, which gives what another one gives.

    Args:
        network: from ``mace_files.build``.
        head: name of the new head, which comes last.
        source: index of the head to copy.
        atomic_energies: by atomic number, eV, where the new head differs.

    Raises:
        ConfigError: a readout is of a kind that cannot be extended.
    """
    kind, weights = type(network).__name__, network.state_dict()
    config = mace_files.extract_config(network)
    heads = list(config["heads"])
    energies = np.asarray(config["atomic_energies"]).reshape(len(heads), -1)
    new = energies[source].copy()
    for number, energy in atomic_energies.items():
        new[config["atomic_numbers"].index(number)] = energy
    config["atomic_energies"] = np.vstack([energies, new])
    for name in ("atomic_inter_scale", "atomic_inter_shift"):
        if name in config:
            values = np.broadcast_to(config[name], len(heads))
            config[name] = np.append(values, values[source])
    config["heads"] = [*heads, head]
    state = mace_files.construct(kind, config, weights).state_dict()
    for name, value in weights.items():
        if name in state and state[name].shape == value.shape:
            if name.startswith(("atomic_energies_fn.", "scale_shift.")):
                continue
            state[name] = value
    for path, readout in network.named_modules():
        if path.startswith("readouts.") and path.count(".") == 1:
            state |= _extend_readout(path, readout, len(heads), source, state)
    return mace_files.build(kind, config, state, scripted=False)


def _extend_readout(
    path: str,
    readout: Any,
    n_heads: int,
    source: int,
    state: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Weights of a readout with one head more.

    Hidden scalars and outputs are stored head by head. MACE masks the hidden scalars of
    other heads right before the last layer.
    """
    extended: dict[str, torch.Tensor] = {}
    for layer_name, layer in readout.named_children():
        if not getattr(layer, "weight_numel", 0):
            continue
        blocks = [i.path_shape for i in layer.instructions if i.i_in != -1]
        if len(blocks) != 1:
            raise ConfigError(
                f"adaptation=multihead: {path}.{layer_name} mixes several kinds of "
                "scalars, which cannot be extended by a head. Use a model with "
                "MACE's ordinary readouts."
            )
        matrix = layer.weight.detach().reshape(blocks[0])
        is_first = layer_name in ("linear", "linear_1")
        matrix = _append_copy(matrix, n_heads, source, dim=1)
        if not is_first:
            rows = matrix.shape[0]
            new_rows = _append_copy(matrix, n_heads, source, dim=0)
            if layer_name == "linear_mid":
                # Not masked: a copy would count the hidden scalars twice.
                new_rows[rows:] = 0
            # e3nn divides by the square root of the number of inputs.
            matrix = new_rows * (new_rows.shape[0] / rows) ** 0.5
        extended[f"{path}.{layer_name}.weight"] = matrix.flatten()
        bias = layer.bias.detach()
        if bias.numel():
            extended[f"{path}.{layer_name}.bias"] = _append_copy(
                bias, n_heads, source, dim=0
            )
    for name, value in extended.items():
        if state[name].shape != value.shape:
            raise ConfigError(
                f"adaptation=multihead: {name} of this model does not grow with the "
                f"number of heads ({tuple(state[name].shape)}). Use a model with "
                "MACE's ordinary readouts."
            )
    return extended


def _append_copy(
    values: torch.Tensor, n_heads: int, source: int, *, dim: int
) -> torch.Tensor:
    """Values with those of one head repeated at the end of an axis."""
    size = values.shape[dim] // n_heads
    return torch.cat([values, values.narrow(dim, source * size, size)], dim=dim)
