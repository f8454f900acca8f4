"""Which tangents a step draws, what their products are, and what they weigh."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import lightning
import numpy as np
import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.errors import ConfigError
from pft_lightning.losses import HvpTarget
from pft_lightning.losses.terms import LossKind, check_kind
from pft_lightning.physics.probes import ColumnProbe, Draws, Probe


Schedule = Literal["constant", "linear"]
PUBLISHED_WEIGHT = 100.0  # arXiv:2601.07742


def probe_batch(
    batch: Batch, draws: Draws, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tangents of each structure and their products with its force constants.

    Those that the loader made where they are of this step, else drawn here.

    Args:
        batch: Neutral batch with force constants.
        draws: Of the training.
        step: Optimiser steps taken so far.

    Returns:
        Tangents and Φ v, both (n_atoms, n_probes, 3), in float64 on the device of
        the batch. The product is taken in float64 whatever the model's dtype.
    """
    names = batch[keys.NAME]
    if batch.get(keys.DRAW) == [draws.label(step)] * len(names):
        return batch[keys.TANGENTS], batch[keys.TARGETS]
    tangents, targets = [], []
    for force_constants, name in zip(batch[keys.FORCE_CONSTANTS], names, strict=True):
        tangents.append(draws.tangents(force_constants, name, step))
        targets.append(force_constants.multiply(tangents[-1]))
    device = batch[keys.POSITIONS].device
    both = (torch.from_numpy(np.concatenate(part)) for part in (tangents, targets))
    drawn, products = (part.to(device, non_blocking=True) for part in both)
    return drawn, products


def refuse_closures(trainer: lightning.Trainer) -> None:
    """Refuse optimisers that evaluate a batch several times.

    Raises:
        ConfigError: there is one. Every evaluation would draw other tangents, so that
            it would minimise another function each time.
    """
    for optimizer in trainer.optimizers:
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ConfigError(
                "LBFGS evaluates a batch several times, and the Hessian term draws "
                "other tangents each time. Use Adam, AdamW or another first-order "
                "optimiser."
            )


class ProbeSchedule:
    """When the Hessian term is due, along which tangents, and with which weight.

    What the ``HessianLoss`` of all trainers share. Draws are a function of
    ``(seed, step, structure)``, so they are the same however many processes share a
    batch.

    Args:
        probe: How tangents are drawn; one random column if left out
            (arXiv:2601.07742).
        weight: Of the term in the total loss, Å²/eV for the mean absolute error.
        kind: ``mae``, ``l2``, ``mse`` or ``huber``.
        huber_delta: Where the Huber loss turns linear, eV/Å².
        schedule: ``constant``, or ``linear`` from zero over ``warmup_steps``.
        warmup_steps: Optimiser steps of the linear warm-up.
        every_n_phonon_steps: The term is due at every n-th phonon batch.
        seed: Of the draws.
    """

    def __init__(
        self,
        probe: Probe | None = None,
        *,
        weight: float = PUBLISHED_WEIGHT,
        kind: LossKind = "mae",
        huber_delta: float = 0.01,
        schedule: Schedule = "constant",
        warmup_steps: int = 0,
        every_n_phonon_steps: int = 1,
        seed: int = 0,
    ) -> None:
        check_kind(kind, name="kind of the Hessian term (loss.kind.hvp in pft-train)")
        # Written so that NaN does not pass.
        if not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise ConfigError(
                "weight of the Hessian term (loss.phonon.hvp in pft-train) is "
                f"{weight}; expected a number of at least 0."
            )
        if huber_delta <= 0:
            raise ConfigError(
                f"huber_delta is {huber_delta}; expected an error in eV/Å² above 0."
            )
        if probe is not None and not isinstance(probe, Probe):
            raise ConfigError(
                f"probe is {probe!r}; expected a Probe. In configurations of other "
                "tools than pft-train write {_target_: CLASS}, e.g. "
                "pft_lightning.physics.probes.RademacherProbe; docs/probes.md names "
                "them."
            )
        if schedule not in get_args(Schedule):
            raise ConfigError(
                f"schedule is {schedule!r}; expected one of "
                f"{', '.join(get_args(Schedule))}."
            )
        if (schedule == "linear") != (warmup_steps > 0):
            raise ConfigError(
                f"schedule={schedule} with warmup_steps={warmup_steps}: a linear "
                "schedule needs warmup_steps > 0, a constant one takes none."
            )
        if every_n_phonon_steps < 1:
            raise ConfigError(
                f"every_n_phonon_steps is {every_n_phonon_steps}; at least 1."
            )
        self.probe = probe or ColumnProbe()
        self.weight = weight
        self.kind: LossKind = kind
        self.huber_delta = huber_delta
        self.warmup_steps = warmup_steps
        self.every_n_phonon_steps = every_n_phonon_steps
        self.seed = seed
        self._phonon_steps = 0

    @property
    def phonon_steps(self) -> int:
        """Phonon batches counted so far."""
        return self._phonon_steps

    @property
    def draws(self) -> Draws:
        """The tangents of all steps."""
        return Draws(self.probe, self.seed)

    def _count_step(self) -> bool:
        """Count one more phonon batch; tell whether the term is due with it."""
        due = self._phonon_steps % self.every_n_phonon_steps == 0 and self.weight > 0
        self._phonon_steps += 1
        return due

    def _draw(self, batch: Batch, step: int) -> HvpTarget:
        tangents, targets = probe_batch(batch, self.draws, step)
        return HvpTarget(
            tangents=tangents,
            targets=targets,
            weight=self.weight_at(step),
            kind=self.kind,
            huber_delta=self.huber_delta,
        )

    def weight_at(self, step: int) -> float:
        """Weight after ``step`` optimiser steps."""
        if self.warmup_steps == 0:
            return self.weight
        return self.weight * min(1.0, (step + 1) / self.warmup_steps)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to continue the same draws."""
        return {
            "phonon_steps": self._phonon_steps,
            "seed": self.seed,
            "probe": repr(self.probe),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the checkpoint stopped.

        Raises:
            ConfigError: The checkpoint was drawn with another probe or seed.
        """
        mine = self.state_dict()
        for name in ("seed", "probe"):
            if state_dict[name] != mine[name]:
                raise ConfigError(
                    f"The checkpoint was trained with {name}={state_dict[name]}, this "
                    f"run has {mine[name]}; resume with the original setting or "
                    "start a new run."
                )
        self._phonon_steps = state_dict["phonon_steps"]
