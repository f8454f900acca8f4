"""What a MACE file asks for, against limits; and what was built, against the file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from pft_lightning.backends.base import LARGEST_CUTOFF
from pft_lightning.backends.mace.state import keep_global_state
from pft_lightning.errors import CheckpointError


with keep_global_state():
    from e3nn.o3 import Irreps


# Far beyond any network that was published; what lies above would not be built in
# minutes, or not at all.
_MOST_LAYERS = 32
_MOST_HEADS = 1024
_HIGHEST_DEGREE = 8
_MOST_CHANNELS = 16_384
_WIDEST_LAYER = 65_536
# (components)^(orders of correlation) of the coupling coefficients; 4 and 3 give 15625.
_MOST_COUPLINGS = 1_000_000
_ELEMENTS = range(1, 119)


def check_description(config: Mapping[str, Any]) -> None:
    """Refuse a description before anything large is built.

    Args:
        config: arguments of MACE's builder.

    Raises:
        CheckpointError: names the argument, its value and what is accepted.
    """
    check_number("r_max", config.get("r_max"), 0.0, LARGEST_CUTOFF)
    degree = check_count("max_ell", config.get("max_ell"), 0, _HIGHEST_DEGREE)
    layers = check_count(
        "num_interactions", config.get("num_interactions"), 1, _MOST_LAYERS
    )
    check_count("num_bessel", config.get("num_bessel"), 1, _WIDEST_LAYER)
    check_number(
        "num_polynomial_cutoff", config.get("num_polynomial_cutoff"), 0.0, 1000.0
    )
    check_number("avg_num_neighbors", config.get("avg_num_neighbors"), 0.0, 1e6)
    widths = config.get("radial_MLP")
    if not isinstance(widths, (list, tuple)):
        raise _wrong("radial_MLP", widths, "a list of widths")
    for width in widths:
        check_count("radial_MLP", width, 1, _WIDEST_LAYER)
    for key in ("hidden_irreps", "MLP_irreps"):
        _check_irreps(key, config.get(key))
    if config.get("edge_irreps") is not None:
        _check_irreps("edge_irreps", config["edge_irreps"])
    correlation = config.get("correlation")
    orders = correlation if isinstance(correlation, list) else [correlation]
    if len(orders) not in (1, layers):
        raise _wrong("correlation", correlation, f"one order, or {layers}")
    for order in orders:
        exponent = 2 * check_count("correlation", order, 1, 8)
        if (degree + 1) ** exponent > _MOST_COUPLINGS:
            raise _wrong("correlation", order, f"less at max_ell={degree}")
    _check_elements(config)


def check_weights(
    config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]
) -> None:
    """Refuse weights that cannot be those of a description, before it is built.

    Afterwards the network takes about the memory that the file has bytes.

    Args:
        config: see ``check_description``.
        weights: state of the network.

    Raises:
        CheckpointError: names the weight.
    """
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            raise _damaged(name, f"is a {type(value).__name__}")
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise _damaged(name, f"claims the shape {tuple(value.shape)}")
    largest = max((value.numel() for value in weights.values()), default=0)
    for key, width in _widths(config):
        if width > largest:
            raise _wrong(key, config[key], f"at most {largest} values in a weight")
    linear = weights.get("products.0.linear.weight")
    needed = sum(int(n) ** 2 for n, _ in config["hidden_irreps"])
    if linear is None or linear.numel() != needed:
        found = None if linear is None else linear.numel()
        raise _damaged(
            "products.0.linear.weight",
            f"has {found} values instead of {needed} for hidden_irreps="
            f"{config['hidden_irreps']}",
        )
    orders = config["correlation"]
    order = orders[0] if isinstance(orders, list) else orders
    coupling = f"products.0.symmetric_contractions.contractions.0.U_matrix_{order}"
    components = (config["max_ell"] + 1) ** 2
    shape = tuple(weights[coupling].shape) if coupling in weights else ()
    if len(shape) < 2 or shape[-2] != components:
        raise _damaged(
            coupling, f"has the shape {shape} at max_ell={config['max_ell']}"
        )


def _widths(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Sizes that some weight has at least; squared where a layer joins two of them."""
    yield "num_bessel", config["num_bessel"]
    widths = config["radial_MLP"]
    yield from (("radial_MLP", w if len(widths) < 2 else w * w) for w in widths)
    for key in ("MLP_irreps", "edge_irreps"):
        yield from ((key, int(n)) for n, _ in config.get(key) or ())


def _damaged(name: str, fact: str) -> CheckpointError:
    return CheckpointError(f"the weight {name} {fact}; the file is damaged.")


def _check_elements(config: Mapping[str, Any]) -> None:
    numbers = config.get("atomic_numbers")
    if not isinstance(numbers, list) or not numbers:
        raise _wrong("atomic_numbers", numbers, "a list of atomic numbers")
    right = all(isinstance(z, int) and z in _ELEMENTS for z in numbers)
    if not right or len(set(numbers)) < len(numbers):
        raise _wrong("atomic_numbers", numbers, "different ones from 1 to 118")
    heads = config.get("heads") or ["Default"]
    if (
        not isinstance(heads, (list, tuple))
        or len(heads) > _MOST_HEADS
        or not all(isinstance(h, str) for h in heads)
    ):
        raise _wrong("heads", heads, f"at most {_MOST_HEADS} names")
    n_elements = len(numbers)
    check_count("num_elements", config.get("num_elements"), n_elements, n_elements)
    energies = np.asarray(config.get("atomic_energies"))
    if energies.size != len(heads) * len(numbers) or not _is_finite(energies):
        raise _wrong(
            "atomic_energies",
            energies.shape,
            f"a finite number for each of {len(heads)} heads and {len(numbers)} "
            "elements",
        )
    for key in ("atomic_inter_scale", "atomic_inter_shift"):
        if key in config:
            values = np.asarray(config[key])
            if values.size not in (1, len(heads)) or not _is_finite(values):
                raise _wrong(key, config[key], "a finite number for each head")


def _is_finite(values: np.ndarray) -> bool:
    return values.dtype.kind in "fiu" and bool(np.isfinite(values).all())


def _check_irreps(key: str, irreps: Any) -> None:
    if not isinstance(irreps, Irreps):
        raise _wrong(key, irreps, "irreps such as 128x0e+128x1o")
    channels = sum(int(n) for n, _ in irreps)
    degree = max((ir.l for _, ir in irreps), default=0)
    if not 0 < channels <= _MOST_CHANNELS or degree > _HIGHEST_DEGREE:
        raise _wrong(
            key,
            str(irreps)[:100],
            f"at most {_MOST_CHANNELS} channels up to degree {_HIGHEST_DEGREE}",
        )


def check_same(stored: torch.nn.Module, network: torch.nn.Module) -> None:
    """Refuse a rebuilt network that differs from the stored one beyond its weights.

    MACE's description of a network leaves out what its own training never changes, such
    as a mean number of neighbours of each layer.

    Args:
        stored: from ``mace_stored.read_module``.
        network: from ``mace_files.build``.

    Raises:
        CheckpointError: names the part, and what it is in the file.
    """
    built = dict(network.named_modules())
    for name, module in stored.named_modules():
        if type(module).__module__.startswith("torch.fx"):
            continue  # generated; what it computes follows from the rest
        twin = built.get(name)
        kind = type(module).__name__
        if twin is None:
            raise CheckpointError(f"{_REBUILT}: it has no {name} ({kind}). {_ADVICE}")
        ours = type(twin).__module__.startswith("pft_lightning.")
        if not ours and type(twin).__name__ != kind:
            raise CheckpointError(
                f"{_REBUILT}: {name} is a {kind} in the file and a "
                f"{type(twin).__name__} there. {_ADVICE}"
            )
        is_mace = type(module).__module__.startswith("mace.")
        for key, value in vars(module).items():
            if key == "radial_MLP":
                continue  # blocks that do not use it keep it; the weights tell
            if key in vars(twin) and _differs(value, vars(twin)[key], is_mace):
                raise CheckpointError(
                    f"{_REBUILT}: {name}.{key} is {value!r} in the file and "
                    f"{vars(twin)[key]!r} there. {_ADVICE}"
                )


_REBUILT = "the network that MACE builds from the description in the file is another"
_ADVICE = "Only networks as mace_run_train writes them are supported."


def _differs(stored: Any, built: Any, is_mace: bool) -> bool:
    """Whether two values are comparable, and not the same.

    Numbers and names of e3nn change with its version without any effect.
    """
    if isinstance(stored, Irreps) or isinstance(built, Irreps):
        return str(stored) != str(built)
    if callable(stored) and callable(built) and hasattr(stored, "__name__"):
        return not isinstance(stored, type) and stored is not built
    if not is_mace:
        return False
    numbers = (bool, int, float)
    if isinstance(stored, numbers) and isinstance(built, numbers):
        return not math.isclose(stored, built, rel_tol=1e-6, abs_tol=1e-12)
    if isinstance(stored, (list, tuple)) and isinstance(built, (list, tuple)):
        pairs = zip(stored, built, strict=False)
        return len(stored) != len(built) or any(_differs(a, b, True) for a, b in pairs)
    return isinstance(stored, str) and isinstance(built, str) and stored != built


def check_number(name: str, value: Any, lowest: float, highest: float) -> float:
    """A finite number above ``lowest``, at most ``highest``.

    Raises:
        CheckpointError: something else.
    """
    accepted = f"a number above {lowest:g}, at most {highest:g}"
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise _wrong(name, value, accepted)
    if not lowest < float(value) <= highest:
        raise _wrong(name, value, accepted)
    return float(value)


def check_count(name: str, value: Any, lowest: int, highest: int) -> int:
    """An integer from ``lowest`` to ``highest``.

    Raises:
        CheckpointError: something else.
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not lowest <= int(value) <= highest:
        raise _wrong(name, value, f"an integer from {lowest} to {highest}")
    return int(value)


def _wrong(name: str, value: Any, accepted: str) -> CheckpointError:
    return CheckpointError(f"{name}={str(value)[:100]}; expected {accepted}.")
