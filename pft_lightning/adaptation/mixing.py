"""Potentials on the straight line between a base model and a fine-tuned one."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from ase.data import chemical_symbols

from pft_lightning.backends.base import EnergyModel, check_model
from pft_lightning.backends.parametrized import plain
from pft_lightning.backends.settings import plain_settings
from pft_lightning.errors import ConfigError


_MANY = 10  # elements that a message lists


def mix(base: EnergyModel, tuned: EnergyModel, share: float) -> EnergyModel:
    """Take the weights part of the way from a base model to a fine-tuned one.

    Every weight, and every statistic of data (energies of atoms, scales, shifts), is
    ``base + share * (tuned - base)``, computed in float64 and rounded once; adapters
    are merged first. At 0 and 1 they are those of the models, bit for bit.

    Args:
        base: from ``load_model``.
        tuned: the same network with other weights.
        share: from 0, the base model, to 1, the fine-tuned one.

    Returns:
        A new model; the two stay as they are.

    Raises:
        ConfigError: the share is outside of 0 to 1, or the two differ in more than
            weights; the message says in what.
    """
    is_number = isinstance(share, (int, float)) and not isinstance(share, bool)
    if not is_number or not 0 <= share <= 1:
        raise ConfigError(
            f"share={share!r}; expected a number from 0 (the base model) to 1 (the "
            "fine-tuned one). Beyond them lie weights that no training has seen."
        )
    check_model(base)
    check_model(tuned)
    if base.dtype != tuned.dtype:
        raise ConfigError(
            f"the base model is in {base.dtype}, the fine-tuned one in {tuned.dtype}; "
            "load both with the same dtype."
        )
    base, mixed = plain(base), copy.deepcopy(plain(tuned))
    _check_same_network(base, mixed)
    start = _tensors(base)
    with torch.no_grad():
        for name, value in (*mixed.named_parameters(), *mixed.named_buffers()):
            value.copy_(_between(start[name], value, share))
    return mixed


def name_share(share: float) -> str:
    """A share as names of files and models have it: short, and no other one's."""
    short = f"{share:g}"
    return short if float(short) == share else repr(share)


def _between(start: torch.Tensor, end: torch.Tensor, share: float) -> torch.Tensor:
    if share == 0 or not end.is_floating_point():
        return start
    if share == 1:
        return end
    return torch.lerp(start.to(end.device, torch.float64), end.double(), share)


def _tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights and buffers; one that has two names under both."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _check_same_network(base: EnergyModel, tuned: EnergyModel) -> None:
    """Refuse two models that differ in more than the values of weights.

    Raises:
        ConfigError: says in what they differ.
    """
    differing = _different_kind(base, tuned) or _different_weights(
        _tensors(base), _tensors(tuned)
    )
    if not differing:
        settings = [
            {(name, key): value for name, _, key, value in plain_settings(model)}
            for model in (base, tuned)
        ]
        differing = _different_settings(*settings)
    if differing:
        raise ConfigError(
            f"the two potentials cannot be mixed: {differing}. Only the weights of one "
            "network can lie between those of another training of it."
        )


def _different_kind(base: EnergyModel, tuned: EnergyModel) -> str:
    facts = (
        ("a {} model", base.name, tuned.name),
        ("made for {}", _elements(base), _elements(tuned)),
        ("made with a cutoff of {} Å", base.cutoff, tuned.cutoff),
        ("a model with {}", _heads(base), _heads(tuned)),
        ("used with the head {}", base.head, tuned.head),
    )
    for text, ours, theirs in facts:
        if ours != theirs:
            return f"the base is {text.format(ours)}, the other {text.format(theirs)}"
    return ""


def _elements(model: EnergyModel) -> str:
    symbols = [chemical_symbols[z] for z in model.atomic_numbers]
    more = ", …" if len(symbols) > _MANY else ""
    return f"{len(symbols)} elements ({', '.join(symbols[:_MANY])}{more})"


def _heads(model: EnergyModel) -> str:
    return f"the heads {', '.join(model.heads)}" if model.heads else "no heads"


def _different_weights(
    base: Mapping[str, torch.Tensor], tuned: Mapping[str, torch.Tensor]
) -> str:
    if lone := sorted(base.keys() ^ tuned.keys()):
        who = "the base" if lone[0] in base else "the other"
        return f"only {who} has a weight {lone[0]}"
    for name, value in base.items():
        shapes = [tuple(one.shape) for one in (value, tuned[name])]
        if shapes[0] != shapes[1]:
            return f"the weight {name} has the shapes {shapes[0]} and {shapes[1]}"
        fixed = not value.is_floating_point()
        if fixed and not torch.equal(value, tuned[name].to(value.device)):
            return f"the whole numbers of {name} are not the same"
    return ""


def _different_settings(
    base: Mapping[tuple[str, str], object], tuned: Mapping[tuple[str, str], object]
) -> str:
    for part, key in sorted(base.keys() & tuned.keys()):
        values = [one[part, key] for one in (base, tuned)]
        if values[0] != values[1] and not all(map(_is_nan, values)):
            name = f"{part}.{key}" if part else key
            return f"the setting {name} is {values[0]!r} and {values[1]!r}"
    return ""


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
