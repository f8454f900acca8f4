"""The Hessian term of the loss, as a Lightning callback."""

from __future__ import annotations

from typing import Any, Literal, get_args

import lightning
from lightning.pytorch.callbacks import Callback
from torch_geometric.data import Batch

from pft_lightning.data.datamodule import PhononDataModule
from pft_lightning.errors import ConfigError
from pft_lightning.losses import HessianRequest
from pft_lightning.losses.terms import LossKind, check_kind
from pft_lightning.physics.probes import ColumnProbe, Probe, probe_generator
from pft_lightning.training.hessian import probe_batch
from pft_lightning.training.module import PhononFineTuning


Schedule = Literal["constant", "linear"]


class HessianLoss(Callback):
    """Match Hessian-vector products with the reference force constants.

    The callback owns the probe, the weight with its schedule, and how often the
    term is due. The term is computed inside the training step of
    ``PhononFineTuning``, in the same pass as forces and stress, so that DDP
    reduces its gradient like any other. Draws are a function of ``(seed, step,
    structure)``, so they are the same however many processes share a batch.

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
        weight: float = 100.0,
        kind: LossKind = "mae",
        huber_delta: float = 0.01,
        schedule: Schedule = "constant",
        warmup_steps: int = 0,
        every_n_phonon_steps: int = 1,
        seed: int = 0,
    ) -> None:
        check_kind(kind, name="kind of HessianLoss (loss.kind.hvp in pft-train)")
        if weight < 0:
            raise ConfigError(
                "weight of HessianLoss (loss.phonon.hvp in pft-train) is "
                f"{weight}; at least 0."
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

    def setup(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Register with the module whose training step computes the term."""
        if not isinstance(pl_module, PhononFineTuning):
            raise ConfigError(
                f"HessianLoss cannot add its term to a {type(pl_module).__name__}; "
                "use it with pft_lightning.PhononFineTuning, and with nequip-train "
                "use pft_lightning.integrations.nequip.HessianLoss."
            )
        if pl_module.hessian_loss not in (None, self):
            raise ConfigError("Two HessianLoss callbacks; a training step takes one.")
        if not pl_module.losses["phonon"].weights and (
            self.every_n_phonon_steps > 1 or self.weight == 0
        ):
            raise ConfigError(
                "Some phonon steps would have no loss at all: every loss.phonon.* "
                "weight is 0 and the Hessian term has weight "
                f"{self.weight}, every_n_phonon_steps={self.every_n_phonon_steps}."
            )
        pl_module.hessian_loss = self
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, PhononDataModule):
            data.use_commensurate_cells(self.probe.commensurate_share)

    def teardown(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Leave the module as it was."""
        if isinstance(pl_module, PhononFineTuning):
            pl_module.hessian_loss = None

    def request(self, batch: Batch, step: int) -> HessianRequest | None:
        """Draw tangents and their targets for one phonon batch.

        Args:
            batch: Neutral batch with force constants.
            step: Optimiser steps taken so far.

        Returns:
            None where the term is not due.
        """
        return self._draw(batch, step) if self._count_step() else None

    def _count_step(self) -> bool:
        """Count one more phonon batch; tell whether the term is due with it."""
        due = self._phonon_steps % self.every_n_phonon_steps == 0 and self.weight > 0
        self._phonon_steps += 1
        return due

    def _draw(self, batch: Batch, step: int) -> HessianRequest:
        tangents, targets = probe_batch(
            batch,
            lambda force_constants, name: self.probe.sample(
                force_constants, probe_generator(self.seed, step, name)
            ),
        )
        return HessianRequest(
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
