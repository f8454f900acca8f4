"""The Hessian term in the training step of ``nequip-train``, as one callback."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch

from pft_lightning import keys
from pft_lightning.callbacks import hessian_loss
from pft_lightning.callbacks.hessian_loss import Schedule
from pft_lightning.data.batching import BatchLimits, BatchStream
from pft_lightning.data.loading import check_continuation
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.sources import Spec
from pft_lightning.errors import ConfigError
from pft_lightning.integrations.nequip.phonons import PhononBatches, open_phonons
from pft_lightning.losses import global_mean
from pft_lightning.losses.terms import LossKind, Reduction, check_reduction
from pft_lightning.physics.probes import Probe
from pft_lightning.training.validation import hvp_errors
from pft_lightning.types import Engine


if TYPE_CHECKING:
    from pft_lightning.backends.nequip import NequIPModel

# After nequip's own "val0_epoch/..."; the number counts its data sets.
VALIDATION_METRIC = "val_phonon_epoch/hvp_mae"


class HessianLoss(hessian_loss.HessianLoss):
    """Match Hessian-vector products with force constants, beside nequip's own loss.

    An entry of ``trainer.callbacks`` in a configuration of ``nequip-train``; nothing
    else changes. Each training step gets, after its energies, forces and stresses, a
    batch of phonon structures. Their Hessian-vector products go through the energy
    part of the very network that is trained, uncompiled, and the weighted error is
    added to nequip's loss before its one backward pass. Moving averages, metrics,
    schedulers, strategies and ``compile_mode`` act as before, and checkpoints name
    classes of nequip only.

    Structures and tangents are functions of the seed and of the number of training
    batches alone, and no global random generator is used: with ``weight=0`` the run
    is bitwise the one without the callback. With several processes each has its own
    structures, and the term is the mean over all of them.

    Logged are ``train/hvp_<kind>`` (eV/Å², without the weight), ``train/hvp_weight``
    and, with ``val_phonons``, ``val_phonon_epoch/hvp_mae`` (eV/Å²): the mean absolute
    error along one fixed displacement of every symmetry-inequivalent atom, of the
    weights that nequip validates.

    Args:
        phonons: File, folder, glob, store or list of them, in any format that
            ``pft-prepare`` reads. Read once, into a store.
        weight: Of the term, in units of nequip's loss per eV/Å². It has no default,
            since the scale of that loss is the user's choice.
        val_phonons: The same, for validation; none if left out.
        batch_size: Phonon structures per process and step.
        max_atoms: Atoms of phonon structures per process and step, or None.
        max_edges: Edges per process and step, or None.
        probe: How tangents are drawn; one random column if left out
            (arXiv:2601.07742).
        kind: ``mae``, ``l2``, ``mse`` or ``huber``.
        huber_delta: Where the Huber loss turns linear, eV/Å².
        reduction: ``structures`` or ``atoms``: what the mean is taken over.
        schedule: ``constant``, or ``linear`` from zero over ``warmup_steps``.
        warmup_steps: Optimiser steps of the linear warm-up.
        every_n_steps: The term is due at every n-th training batch.
        seed: Of the order of the structures, of tangents and of the validation.
        engine: How products are differentiated. On the CPU ``reverse_over_reverse``
            takes less time for one or two probes.
        options: How phonon files are read.
        cache_dir: Where stores are built on first use; None is the user's cache.
    """

    def __init__(
        self,
        phonons: Spec,
        *,
        weight: float,
        val_phonons: Spec | None = None,
        batch_size: int = 4,
        max_atoms: int | None = None,
        max_edges: int | None = None,
        probe: Probe | None = None,
        kind: LossKind = "mae",
        huber_delta: float = 0.01,
        reduction: Reduction = "structures",
        schedule: Schedule = "constant",
        warmup_steps: int = 0,
        every_n_steps: int = 1,
        seed: int = 0,
        engine: Engine = "forward_over_reverse",
        options: PhononReadOptions | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        if every_n_steps < 1:
            raise ConfigError(f"every_n_steps is {every_n_steps}; at least 1.")
        check_reduction(reduction)
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
        self.phonons = phonons
        self.val_phonons = val_phonons
        self.limits = BatchLimits(batch_size, max_atoms, max_edges)
        self.reduction: Reduction = reduction
        self.engine: Engine = engine
        self.options = options or PhononReadOptions()
        self.cache_dir = cache_dir
        self._model: NequIPModel | None = None
        self._train: PhononBatches | None = None
        self._stream: BatchStream | None = None
        self._val: PhononBatches | None = None

    def setup(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Open the phonons, and add the term to the module's training step.

        Raises:
            ConfigError: The module is not nequip's, or lacks elements.
            DataFormatError: A path is missing, or nothing in it could be read.
        """
        if stage not in ("fit", "validate"):
            return
        self._model = _energy_model(pl_module)
        if self.val_phonons is not None:
            self._val = self._open(self.val_phonons, trainer)
        if stage == "fit":
            self._train = self._open(self.phonons, trainer)
            self._stream = self._train.stream(
                self.limits, self.seed, self.probe.commensurate_share
            )
            self._extend_training_step(trainer, pl_module)

    def _open(self, spec: Spec, trainer: lightning.Trainer) -> PhononBatches:
        assert self._model is not None
        store = open_phonons(
            spec,
            self._model,
            options=self.options,
            cache_dir=self.cache_dir,
            progress=trainer.global_rank == 0,
        )
        return PhononBatches(
            store, n_ranks=trainer.world_size, rank=trainer.global_rank
        )

    def _extend_training_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        original = pl_module.training_step

        # Lightning looks at the signature, which ``wraps`` hands on.
        @functools.wraps(original)
        def training_step(*args: Any, **kwargs: Any) -> torch.Tensor:
            loss: Any = original(*args, **kwargs)
            term = self._term(trainer, pl_module)
            return loss if term is None else loss + term

        pl_module.training_step = training_step  # type: ignore[method-assign]

    def teardown(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Leave the module as it was."""
        if self._stream is not None:
            vars(pl_module).pop("training_step", None)
        self._model = self._train = self._stream = self._val = None

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Follow the network to its device."""
        assert self._model is not None
        self._model.to(pl_module.device)

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Follow the network to its device, where nothing is trained before."""
        assert self._model is not None
        self._model.to(pl_module.device)

    def _term(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> torch.Tensor | None:
        """Weighted Hessian term of one training batch, or None where it is not due."""
        assert self._model is not None
        assert self._train is not None
        assert self._stream is not None
        step = self._phonon_steps
        if not self._count_step():
            return None
        chosen = self._stream.keys(keys.PHONON, step // self.every_n_phonon_steps)
        batch = self._train.read(chosen).to(pl_module.device)
        request = self._draw(batch, step)
        hvp = self._model.derivatives(
            batch,
            tangents=request.tangents,
            forces=False,
            stress=False,
            engine=self.engine,
        ).hvp
        assert hvp is not None
        # Unlike nequip's, this mean takes the average over processes into account.
        term = request.term(hvp, batch, self.reduction)
        mean = global_mean({"hvp": term})["hvp"]
        value = trainer.strategy.reduce(mean.detach(), reduce_op="mean")
        weight = self.weight_at(trainer.global_step)
        pl_module.log_dict(
            {f"train/hvp_{self.kind}": value, "train/hvp_weight": weight},
            batch_size=batch.num_graphs,
        )
        return weight * mean

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Log the error of the validation phonons, over all processes."""
        if self._val is None or trainer.sanity_checking:
            return
        assert self._model is not None
        sums = torch.zeros(2, dtype=torch.float64, device=pl_module.device)
        for batch in self._val.one_by_one():
            errors = hvp_errors(
                self._model, batch.to(pl_module.device), self.seed, self.engine
            )
            sums += torch.stack([errors.double().sum(), sums.new_tensor(len(errors))])
        total, count = trainer.strategy.reduce(sums, reduce_op="sum")
        pl_module.log(VALIDATION_METRIC, total / count)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to continue the same batches and draws."""
        state = super().state_dict()
        if self._train is not None:
            state["batches"] = self._fingerprint()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where the checkpoint stopped.

        Raises:
            ConfigError: Batches or draws would not continue those of the checkpoint.
        """
        super().load_state_dict(state_dict)
        if self._train is not None:
            check_continuation(state_dict["batches"], self._fingerprint())

    def _fingerprint(self) -> dict[str, Any]:
        assert self._train is not None
        return self._train.fingerprint(self.limits) | {
            "every_n_steps": self.every_n_phonon_steps
        }


def _energy_model(pl_module: lightning.LightningModule) -> NequIPModel:
    """The network of a module of nequip, as one differentiable energy.

    Raises:
        ConfigError: It is no such module, takes its own optimiser steps, or holds
            several networks.
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
    from pft_lightning.backends.nequip import NequIPModel

    return NequIPModel(next(iter(networks.values())))
