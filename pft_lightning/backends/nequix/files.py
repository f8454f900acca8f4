"""Nequix files, ``.pt`` and ``.nqx``, read and written without Nequix and JAX.

Both start with one line of JSON, the configuration. ``.pt`` goes on with a saved state
dict; ``.nqx`` with the arrays of the JAX model, one ``.npy`` after the other, in the
order in which Equinox walks through it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from pft_lightning.backends.nequix.check import OPTIONS, check_config
from pft_lightning.backends.nequix.layers import IrrepsLinear
from pft_lightning.backends.nequix.network import NequixNetwork
from pft_lightning.backends.reading.content import LONGEST_HEADER, check_archive
from pft_lightning.errors import CheckpointError
from pft_lightning.files import write_atomically
from pft_lightning.json_files import parse_json


JAX_SUFFIX = ".nqx"
TORCH_SUFFIX = ".pt"
_ATOM_ENERGIES = "atom_energies"


def read(path: Path) -> tuple[dict[str, Any], NequixNetwork, str]:
    """Configuration, network and usual ending of a file, in the stored dtype.

    Raises:
        CheckpointError: damaged, or an architecture that Nequix's torch form lacks.
    """
    with path.open("rb") as file:
        config = _read_config(file, path)
        body = file.read()
    check_config(config, path, len(body))
    network = build(config, path)
    if body.startswith(b"\x93NUMPY"):
        weights, suffix = _from_arrays(body, network, path), JAX_SUFFIX
    else:
        weights, suffix = _from_state_dict(body, network, path), TORCH_SUFFIX
    network.to(next(iter(weights.values())).dtype)
    network.load_state_dict(weights)
    return config, network, suffix


def write(path: Path, config: dict[str, Any], network: NequixNetwork) -> None:
    """Write a file for Nequix: its JAX form if the name ends in ``.nqx``, else torch.

    The JAX form holds float32 only, as Nequix reads no other.

    Args:
        path: file to write; an existing one is replaced.
        config: as read.
        network: weights.
    """
    weights = {k: v.detach().cpu() for k, v in network.state_dict().items()}

    def write_to(file: IO[bytes]) -> None:
        file.write(json.dumps(config).encode() + b"\n")
        if path.suffix != JAX_SUFFIX:
            torch.save(weights, file)
            return
        for name, start, shape in _leaves(network):
            block = weights[name].reshape(-1)[start : start + int(np.prod(shape))]
            array = block.reshape(shape).to(torch.float32).numpy()
            np.save(file, array, allow_pickle=False)

    write_atomically(path, write_to)


def build(config: dict[str, Any], path: Path) -> NequixNetwork:
    """Network of a configuration, with random weights, without touching the generator.

    Args:
        config: of a Nequix file.
        path: named in messages.

    Raises:
        CheckpointError: its values do not make a network.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            return NequixNetwork(
                n_species=len(config["atomic_numbers"]),
                **{key: config[key] for key in OPTIONS},
            )
        except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
            raise CheckpointError(
                f"{path}: its configuration does not make a network "
                f"({type(error).__name__}: {error}). Copy or download it again."
            ) from error


def _read_config(file: IO[bytes], path: Path) -> dict[str, Any]:
    try:
        config = parse_json(file.readline(LONGEST_HEADER))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its first line is not the JSON of a Nequix file ({error}). Copy "
            "or download it again."
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: its first line is {type(config).__name__}.")
    return config


def _from_state_dict(
    body: bytes, network: NequixNetwork, path: Path
) -> dict[str, torch.Tensor]:
    """Weights of the torch form; constants that Nequix stores with them are left."""
    if body.startswith(b"PK"):  # else of torch before version 1.6
        check_archive(io.BytesIO(body), path)
    try:
        stored = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    # A damaged pickle fails in any way.
    except Exception as error:
        raise CheckpointError(
            f"{path}: the weights behind the configuration cannot be read ({error}). "
            "The file is truncated or damaged: copy or download it again."
        ) from error
    are_tensors = isinstance(stored, dict) and all(
        isinstance(k, str) and isinstance(v, torch.Tensor) and _holds_numbers(v)
        for k, v in stored.items()
    )
    if not are_tensors:
        raise CheckpointError(
            f"{path}: what follows the configuration is a {type(stored).__name__}; "
            "expected weights by name. Copy or download it again."
        )
    expected = network.state_dict()
    wrong = [
        name
        for name, value in expected.items()
        if name not in stored
        or stored[name].shape != value.shape
        or not stored[name].is_floating_point()
    ]
    parameters = {name.rpartition(".")[2] for name in expected}
    wrong += [
        name
        for name, value in stored.items()
        if name not in expected
        and name.rpartition(".")[2] in parameters
        and value.numel()
    ]
    if wrong:
        raise CheckpointError(
            f"{path}: {len(wrong)} weights are missing, of another shape, or not of "
            f"the configuration, such as {wrong[0]!r}. The file is of a Nequix "
            "architecture that is not known here."
        )
    return {name: stored[name] for name in expected}


def _holds_numbers(value: torch.Tensor) -> bool:
    return value.layout is torch.strided and not value.is_meta


def _from_arrays(
    body: bytes, network: NequixNetwork, path: Path
) -> dict[str, torch.Tensor]:
    """Weights of the JAX form."""
    state = {
        k: torch.empty_like(v).reshape(-1) for k, v in network.state_dict().items()
    }
    file = io.BytesIO(body)
    leaves = list(_leaves(network))
    for number, (name, start, shape) in enumerate(leaves):
        try:
            array = np.load(file, allow_pickle=False)
        except Exception as error:  # a damaged header fails in any way
            raise CheckpointError(
                f"{path}: array {number + 1} of {len(leaves)}, {name}, cannot be read "
                f"({error}). The file is truncated: copy or download it again."
            ) from error
        if array.shape != shape or array.dtype != np.float32:
            raise CheckpointError(
                f"{path}: array {number + 1}, {name}, has shape {array.shape} and type "
                f"{array.dtype}; expected {shape} and float32. The file is of a Nequix "
                "architecture that is not known here."
            )
        state[name][start : start + array.size] = torch.from_numpy(array.reshape(-1))
    if not _holds_scalars(file):
        raise CheckpointError(
            f"{path}: goes on behind its last weight. The file is of a Nequix "
            "architecture that is not known here."
        )
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    return {name: value.reshape(shapes[name]) for name, value in state.items()}


def _holds_scalars(file: IO[bytes]) -> bool:
    """Whether all that is left are single numbers.

    Nequix's fine-tuning writes those of the configuration behind the weights.
    """
    while first := file.read(1):
        if first.isspace():  # some end with a line
            return not file.read().strip()
        file.seek(-1, io.SEEK_CUR)
        try:
            value = np.load(file, allow_pickle=False)
        except Exception:  # a damaged header fails in any way
            return False
        if value.ndim:
            return False
    return True


def _leaves(network: NequixNetwork) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Arrays of the JAX model: torch name, start in the flattened weight, shape."""
    yield _ATOM_ENERGIES, 0, tuple(network.atom_energies.shape)
    for i, layer in enumerate(network.layers):
        prefix = f"layers.{i}"
        for j, dense in enumerate(layer.radial_mlp.layers):
            name = f"{prefix}.radial_mlp.layers.{j}.weights"
            yield name, 0, tuple(dense.weights.shape)
        for part in ("linear_1", "linear_2", "skip"):
            yield from _blocks(f"{prefix}.{part}", getattr(layer, part))
        if layer.layer_norm is not None:
            for j, weight in enumerate(layer.layer_norm.affine_weight):
                name = f"{prefix}.layer_norm.affine_weight.{j}"
                yield name, 0, tuple(weight.shape)
    yield from _blocks("readout", network.readout)


def _blocks(
    prefix: str, linear: IrrepsLinear
) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    # JAX keeps them in a dictionary, which it walks through sorted by name; the names
    # start with the places, and there are never ten of them.
    for instruction in linear.instructions:
        yield f"{prefix}.weight", instruction.start, instruction.path_shape
