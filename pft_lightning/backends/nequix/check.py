"""The configuration of a Nequix file, against limits, before anything is built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pft_lightning.backends.base import LARGEST_CUTOFF, check_elements
from pft_lightning.backends.nequix.paths import is_supported, o3
from pft_lightning.errors import CheckpointError


OPTIONS = (
    "hidden_irreps",
    "lmax",
    "cutoff",
    "n_layers",
    "radial_basis_size",
    "radial_mlp_size",
    "radial_mlp_layers",
    "radial_polynomial_p",
    "mlp_init_scale",
    "avg_n_neighbors",
    "shift",
    "scale",
    "layer_norm",
)
_NEEDED = ("atomic_numbers", "atom_energies", "index_weights", *OPTIONS)
# Name -> smallest and largest; far beyond any network that was published.
_COUNTS = {
    "lmax": (0, 8),
    "n_layers": (1, 64),
    "radial_basis_size": (1, 4096),
    "radial_mlp_size": (1, 65_536),
    "radial_mlp_layers": (0, 64),
}
# Name -> excluded lower and included upper limit; None for any finite number.
_NUMBERS: dict[str, tuple[float, float] | None] = {
    "cutoff": (0.0, LARGEST_CUTOFF),
    "radial_polynomial_p": (0.0, 100.0),
    "mlp_init_scale": None,
    "avg_n_neighbors": (0.0, 1e6),
    "shift": None,
    "scale": None,
}


def check_config(config: Mapping[str, Any], path: Path, n_bytes: int) -> None:
    """Refuse a configuration that makes no network, or one beyond its weights.

    Args:
        config: of a Nequix file.
        path: named in messages.
        n_bytes: of the weights behind it.

    Raises:
        CheckpointError: entries are missing, not supported, or out of range.
    """
    missing = [key for key in _NEEDED if key not in config]
    if missing:
        raise CheckpointError(
            f"{path}: the configuration of this Nequix file lacks {missing}. Write it "
            "again with Nequix."
        )
    if config["index_weights"]:
        raise CheckpointError(
            f"{path}: index_weights=true is supported by Nequix's JAX form only; "
            "models with index_weights=false can be trained here."
        )
    for key, (low, high) in _COUNTS.items():
        value = config[key]
        if type(value) is not int or not low <= value <= high:
            raise _wrong(path, key, value, f"an integer from {low} to {high}")
    for key, limits in _NUMBERS.items():
        value = config[key]
        if type(value) not in (int, float) or not math.isfinite(value):
            raise _wrong(path, key, value, "a finite number")
        if limits and not limits[0] < value <= limits[1]:
            raise _wrong(path, key, value, f"above {limits[0]:g}, to {limits[1]:g}")
    if not isinstance(config["layer_norm"], bool):
        raise _wrong(path, "layer_norm", config["layer_norm"], "true or false")
    _check_elements(config, path)
    widths = [config["radial_mlp_size"], *_channels(config, path)]
    for width in widths:
        if width > n_bytes:
            raise CheckpointError(
                f"{path}: layers of {width} channels do not fit into the {n_bytes} "
                "bytes of its weights. The file is truncated or damaged."
            )


def _check_elements(config: Mapping[str, Any], path: Path) -> None:
    numbers, energies = config["atomic_numbers"], config["atom_energies"]
    check_elements(path, numbers)
    of_all = isinstance(energies, Mapping) and all(str(z) in energies for z in numbers)
    if not of_all or not all(
        type(energy) in (int, float) and math.isfinite(energy)
        for energy in energies.values()
    ):
        raise _wrong(path, "atom_energies", energies, "a number for each element")


def _channels(config: Mapping[str, Any], path: Path) -> list[int]:
    """Channels of each kind of features, squared where a layer mixes them."""
    text, lmax = config["hidden_irreps"], config["lmax"]
    try:
        if not is_supported(text, lmax):
            raise ValueError(text)
    except (ValueError, TypeError, AttributeError, AssertionError) as error:
        raise CheckpointError(
            f"{path}: hidden_irreps={str(text)[:100]!r} with lmax="
            f"{lmax}; expected sorted ones, each once, of the parities of "
            "spherical harmonics up to lmax, as in '128x0e + 64x1o + 32x2e'."
        ) from error
    return [int(n) ** 2 for n, _ in o3.Irreps(text)]


def _wrong(path: Path, key: str, value: Any, accepted: str) -> CheckpointError:
    return CheckpointError(f"{path}: {key}={str(value)[:100]}; expected {accepted}.")
