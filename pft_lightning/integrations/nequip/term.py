"""The Hessian term of a training of NequIP, whoever brings the phonons."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import lightning
import torch
from torch_geometric.data import Batch

from pft_lightning.data.batching import BatchLimits, BatchStream
from pft_lightning.data.loading import check_continuation
from pft_lightning.errors import ConfigError
from pft_lightning.integrations.nequip.options import check_version, check_whole
from pft_lightning.integrations.nequip.phonons import PhononBatches
from pft_lightning.losses import global_mean
from pft_lightning.losses.terms import LossKind, Reduction, check_reduction
from pft_lightning.physics.hvp import check_engine
from pft_lightning.physics.probes import Probe
from pft_lightning.training.hessian import (
    ProbeSchedule,
    Schedule,
    refuse_closures,
)
from pft_lightning.training.validation import hvp_errors
from pft_lightning.types import Engine


if TYPE_CHECKING:
    from pft_lightning.backends.nequip.model import NequIPModel

# After nequip's own "val0_epoch/..."; the number counts its data sets.
VALIDATION_METRIC = "val_phonon_epoch/hvp_mae"


class NequIPHvpTerm(ProbeSchedule):
    """The Hessian term of a NequIP network, computed through its energy part.

    Args:
        weight: Of the term, in units of nequip's loss per eV/Å².
        probe: How tangents are drawn; one random column if left out
            (arXiv:2601.07742).
        kind: ``mae``, ``l2``, ``mse`` or ``huber``.
        huber_delta: Where the Huber loss turns linear, eV/Å².
        reduction: ``structures`` or ``atoms``: what the mean is taken over.
        schedule: ``constant``, or ``linear`` from zero over ``warmup_steps``.
        warmup_steps: Optimiser steps of the linear warm-up.
        every_n_steps: The term is due at every n-th training batch.
        seed: Of the order of the structures, of tangents and of the validation.
        engine: How products are differentiated; None is the faster way on the device.

    Raises:
        ConfigError: A value is none of these.
    """

    def __init__(
        self,
        *,
        weight: float,
        probe: Probe | None = None,
        kind: LossKind = "mae",
        huber_delta: float = 0.01,
        reduction: Reduction = "structures",
        schedule: Schedule = "constant",
        warmup_steps: int = 0,
        every_n_steps: int = 1,
        seed: int = 0,
        engine: Engine | None = None,
    ) -> None:
        check_whole("every_n_steps", every_n_steps, least=1)
        check_whole("warmup_steps", warmup_steps, least=0)
        check_whole("seed", seed, least=0)
        if not isinstance(huber_delta, int | float):
            raise ConfigError(f"huber_delta is {huber_delta!r}; expected a number.")
        check_reduction(reduction)
        check_engine(engine)
        super().__init__(
            probe,
            weight=weight,
            kind=kind,
            huber_delta=huber_delta,
            schedule=schedule,
            warmup_steps=warmup_steps,
            every_n_phonon_steps=every_n_steps,
            seed=seed,
        )
        self.reduction: Reduction = reduction
        self.engine = engine
        self._model: NequIPModel | None = None
        self._dtypes: dict[str, torch.dtype] = {}
        self._sequence: dict[str, Any] | None = None

    @property
    def model(self) -> NequIPModel:
        """The network that is trained, as one differentiable energy."""
        assert self._model is not None
        return self._model

    def attach(self, pl_module: lightning.LightningModule) -> None:
        """Take the network of a training module.

        Raises:
            ConfigError: The module is not nequip's, takes its own optimiser steps, or
                holds several networks; nequip is too old.
        """
        self._model = energy_model(pl_module)
        self._dtypes = _dtypes(self.model)

    def start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Follow the network to its device, once the trainer has prepared it.

        Raises:
            ConfigError: The trainer has changed the dtype of the network, or an
                optimiser takes several looks at a batch.
        """
        if _dtypes(self.model) != self._dtypes:
            raise ConfigError(
                f"trainer.precision={trainer.precision} converts the network, whose "
                f"model_dtype is {self.model.dtype}. Leave trainer.precision out, and "
                "choose model_dtype."
            )
        refuse_closures(trainer)
        self.model.to(pl_module.device)

    def detach(self) -> None:
        """Let go of network and structures."""
        self._model = self._sequence = None

    def open_stream(self, batches: PhononBatches, limits: BatchLimits) -> BatchStream:
        """Sequence of the training batches, which ``position`` indexes.

        Args:
            batches: Training structures of this process.
            limits: Of a batch.
        """
        self._sequence = batches.fingerprint(limits) | {
            "every_n_steps": self.every_n_phonon_steps
        }
        return batches.stream(limits, self.seed, self.probe.commensurate_share)

    def position(self, step: int) -> int | None:
        """Phonon batch of the training batch ``step``; None where no term is due."""
        cycle, offset = divmod(step, self.every_n_phonon_steps)
        return cycle if offset == 0 else None

    def compute(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        read: Callable[[int], Batch],
    ) -> torch.Tensor | None:
        """Weighted term of one training batch, logged; None where it is not due.

        Args:
            trainer: Of the run.
            pl_module: Whose network it is.
            read: Give the phonon batch at a position.
        """
        step = self._phonon_steps
        if not self._count_step():
            return None
        position = self.position(step)
        assert position is not None
        batch = read(position).to(pl_module.device)
        request = self._draw(batch, step)
        hvp = self.model.derivatives(
            batch,
            tangents=request.tangents,
            forces=False,
            stress=False,
            engine=self.engine,
        ).hvp
        assert hvp is not None
        # Unlike nequip's, this mean takes the average over processes into account.
        if step == 0 and not hvp.isfinite().all():
            raise ConfigError(
                "Hessian-vector products of the first phonon batch are not finite: the "
                "potential that training starts from is no potential for these "
                "structures."
            )
        term = request.term(hvp, batch, self.reduction)
        mean = global_mean({"hvp": term})["hvp"]
        value = trainer.strategy.reduce(mean.detach(), reduce_op="mean")
        weight = self.weight_at(trainer.global_step)
        pl_module.log_dict(
            {f"train/hvp_{self.kind}": value, "train/hvp_weight": weight},
            batch_size=batch.num_graphs,
        )
        return weight * mean

    def validate(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batches: PhononBatches,
    ) -> None:
        """Log the mean error of structures over all processes."""
        sums = torch.zeros(2, dtype=torch.float64, device=pl_module.device)
        for batch in batches.one_by_one():
            errors = hvp_errors(
                self.model, batch.to(pl_module.device), self.seed, self.engine
            )
            sums += torch.stack([errors.double().sum(), sums.new_tensor(len(errors))])
        total, count = trainer.strategy.reduce(sums, reduce_op="sum")
        pl_module.log(VALIDATION_METRIC, total / count)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to continue the same batches and draws."""
        state = super().state_dict()
        if self._sequence is not None:
            state["batches"] = self._sequence
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the checkpoint stopped.

        Raises:
            ConfigError: Batches or draws would not continue those of the checkpoint.
        """
        super().load_state_dict(state_dict)
        if self._sequence is not None:
            check_continuation(state_dict["batches"], self._sequence)


def _dtypes(model: torch.nn.Module) -> dict[str, torch.dtype]:
    return {name: weight.dtype for name, weight in model.named_parameters()}


def energy_model(pl_module: lightning.LightningModule) -> NequIPModel:
    """The network of a module of nequip, as one differentiable energy.

    Raises:
        ConfigError: It is no such module, takes its own optimiser steps, or holds
            several networks; or nequip is too old.
    """
    # Who has such a module has imported nequip.
    library = sys.modules.get("nequip.train")
    if library is None or not isinstance(pl_module, library.NequIPLightningModule):
        raise ConfigError(
            "pft_lightning.integrations.nequip.HessianLoss works with the training "
            f"modules of nequip-train, not with a {type(pl_module).__name__}. With "
            "PhononFineTuning use pft_lightning.HessianLoss."
        )
    if not pl_module.automatic_optimization:
        raise ConfigError(
            f"{type(pl_module).__name__} takes its optimiser steps itself, from the "
            "gradients of its own loss; a Hessian term would have no effect. Use "
            "EMALightningModule or NequIPLightningModule."
        )
    networks = dict(pl_module.model.items())
    if len(networks) != 1:
        raise ConfigError(
            f"The {type(pl_module).__name__} trains several networks "
            f"({', '.join(networks)}); the Hessian term needs exactly one."
        )
    check_version()
    from pft_lightning.backends.nequip.model import NequIPModel

    return NequIPModel(next(iter(networks.values())))
