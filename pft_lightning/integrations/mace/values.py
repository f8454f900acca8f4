"""Values of options that the parser of ``mace_run_train`` takes without a look at them.

MACE meets most of them only when it has read its frames, some of them never: a weight
that is not a number trains on nothing, a negative number of epochs here without end.
"""

from __future__ import annotations

import argparse
import ast
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from pft_lightning.integrations.mace.options import FROM_FOUNDATION
from pft_lightning.json_files import parse_json


_POSITIVE = (math.nextafter(0, 1), 1e300)
_FINITE = (0.0, 1e300)
_SHARE = (0.0, math.nextafter(1, 0))

# Least and most value of numbers, both included.
_LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("batch_size", "valid_batch_size", "eval_interval"), (1, 10**9)),
    **dict.fromkeys(("max_num_epochs", "patience", "num_workers"), (0, 10**9)),
    "seed": (0, 2**32 - 1),
    **dict.fromkeys(("num_interactions", "correlation"), (1, 100)),
    **dict.fromkeys(("num_radial_basis", "num_cutoff_basis"), (1, 1000)),
    **dict.fromkeys(("max_ell", "max_L"), (0, 20)),
    "r_max": (_POSITIVE[0], 50.0),
    "avg_num_neighbors": _POSITIVE,
    **dict.fromkeys(("lr", "swa_lr", "weight_decay", "clip_grad"), _FINITE),
    **dict.fromkeys(("weight_pt_head", "scheduler_patience"), _FINITE),
    **dict.fromkeys(("beta", "ema_decay"), _SHARE),
    "huber_delta": _POSITIVE,
    **{
        f"{stage}{quantity}_weight": _FINITE
        for stage in ("", "swa_")
        for quantity in ("energy", "forces", "stress", "virials")
    },
}
# Of options that MACE looks at only where another one has a value.
_DEPENDENT = {
    ("scheduler", "ReduceLROnPlateau"): ("lr_factor", _SHARE),
    ("scheduler", "ExponentialLR"): ("lr_scheduler_gamma", _POSITIVE),
    ("lora", True): ("lora_rank", (1, 10**6)),
    ("valid_file", None): ("valid_fraction", (_POSITIVE[0], _SHARE[1])),
}
_SCHEDULERS = ("ReduceLROnPlateau", "ExponentialLR")
_FACTORS = ("embedding", "interactions", "products", "readouts")


def unusable(arguments: argparse.Namespace) -> list[str]:
    """Say which options have values that mean nothing, and what they may be."""
    values = vars(arguments)
    limits = dict(_LIMITS)
    for (name, value), (dependent, interval) in _DEPENDENT.items():
        if values[name] == value:
            limits[dependent] = interval
    if values["foundation_model"]:
        limits = {k: v for k, v in limits.items() if k not in FROM_FOUNDATION}
    found = [
        f"{name}={values[name]}: expected {_describe(*interval)}"
        for name, interval in limits.items()
        if values[name] is not None and not _within(values[name], *interval)
    ]
    if values["scheduler"] not in _SCHEDULERS:
        found.append(
            f"scheduler={values['scheduler']}: expected one of {', '.join(_SCHEDULERS)}"
        )
    return [*found, *_missing_device(values["device"]), *_texts(values)]


def _missing_device(device: str) -> list[str]:
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if present.get(device, True):
        return []
    return [
        f"device={device}: there is none here; trainer.accelerator=cpu (or device: "
        "cpu) trains without"
    ]


def _within(value: float, least: float, most: float) -> bool:
    return least <= value <= most  # False for what is not a number


def _describe(least: float, most: float) -> str:
    lower = f"at least {least:g}" if least == 0 or least >= 1 else "more than 0"
    if most == _FINITE[1]:
        return f"{lower}, and finite"
    if most == _SHARE[1]:
        return f"{lower} and below 1"
    return f"{lower} and at most {most:.10g}"


def _texts(values: Mapping[str, Any]) -> Iterator[str]:
    """Options that hold a dictionary or a list as text."""
    weights = _literal(values["config_type_weights"])
    if not (isinstance(weights, dict) and all(map(_is_number, weights.values()))):
        yield (
            f"config_type_weights={values['config_type_weights']}: expected weights by "
            "config_type, e.g. '{\"Default\": 1.0}'; MACE would take 1 for all"
        )
    try:
        factors = parse_json(values["lr_params_factors"])
    except ValueError:
        factors = None
    known = {f"{part}_lr_factor" for part in _FACTORS}
    if not (
        isinstance(factors, dict)
        and factors.keys() <= known
        and all(map(_is_number, factors.values()))
    ):
        yield (
            f"lr_params_factors={values['lr_params_factors']}: expected JSON with "
            f"numbers for some of {', '.join(sorted(known))}"
        )
    widths = _literal(values["radial_MLP"])
    if not values["foundation_model"] and not (
        isinstance(widths, list) and all(isinstance(n, int) and n > 0 for n in widths)
    ):
        yield f"radial_MLP={values['radial_MLP']}: expected a list such as '[64, 64]'"
    if not isinstance(_literal(values["foundation_model_kwargs"]), dict):
        yield (
            f"foundation_model_kwargs={values['foundation_model_kwargs']}: expected a "
            "dictionary such as '{}'"
        )
    numbers = values["atomic_numbers"]
    listed = _literal(numbers)
    if numbers is not None and not (
        isinstance(listed, list) and all(z in range(1, 119) for z in listed)
    ):
        yield f"atomic_numbers={numbers}: expected a list such as '[1, 6, 8]'"


def _literal(text: Any) -> Any:
    """What a text stands for, None where that cannot be told."""
    if not isinstance(text, str):
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
