"""What losses on spectra have in common: an exact gradient, sampled by a product."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import lightning
import numpy as np
import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.base import EnergyModel
from pft_lightning.callbacks.loss_terms import LossTerms
from pft_lightning.errors import ConfigError
from pft_lightning.losses.properties import (
    Property,
    PropertyErrors,
    PropertyTarget,
    metric_of,
)
from pft_lightning.losses.terms import check_kind
from pft_lightning.physics.property_probes import PropertyProbe
from pft_lightning.training.hessian import refuse_closures
from pft_lightning.training.spectra import ComparedSpectra
from pft_lightning.types import Engine


class SpectralLoss(LossTerms):
    """Match the spectra of structures with a reference.

    A step takes two passes. The first computes the Hessian of the atoms of a primitive
    cell without a graph, its dynamical matrices at the q-points that fit the cell, the
    losses, and their exact gradient by the matrices. The second is a product along
    directions that ``PropertyProbe`` draws, in the same pass as those of
    ``HessianLoss``: its gradient to the weights is that of the losses, on average over
    draws. Memory is that of a Hessian-vector product, whatever the properties.

    Draws are a function of ``(seed, step, structure)``, so there is nothing to keep for
    a resumed run, and they are the same however many processes share a batch.

    Args:
        weights: Of the terms in the total loss, by property; those of weight 0 are
            left out.
        compared: How spectra are compared.
        probe: How gradients are sampled.
        engine: How products of the first pass are differentiated; None is the faster
            way on the device.
    """

    # The block of options that the weights are in.
    options: ClassVar[str]
    # What names of metrics begin with.
    prefix: ClassVar[str]
    not_repeated = "losses on properties"

    def __init__(
        self,
        weights: Mapping[Property, float],
        *,
        compared: PropertyErrors | None = None,
        probe: PropertyProbe | None = None,
        engine: Engine | None = None,
    ) -> None:
        for name, weight in weights.items():
            # Written so that NaN does not pass.
            if not 0 <= weight < float("inf"):
                raise ConfigError(
                    f"{self.options}.{name} is {weight}; expected a number of at "
                    "least 0."
                )
        self.weights = {name: w for name, w in weights.items() if w > 0}
        if not self.weights:
            raise ConfigError(
                f"{type(self).__name__} has no weight above 0: leave it out, or set "
                "one."
            )
        self.compared = compared or PropertyErrors()
        check_kind(self.compared.kind, name="loss.kind.properties")
        self.probe = probe or PropertyProbe()
        self._engine = engine

    @abstractmethod
    def compare(
        self,
        model: EnergyModel,
        structure: Batch,
        weights: Mapping[Property, float],
        *,
        absolute: bool = False,
    ) -> ComparedSpectra | None:
        """Compare one structure; None where there is nothing to compare.

        Args:
            model: The potential.
            structure: Neutral batch of one structure.
            weights: Of the terms.
            absolute: Give mean absolute errors instead of losses.
        """

    def options_in_use(self) -> list[str]:
        """See ``LossTerms``."""
        return [f"{self.options}.{name}" for name in self.weights]

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Refuse optimisers that the terms do not suit."""
        refuse_closures(trainer)

    def request(self, batch: Batch, step: int, model: EnergyModel) -> PropertyTarget:
        """Compute the losses of one batch, and draw directions.

        Every batch has a target, if only of zero structures: the terms of all
        processes have to be the same.

        Args:
            batch: Neutral batch with (layouts of) force constants.
            step: Optimiser steps taken so far.
            model: The potential.
        """
        parts = [type(batch).from_data_list([data]) for data in batch.to_data_list()]
        compared = [self._draw(part, step, model) for part in parts]
        device = batch[keys.POSITIONS].device

        def joined(directions: list[np.ndarray]) -> torch.Tensor:
            return torch.from_numpy(np.concatenate(directions)).to(device)

        def of_structures(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float64, device=device)

        return PropertyTarget(
            tangents=joined([one.tangents for one in compared]),
            cotangents=joined([one.cotangents for one in compared]),
            losses={
                name: of_structures([one.losses.get(name, 0.0) for one in compared])
                for name in self.weights
            },
            known={
                name: torch.tensor([name in one.losses for one in compared]).to(device)
                for name in self.weights
            },
            weights=self.weights,
        )

    def errors(self, model: EnergyModel, batch: Batch) -> dict[str, torch.Tensor]:
        """Mean absolute errors of the properties that are trained on.

        Args:
            model: The potential.
            batch: Neutral batch with (layouts of) force constants.

        Returns:
            By metric, in the units of the properties; one value per structure that
            counts and has it.
        """
        found: list[Mapping[Property, float]] = []
        for data in batch.to_data_list():
            if data[keys.COUNTED]:
                structure = type(batch).from_data_list([data])
                one = self.compare(model, structure, self.weights, absolute=True)
                found += [] if one is None else [one.losses]
        return {
            metric_of(name, self.prefix): torch.tensor(
                [losses[name] for losses in found if name in losses],
                dtype=torch.float64,
                device=model.device,
            )
            for name in self.weights
        }

    def _compared(self, *, absolute: bool) -> PropertyErrors:
        return replace(self.compared, kind="mae") if absolute else self.compared

    def _draw(self, structure: Batch, step: int, model: EnergyModel) -> _Drawn:
        (constants,), (name,) = structure[keys.FORCE_CONSTANTS], structure[keys.NAME]
        shape = (constants.n_atoms, self.probe.n_probes, 3)
        nothing = _Drawn(np.zeros(shape), np.zeros(shape), {})
        signs = self.probe.draw(constants.n_atoms, name, step)
        if signs is None or not structure[keys.COUNTED]:
            return nothing
        spectra = self.compare(model, structure, self.weights)
        if spectra is None:
            return nothing
        return _Drawn(*spectra.directions(constants, signs), spectra.losses)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Directions and losses of one structure; no loss where it was not computed."""

    tangents: np.ndarray
    cotangents: np.ndarray
    losses: Mapping[Property, float]
