"""What a SevenNet checkpoint asks SevenNet to build, checked before SevenNet builds it.

The configuration holds plain values only. But it says how large the network is, and
what is built is allocated before the weights are compared with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sevenn._keys as names
import torch
from e3nn.o3 import Irreps
from packaging.version import InvalidVersion, Version

from pft_lightning.backends.base import LARGEST_CUTOFF, check_elements
from pft_lightning.backends.reading.unpickling import no_more, read_saved, read_trusted
from pft_lightning.errors import CheckpointError


_HIGHEST_DEGREE = 8
_MOST_LAYERS = 64
_MOST_BASIS_FUNCTIONS = 1024
_NEEDED = (
    *("version", names.CUTOFF, names.TYPE_MAP, names.NUM_SPECIES, names.LMAX),
    *(names.NUM_CONVOLUTION, names.NODE_FEATURE_MULTIPLICITY),
    *(names.RADIAL_BASIS, names.CUTOFF_FUNCTION, names.SHIFT, names.SCALE),
)


def read_checkpoint(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """Content of a checkpoint, found harmless.

    Args:
        path: file.
        trust: open it whatever it refers to.

    Raises:
        CheckpointError: damaged, it refers to more than weights and plain values, or
            describes no network of a size that its weights bear out.
    """
    content = read_trusted(path, no_more) if trust else read_saved(path)
    if not isinstance(content, dict):
        raise _damaged(path, f"holds a {type(content).__name__}, not a dictionary")
    config = _section(path, content, "config")
    weights = _section(path, content, "model_state_dict")
    if missing := [name for name in _NEEDED if name not in config]:
        raise _damaged(path, f"its config lacks {', '.join(missing)}")
    if not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in weights.items()
    ):
        raise _damaged(path, "its model_state_dict holds something else than tensors")
    _check_version(path, config["version"])
    _check_species(path, config)
    _check_sizes(path, config, sum(value.numel() for value in weights.values()))
    return content


def _section(path: Path, content: dict[str, Any], name: str) -> dict[str, Any]:
    section = content.get(name)
    if not isinstance(section, dict) or not section:
        raise _damaged(path, f"{name} is missing or empty")
    return section


def _check_version(path: Path, version: Any) -> None:
    """SevenNet reads files of older versions, and warns of newer ones only."""
    import sevenn

    try:
        written = Version(str(version))
    except InvalidVersion as error:
        raise _damaged(path, f"version={str(version)[:50]!r}") from error
    if written.release[:2] > Version(sevenn.__version__).release[:2]:
        raise CheckpointError(
            f"{path}: was written by SevenNet {version}; {sevenn.__version__} is "
            'installed, which may read it wrong. Update it: pip install -U "sevenn".'
        )


def _check_species(path: Path, config: dict[str, Any]) -> None:
    """Elements by their place among the one-hot inputs, each once."""
    places = config[names.TYPE_MAP]
    if not isinstance(places, dict):
        raise _damaged(path, f"{names.TYPE_MAP} is no dictionary")
    check_elements(path, list(places))
    number = config[names.NUM_SPECIES]
    if sorted(places.values(), key=str) != sorted(range(len(places)), key=str) or (
        number != len(places)
    ):
        raise _damaged(
            path,
            f"{names.TYPE_MAP} gives {len(places)} elements the places "
            f"{sorted(set(places.values()), key=str)[:5]}…, of {number}",
        )


def _check_sizes(path: Path, config: dict[str, Any], n_weights: int) -> None:
    """Refuse networks whose first layers alone have more weights than the file."""
    cutoff = config[names.CUTOFF]
    if not isinstance(cutoff, (int, float)) or not 0 < cutoff <= LARGEST_CUTOFF:
        raise _damaged(path, f"cutoff={cutoff!r} Å; expected up to {LARGEST_CUTOFF}")
    _check_range(path, config, names.NUM_CONVOLUTION, _MOST_LAYERS)
    for name in (names.LMAX, names.LMAX_EDGE, names.LMAX_NODE):
        _check_range(path, config, name, _HIGHEST_DEGREE, least=-1)
    _check_range(path, config, names.NODE_FEATURE_MULTIPLICITY, n_weights)
    basis = config[names.RADIAL_BASIS]
    if not isinstance(basis, dict) or not isinstance(
        config[names.CUTOFF_FUNCTION], dict
    ):
        raise _damaged(path, "its radial basis or cutoff function is no dictionary")
    _check_range(path, basis, "bessel_basis_num", _MOST_BASIS_FUNCTIONS)
    hidden = config.get(names.CONVOLUTION_WEIGHT_NN_HIDDEN_NEURONS) or []
    if not all(isinstance(n, int) and 0 < n <= n_weights for n in hidden):
        raise _damaged(path, f"hidden layers of {str(hidden)[:100]} numbers")
    for text in config.get(names.IRREPS_MANUAL) or []:
        try:
            irreps = Irreps(text)
        except ValueError as error:
            raise _damaged(path, f"representations {str(text)[:100]!r}") from error
        if irreps.dim > n_weights or (irreps.dim and irreps.lmax > _HIGHEST_DEGREE):
            raise _damaged(
                path, f"representations {str(text)[:100]}, of {n_weights} weights"
            )


def _check_range(
    path: Path, section: dict[str, Any], name: str, largest: int, least: int = 1
) -> None:
    value = section.get(name, max(least, 1))
    if not isinstance(value, int) or not least <= value <= largest:
        raise _damaged(path, f"{name}={str(value)[:50]}; expected {least} to {largest}")


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: no SevenNet checkpoint, or a damaged one: {reason}. Copy or download "
        "it again."
    )
