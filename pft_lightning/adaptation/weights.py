"""What the weights of a potential are: name, part of the network, kind, blocks.

Layers are told by what they offer, not by their class: every framework has its own
version of e3nn's, and a NequIP package brings classes of its own.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from pft_lightning.backends.base import EnergyModel
from pft_lightning.errors import ConfigError


# Kinds of weights that are matrices, or stacks of them.
MATRIX_KINDS = ("linear", "radial", "dense", "tensor_product", "contraction")
KINDS = (*MATRIX_KINDS, "other")

# Where a potential keeps the network that its framework built.
_PREFIX = "network."


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter of a potential as its framework built it.

    Attributes:
        name: as in ``model.named_parameters()``.
        owners: modules that hold it, each with the name under which it does.
        parameter: itself.
        kind: ``linear`` (equivariant linear layers), ``radial`` (networks of
            distances), ``dense`` (other matrices), ``tensor_product``,
            ``contraction`` (symmetric contractions), ``other`` (biases, norms,
            scalars).
        part: of the network, see ``EnergyModel.parts``; empty where it has no name.
        blocks: (rows, columns) of the matrices that it consists of, in the order in
            which they are stored: one per irrep path of an equivariant layer.
    """

    name: str
    owners: tuple[tuple[torch.nn.Module, str], ...]
    parameter: torch.nn.Parameter
    kind: str
    part: str
    blocks: tuple[tuple[int, int], ...]

    @property
    def short_name(self) -> str:
        """Name within the network."""
        return self.name.removeprefix(_PREFIX)

    def matches(self, pattern: str) -> bool:
        """Whether a shell pattern describes its name, its part or its kind."""
        labels = (self.name, self.short_name, self.part, self.kind)
        return any(fnmatchcase(label, pattern) for label in labels)


def describe_weights(model: EnergyModel) -> list[Weight]:
    """All weights that the framework of a potential trains.

    Args:
        model: not yet adapted.

    Raises:
        ConfigError: a weight lies inside TorchScript, where it cannot be replaced.
    """
    modules = dict(model.named_modules())
    owners: dict[torch.nn.Parameter, list[tuple[str, torch.nn.Module, str]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and parameter.numel() > 0:
            path, _, attribute = name.rpartition(".")
            if isinstance(modules[path], torch.jit.ScriptModule):
                raise ConfigError(
                    f"{name} belongs to a TorchScript module, whose weights cannot be "
                    "adapted. Use adaptation=none, or save the model without "
                    "TorchScript."
                )
            owners.setdefault(parameter, []).append((name, modules[path], attribute))
    parts = model.parts()
    weights = []
    for parameter, places in owners.items():
        name, module, attribute = places[0]
        kind, blocks = _structure(module, attribute, parameter)
        if kind in ("dense", "contraction") and any(
            fnmatchcase(name, pattern) for pattern in model.radial_networks
        ):
            kind = "radial"
        weights.append(
            Weight(
                name=name,
                owners=tuple((owner, key) for _, owner, key in places),
                parameter=parameter,
                kind=kind,
                part=_part(name, parts),
                blocks=blocks,
            )
        )
    return weights


def select_weights(
    weights: Sequence[Weight], targets: Sequence[str], *, option: str = "targets"
) -> list[Weight]:
    """Weights that any of the targets describes, in the order of the model.

    Args:
        weights: to choose from.
        targets: shell patterns of names, parts (``interaction_0``) or kinds
            (``radial``).
        option: where the targets come from, for messages.

    Raises:
        ConfigError: no target, or one that describes nothing.
    """
    if isinstance(targets, str):
        targets = [targets]
    if not targets:
        raise ConfigError(
            f"adaptation.{option} is empty; expected patterns of names, parts or "
            f"kinds: {_known(weights)}."
        )
    for target in targets:
        if not any(weight.matches(target) for weight in weights):
            labels = {w.short_name for w in weights} | {w.kind for w in weights}
            labels |= {w.part for w in weights if w.part}
            near = difflib.get_close_matches(target, sorted(labels), n=3, cutoff=0.4)
            raise ConfigError(
                f"adaptation.{option}: {target!r} matches 0 of {len(weights)} weights. "
                + (f"Nearest: {', '.join(near)}. " if near else "")
                + f"Patterns may also name {_known(weights)}."
            )
    return [w for w in weights if any(w.matches(target) for target in targets)]


def _known(weights: Sequence[Weight]) -> str:
    kinds = [kind for kind in KINDS if any(w.kind == kind for w in weights)]
    parts = sorted({w.part for w in weights if w.part})
    found = f"the kinds {', '.join(kinds)}"
    return found + (f" and the parts {', '.join(parts)}" if parts else "")


def _part(name: str, parts: dict[str, tuple[str, ...]]) -> str:
    for part, patterns in parts.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return part
    return ""


def _structure(
    module: torch.nn.Module, attribute: str, parameter: torch.nn.Parameter
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Kind of a weight, before its place in the network is looked at, and blocks."""
    paths = _paths(module) if attribute == "weight" else []
    if paths and sum(map(math.prod, paths)) == parameter.numel():
        blocks = tuple(
            (path[0], math.prod(path[1:])) if len(path) > 1 else (1, path[0])
            for path in paths
        )
        return "linear" if _is_linear(module) else "tensor_product", blocks
    if parameter.ndim == 2 and min(parameter.shape) > 0:
        return "dense", ((parameter.shape[0], parameter.shape[1]),)
    if parameter.ndim == 3:
        return "contraction", ((parameter.shape[0], parameter[0].numel()),)
    return "other", ((1, parameter.numel()),)


def _paths(module: torch.nn.Module) -> list[tuple[int, ...]]:
    """Shapes of the weights of an e3nn layer, one per path, as they are stored."""
    instructions: Any = getattr(module, "instructions", ())
    return [
        tuple(instruction.path_shape)
        for instruction in instructions
        # Biases are paths from nowhere; paths of a tensor product may have no weight.
        if getattr(instruction, "i_in", 0) != -1
        if getattr(instruction, "has_weight", True)
        if math.prod(instruction.path_shape) > 0
    ]


def _is_linear(module: torch.nn.Module) -> bool:
    return not hasattr(module, "irreps_in2")
