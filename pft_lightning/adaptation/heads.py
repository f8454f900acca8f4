"""A new output head for phonon data beside the head that a potential has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pft_lightning import keys
from pft_lightning.adaptation.methods import (
    Adaptation,
    describe_unadapted,
    train_only,
)
from pft_lightning.adaptation.trainable import TrainableSet, collect_trainable
from pft_lightning.adaptation.weights import select_weights
from pft_lightning.backends.base import EnergyModel
from pft_lightning.errors import ConfigError
from pft_lightning.option_types import As, Patterns, Text, Words


_Energies = Annotated[
    dict[str, float], Words("energies in eV by element, e.g. {Si: -0.8}")
]


@dataclass(frozen=True, slots=True)
class MultiHead(Adaptation):
    """Train phonon data on a new head, upstream frames on the head that there was.

    The new head starts as a copy of the old one, so that nothing changes at first. The
    saved model has both; ``model.head`` is the one of the phonon data.

    Args:
        new_head: name of the new head.
        phonon_head: head of the phonon data, and so of the Hessian loss; the new one
            if left out.
        upstream_head: head of the upstream frames; the one that the model was loaded
            with if left out.
        atomic_energies: energies of isolated atoms for the new head, eV, by chemical
            symbol, where its data are from another code or functional.
        targets: shell patterns of names, parts or kinds of the weights to train.
    """

    new_head: Text = "phonon"
    phonon_head: str | None = None
    upstream_head: str | None = None
    atomic_energies: Annotated[Mapping[str, float], As(_Energies)] = field(
        default_factory=dict
    )
    targets: Annotated[Sequence[str], As(Patterns)] = ("*",)

    def heads(self, loaded: str | None) -> Mapping[str, str]:
        """See ``Adaptation.heads``."""
        upstream = self.upstream_head or loaded
        heads = {keys.PHONON: self.phonon_head or self.new_head}
        return heads if upstream is None else {**heads, keys.UPSTREAM: upstream}

    def apply(self, model: EnergyModel) -> TrainableSet:
        """See ``Adaptation.apply``."""
        describe_unadapted(model)
        source = model.head
        if source is not None and self.new_head in model.heads:
            raise ConfigError(
                f"adaptation.new_head: the model already has a head {self.new_head!r} "
                f"(of {', '.join(model.heads)}). Choose another name."
            )
        model.add_head(self.new_head, source or "", self.atomic_energies)
        for option in ("phonon_head", "upstream_head"):
            name = getattr(self, option)
            if name is not None and name not in model.heads:
                raise ConfigError(
                    f"adaptation.{option} is {name!r}; the model has the heads "
                    f"{', '.join(model.heads)}."
                )
        model.head = self.phonon_head or self.new_head
        weights = describe_unadapted(model)
        chosen = select_weights(weights, self.targets)
        train_only(weights, chosen)
        return collect_trainable(model, weights, chosen)
