"""The terms of the loss on what follows from frequencies, as a Lightning callback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.base import EnergyModel
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
from pft_lightning.training.module import PhononFineTuning
from pft_lightning.training.spectra import compare_spectra
from pft_lightning.types import Engine


class PropertyLoss(Callback):
    """Match frequencies, thermal properties and spectra with the reference's.

    A step takes two passes. The first computes the Hessian of the atoms of a primitive
    cell without a graph, its dynamical matrices at the q-points that fit the cell, the
    losses, and their exact gradient by the matrices. The second is a product along
    directions that ``PropertyProbe`` draws, in the same pass as those of
    ``HessianLoss``: its gradient to the weights is that of the losses, on average over
    draws. Memory is that of a Hessian-vector product, whatever the properties.

    Draws are a function of ``(seed, step, structure)``, so there is nothing to keep for
    a resumed run, and they are the same however many processes share a batch. In a
    commensurate cell the properties are those of the q-points that need it.

    Args:
        weights: Of the terms in the total loss, by property; those of weight 0 are
            left out.
        compared: How spectra are compared.
        probe: How gradients are sampled.
        engine: How products of the first pass are differentiated; None is the faster
            way on the device.
    """

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
                    f"loss.phonon.{name} is {weight}; expected a number of at least 0."
                )
        self.weights = {name: w for name, w in weights.items() if w > 0}
        if not self.weights:
            raise ConfigError(
                "PropertyLoss has no weight above 0: leave it out, or set one."
            )
        self.compared = compared or PropertyErrors()
        check_kind(self.compared.kind, name="loss.kind.properties")
        self.probe = probe or PropertyProbe()
        self._engine = engine

    def setup(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Register with the module whose training step computes the terms."""
        if not isinstance(pl_module, PhononFineTuning):
            raise ConfigError(
                f"PropertyLoss cannot add its terms to a {type(pl_module).__name__}; "
                "use it with pft_lightning.PhononFineTuning."
            )
        if pl_module.replayed is not None:
            options = ", ".join(f"loss.phonon.{name}" for name in self.weights)
            raise ConfigError(
                "cuda_graphs=true does not repeat steps with losses on properties. "
                f"Leave it out, or set {options} to 0."
            )
        pl_module.targets.properties = self

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Refuse optimisers that the terms do not suit."""
        refuse_closures(trainer)

    def teardown(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Leave the module as it was."""
        if isinstance(pl_module, PhononFineTuning):
            pl_module.targets.properties = None

    def request(self, batch: Batch, step: int, model: EnergyModel) -> PropertyTarget:
        """Compute the losses of one phonon batch, and draw directions.

        Every batch has a target, if only of zero structures: the terms of all
        processes have to be the same.

        Args:
            batch: Neutral batch with force constants.
            step: Optimiser steps taken so far.
            model: The potential.
        """
        parts = [type(batch).from_data_list([data]) for data in batch.to_data_list()]
        compared = [self._compare(part, step, model) for part in parts]
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
            known=torch.tensor([bool(one.losses) for one in compared], device=device),
            weights=self.weights,
        )

    def errors(self, model: EnergyModel, batch: Batch) -> dict[str, torch.Tensor]:
        """Mean absolute errors of the properties that are trained on.

        Args:
            model: The potential.
            batch: Neutral batch with force constants.

        Returns:
            By metric, in the units of the properties; one value per structure that
            counts and vibrates.
        """
        absolute = replace(self.compared, kind="mae")
        found = []
        for data in batch.to_data_list():
            if data[keys.COUNTED]:
                structure = type(batch).from_data_list([data])
                found.append(
                    compare_spectra(
                        model, structure, absolute, self.weights, self._engine
                    )
                )
        return {
            metric_of(name): torch.tensor(
                [one.losses[name] for one in found if one is not None],
                dtype=torch.float64,
                device=model.device,
            )
            for name in self.weights
        }

    def _compare(self, structure: Batch, step: int, model: EnergyModel) -> _Compared:
        (constants,), (name,) = structure[keys.FORCE_CONSTANTS], structure[keys.NAME]
        shape = (constants.n_atoms, self.probe.n_probes, 3)
        nothing = _Compared(np.zeros(shape), np.zeros(shape), {})
        signs = self.probe.draw(constants.n_atoms, name, step)
        if signs is None or not structure[keys.COUNTED]:
            return nothing
        spectra = compare_spectra(
            model, structure, self.compared, self.weights, self._engine
        )
        if spectra is None:
            return nothing
        return _Compared(*spectra.directions(constants, signs), spectra.losses)


@dataclass(frozen=True, slots=True)
class _Compared:
    """Directions and losses of one structure; no loss where it was not computed."""

    tangents: np.ndarray
    cotangents: np.ndarray
    losses: Mapping[Property, float]
