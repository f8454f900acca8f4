"""What a SevenNet checkpoint asks SevenNet to build, checked before SevenNet builds it.

The configuration holds plain values only. But it says how large the network is, and
what is built is allocated before the weights are compared with it. And Python takes
much for true, or for a number, that was not meant.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import sevenn._const as known
import sevenn._keys as names
import torch
from e3nn.o3 import Irreps
from packaging.version import Version

from pft_lightning.backends.base import LARGEST_CUTOFF, check_elements
from pft_lightning.backends.reading.unpickling import no_more, read_saved, read_trusted
from pft_lightning.errors import CheckpointError


_HIGHEST_DEGREE: Final = 8
_MOST_LAYERS: Final = 64
_MOST_BASIS_FUNCTIONS: Final = 1024
_HIGHEST_POWER: Final = 100
_NEEDED: Final = (
    *("version", names.CUTOFF, names.TYPE_MAP, names.NUM_SPECIES, names.LMAX),
    *(names.NUM_CONVOLUTION, names.NODE_FEATURE_MULTIPLICITY),
    *(names.RADIAL_BASIS, names.CUTOFF_FUNCTION, names.SHIFT, names.SCALE),
)
_FLAGS: Final = (
    *(names.IS_PARITY, names.READOUT_AS_FCN, names.USE_BIAS_IN_LINEAR),
    *(names.TRAIN_SHIFT_SCALE, names.TRAIN_DENOMINTAOR, names._NORMALIZE_SPH),
    *(names.USE_MODALITY, names.USE_MODAL_NODE_EMBEDDING),
    *(names.USE_MODAL_SELF_INTER_INTRO, names.USE_MODAL_SELF_INTER_OUTRO),
    *(names.USE_MODAL_OUTPUT_BLOCK, names.USE_MODAL_WISE_SHIFT),
    *(names.USE_MODAL_WISE_SCALE, names.USE_FLASH_TP, names.USE_OEQ),
)
# As SevenNet reads it: three numbers, and a suffix of development versions.
_VERSION: Final = re.compile(r"\d{1,4}\.\d{1,4}\.\d{1,4}(\.\w+)?")
_LAYER: Final = re.compile(r"(\d+)[ _]convolution\b")


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
    _check_version(path, config["version"])
    _check_species(path, config)
    _check_modalities(path, config)
    _check_choices(path, config)
    _check_radial(path, config)
    _check_sizes(path, config, _count(path, weights))
    _check_layers(path, config, weights)
    _check_degrees(path, config, weights)
    return content


def _section(path: Path, content: dict[str, Any], name: str) -> dict[str, Any]:
    section = content.get(name)
    if not isinstance(section, dict) or not section:
        raise _damaged(path, f"{name} is missing or empty")
    return section


def _count(path: Path, weights: dict[str, Any]) -> int:
    """How many numbers the file has for its weights, whatever shapes these claim."""
    stored: dict[int, int] = {}
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise _damaged(
                path, "its model_state_dict holds something else than tensors"
            )
        if value.layout != torch.strided or value.device.type != "cpu":
            raise _damaged(path, f"the weight {name} is no plain array")
        if not value.is_floating_point():
            raise _damaged(path, f"the weight {name} is {value.dtype}, no real number")
        storage = value.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes() // value.element_size()
    return sum(stored.values())


def _check_version(path: Path, version: Any) -> None:
    """SevenNet reads files of older versions, and warns of newer ones only."""
    import sevenn

    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise _damaged(path, f"version={_shown(version)}; expected one such as 0.13.0")
    installed = Version(sevenn.__version__)
    written = tuple(int(part) for part in version.split(".")[:2])
    if written > installed.release[:2]:
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
    _check_places(path, names.TYPE_MAP, "elements", places, number)


def _check_modalities(path: Path, config: dict[str, Any]) -> None:
    """The same of modalities, where the network has some."""
    if config.get(names.USE_MODALITY) is not True:
        return
    places = config.get(names.MODAL_MAP)
    if not isinstance(places, dict) or not all(isinstance(n, str) for n in places):
        raise _damaged(path, f"{names.MODAL_MAP} gives no names of modalities")
    number = config.get(names.NUM_MODALITIES)
    _check_places(path, names.MODAL_MAP, "modalities", places, number)


def _check_places(
    path: Path, name: str, what: str, places: dict[Any, Any], number: Any
) -> None:
    found = list(places.values())
    whole = all(_is_whole(place) for place in (*found, number))
    if not whole or sorted(found) != list(range(len(found))) or number != len(found):
        raise _damaged(
            path,
            f"{name} gives {len(found)} {what} the places {_shown(found)}, of "
            f"{_shown(number)}; expected each once, from 0",
        )


def _check_choices(path: Path, config: dict[str, Any]) -> None:
    """Values that are one of a few."""
    for name in _FLAGS:
        _check_word(path, config, name, (False, True))
    kernels = config.get(names.CUEQUIVARIANCE_CONFIG, {})
    if not isinstance(kernels, dict):
        raise _damaged(path, f"{names.CUEQUIVARIANCE_CONFIG} is no dictionary")
    _check_word(
        path, kernels, "use", (False, True), f"{names.CUEQUIVARIANCE_CONFIG}.use"
    )
    _check_word(path, config, names.ACTIVATION_RADIAL, tuple(known.ACTIVATION))
    _check_word(path, config, names.INTERACTION_TYPE, ("nequip",))
    if config.get(names.READOUT_AS_FCN):
        _check_word(path, config, names.READOUT_FCN_ACTIVATION, tuple(known.ACTIVATION))
    for name in (names.ACTIVATION_SCARLAR, names.ACTIVATION_GATE):
        functions = config.get(name, {})
        if not isinstance(functions, dict) or not functions.keys() <= {"e", "o"}:
            raise _damaged(path, f"{name}={_shown(functions)}; expected of e and o")
        for parity in functions:
            accepted = tuple(known.ACTIVATION_DICT[parity])
            _check_word(path, functions, parity, accepted, f"{name}.{parity}")
    kinds = config.get(names.SELF_CONNECTION_TYPE, "nequip")
    each = kinds if isinstance(kinds, list) else [kinds]
    if isinstance(kinds, list) and len(kinds) != config[names.NUM_CONVOLUTION]:
        raise _damaged(
            path, f"{names.SELF_CONNECTION_TYPE}={_shown(kinds)}; expected one a layer"
        )
    for kind in each:
        own = {names.SELF_CONNECTION_TYPE: kind}
        accepted = tuple(known.IMPLEMENTED_SELF_CONNECTION_TYPE)
        _check_word(path, own, names.SELF_CONNECTION_TYPE, accepted)


def _check_word(
    path: Path,
    section: dict[Any, Any],
    name: str,
    accepted: Sequence[str | bool],
    shown_as: str = "",
) -> None:
    value = section.get(name, accepted[0])
    # Not 1 for true, and no array, which compares with anything.
    if not any(type(value) is type(word) and value == word for word in accepted):
        raise _damaged(
            path,
            f"{shown_as or name}={_shown(value)}; expected "
            f"{' or '.join(str(word) for word in accepted)}",
        )


def _check_radial(path: Path, config: dict[str, Any]) -> None:
    """Cutoff, and the functions of distance."""
    cutoff = config[names.CUTOFF]
    if not _is_real(cutoff) or not 0 < cutoff <= LARGEST_CUTOFF:
        raise _damaged(
            path, f"cutoff={_shown(cutoff)} Å; expected up to {LARGEST_CUTOFF}"
        )
    basis, envelope = config[names.RADIAL_BASIS], config[names.CUTOFF_FUNCTION]
    if not isinstance(basis, dict) or not isinstance(envelope, dict):
        raise _damaged(path, "its radial basis or cutoff function is no dictionary")
    for section, name, accepted in (
        (basis, names.RADIAL_BASIS_NAME, ("bessel",)),
        (envelope, names.CUTOFF_FUNCTION_NAME, ("poly_cut", "XPLOR")),
    ):
        _check_word(path, {name: None} | section, name, accepted)
    _check_range(path, basis, names.BESSEL_BASIS_NUM, _MOST_BASIS_FUNCTIONS)
    _check_word(path, basis, "trainable_coeff", (True, False))
    if envelope[names.CUTOFF_FUNCTION_NAME] == "poly_cut":
        _check_range(path, envelope, names.POLY_CUT_P, _HIGHEST_POWER)
        return
    start: Any = envelope.get("cutoff_on")
    if not _is_real(start) or not 0 <= start < cutoff:
        raise _damaged(
            path, f"cutoff_on={_shown(start)} Å; expected 0 to less than {cutoff}"
        )


def _check_sizes(path: Path, config: dict[str, Any], n_weights: int) -> None:
    """Refuse networks of which one layer has more weights than the file."""
    _check_range(path, config, names.NUM_CONVOLUTION, _MOST_LAYERS)
    _check_range(path, config, names.LMAX, _HIGHEST_DEGREE, least=0)
    for name in (names.LMAX_EDGE, names.LMAX_NODE):
        _check_range(path, config, name, _HIGHEST_DEGREE, least=-1)
    # A layer from so many features to as many is the least that a network has.
    most = math.isqrt(n_weights)
    _check_range(path, config, names.NODE_FEATURE_MULTIPLICITY, most)
    name = names.CONVOLUTION_WEIGHT_NN_HIDDEN_NEURONS
    first = config[names.RADIAL_BASIS].get(names.BESSEL_BASIS_NUM, 1)
    _check_hidden(path, name, config.get(name, []), first, n_weights)
    if config.get(names.READOUT_AS_FCN):
        name = names.READOUT_FCN_HIDDEN_NEURONS
        _check_hidden(path, name, config.get(name, []), 1, n_weights)
    texts = config.get(names.IRREPS_MANUAL, False)
    if texts is False:
        return
    if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
        raise _damaged(
            path, f"{names.IRREPS_MANUAL}={_shown(texts)}; expected false or a list"
        )
    for text in texts:
        try:
            irreps = Irreps(text)
        except ValueError as error:
            raise _damaged(path, f"representations {_shown(text)}") from error
        large = any(m > most for m, _ in irreps) or irreps.dim > n_weights
        if large or (irreps.dim and irreps.lmax > _HIGHEST_DEGREE):
            raise _damaged(
                path, f"representations {_shown(text)}, of {n_weights} weights"
            )


def _check_hidden(
    path: Path, name: str, sizes: Any, first: int, n_weights: int
) -> None:
    """Hidden layers, each of which takes all numbers of the one before."""
    whole = isinstance(sizes, list) and all(_is_whole(n) and n > 0 for n in sizes)
    if not whole or any(
        a * b > n_weights for a, b in itertools.pairwise((first, *sizes))
    ):
        raise _damaged(
            path, f"{name}: hidden layers of {_shown(sizes)}, of {n_weights} weights"
        )


def _check_layers(path: Path, config: dict[str, Any], weights: dict[str, Any]) -> None:
    """Each layer takes seconds to build: none is built that has no weights."""
    found = {match[1] for name in weights if (match := _LAYER.match(name))}
    number = config[names.NUM_CONVOLUTION]
    if len(found) != number:
        raise _damaged(
            path, f"{names.NUM_CONVOLUTION}={number}, but weights of {len(found)}"
        )


def _check_degrees(path: Path, config: dict[str, Any], weights: dict[str, Any]) -> None:
    """Compare the degree with the first layer, whose scalars meet each harmonic once.

    A layer of degree 8 takes half a minute to build.
    """
    if config.get(names.IRREPS_MANUAL, False) is not False:
        return  # as long as they are, they say all
    if config[names.NUM_CONVOLUTION] == 1:
        return  # the first layer is the last, which makes scalars alone
    radial = [
        value.shape[-1]
        for name, value in weights.items()
        if re.match(r"0[ _]convolution\.weight_nn\.", name) and value.ndim
    ]
    claimed = [config.get(name, -1) for name in (names.LMAX_EDGE, names.LMAX_NODE)]
    degree = min(config[names.LMAX] if value < 0 else value for value in claimed)
    features = config[names.NODE_FEATURE_MULTIPLICITY]
    if not radial or radial[-1] != features * (degree + 1):
        raise _damaged(
            path,
            f"{features} features of degree {degree}, but weights of another number in "
            "the first convolution",
        )


def _check_range(
    path: Path, section: dict[str, Any], name: str, largest: int, least: int = 1
) -> None:
    value = section.get(name, max(least, 1))
    if not _is_whole(value) or not least <= value <= largest:
        raise _damaged(path, f"{name}={_shown(value)}; expected {least} to {largest}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _shown(value: Any) -> str:
    """A value on one line, of a length that can be read."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: no SevenNet checkpoint, or a damaged one: {reason}. Copy or download "
        "it again."
    )
