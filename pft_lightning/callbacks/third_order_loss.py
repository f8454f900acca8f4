"""The third-order term of the loss, as a Lightning callback."""

from __future__ import annotations

import lightning
import numpy as np
import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.callbacks.loss_terms import LossTerms
from pft_lightning.data.datamodule import PhononDataModule
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.losses import ThirdOrderTarget
from pft_lightning.losses.terms import LossKind, check_kind
from pft_lightning.physics.pair_probes import PairProbe


class ThirdOrderLoss(LossTerms):
    """Match third derivatives along pairs of directions with the reference's.

    The term is computed inside the training step of ``PhononFineTuning``, in the same
    pass as Hessian-vector products, forces and stress. Structures without third-order
    force constants, and those in commensurate cells, have no part in it. Draws are a
    function of ``(seed, step, structure)``, so there is nothing to keep for a resumed
    run, and they are the same however many processes share a batch.

    Args:
        probe: How pairs are drawn.
        weight: Of the term in the total loss, Å³/eV for the mean absolute error.
        kind: ``mae``, ``l2``, ``mse`` or ``huber``.
        huber_delta: Where the Huber loss turns linear, eV/Å³.
    """

    slot = "third_order"
    not_repeated = "third-order terms"

    def __init__(
        self,
        probe: PairProbe | None = None,
        *,
        weight: float,
        kind: LossKind = "mae",
        huber_delta: float = 0.01,
    ) -> None:
        check_kind(kind, name="loss.kind.third_order")
        # Written so that NaN does not pass.
        if not 0 < weight < float("inf"):
            raise ConfigError(
                f"loss.phonon.third_order is {weight}; expected a number above 0."
            )
        self.probe = probe or PairProbe()
        self.weight = weight
        self.kind = kind
        self.huber_delta = huber_delta
        self._has_target = False

    def options_in_use(self) -> list[str]:
        """See ``LossTerms``."""
        return ["loss.phonon.third_order"]

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Refuse data without any reference, before the first validation.

        Raises:
            DataFormatError: on all processes alike.
        """
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, PhononDataModule) and not data.n_third_order:
            raise self._without_targets()

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Refuse to go on where cells or another data module left no reference.

        Raises:
            DataFormatError: on all processes alike.
        """
        local = torch.tensor(float(self._has_target), device=pl_module.device)
        if trainer.strategy.reduce(local, reduce_op="sum") == 0:
            raise self._without_targets()

    def _without_targets(self) -> DataFormatError:
        return DataFormatError(
            f"loss.phonon.third_order is {self.weight}, and no training structure has "
            "third-order force constants in its supercell. Read phono3py files with "
            "forces on pairs with data.phonons.options.third_order=true, and a probe "
            "that takes supercells (not commensurate)."
        )

    def request(self, batch: Batch, step: int) -> ThirdOrderTarget:
        """Draw pairs and their targets for one phonon batch.

        Every batch has a target, if only of zero structures: the terms of all
        processes have to be the same.

        Args:
            batch: Neutral batch with force constants.
            step: Optimiser steps taken so far.
        """
        n_pairs = self.probe.n_pairs
        pairs, targets, weights, known = [], [], [], []
        constants = batch[keys.FORCE_CONSTANTS]
        for second, name in zip(constants, batch[keys.NAME], strict=True):
            third = getattr(second, "third_order", None)
            known.append(third is not None)
            if third is None:
                pairs.append(np.zeros((second.n_atoms, n_pairs, 2, 3)))
                targets.append(np.zeros((second.n_atoms, n_pairs, 3)))
                weights.append(np.zeros(n_pairs))
                continue
            drawn = self.probe.draw(third, name, step)
            pairs.append(drawn.pairs)
            targets.append(third.multiply(*np.moveaxis(drawn.pairs, 2, 0)))
            weights.append(drawn.weights)
        self._has_target = self._has_target or any(known)
        device = batch[keys.POSITIONS].device

        def joined(parts: list[np.ndarray]) -> torch.Tensor:
            return torch.from_numpy(np.concatenate(parts)).to(device)

        return ThirdOrderTarget(
            pairs=joined(pairs),
            targets=joined(targets),
            pair_weights=torch.from_numpy(np.stack(weights)).to(device),
            known=torch.tensor(known, device=device),
            weight=self.weight,
            kind=self.kind,
            huber_delta=self.huber_delta,
        )
