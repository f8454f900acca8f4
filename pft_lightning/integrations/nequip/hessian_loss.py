"""The Hessian term in the training step of ``nequip-train``, as one callback."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.data.batching import BatchLimits, BatchStream
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.sources import Spec
from pft_lightning.data.store import choose_cache
from pft_lightning.errors import ConfigError
from pft_lightning.integrations.nequip.options import check_spec, read_options
from pft_lightning.integrations.nequip.phonons import PhononBatches, open_batches
from pft_lightning.integrations.nequip.term import NequIPHvpTerm
from pft_lightning.losses.terms import LossKind, Reduction
from pft_lightning.physics.probes import Probe
from pft_lightning.training.hessian import Schedule
from pft_lightning.types import Engine


class HessianLoss(NequIPHvpTerm, Callback):
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
        engine: How products are differentiated; None is the faster way on the device.
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
        engine: Engine | None = None,
        options: PhononReadOptions | Mapping[str, Any] | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__(
            weight=weight,
            probe=probe,
            kind=kind,
            huber_delta=huber_delta,
            reduction=reduction,
            schedule=schedule,
            warmup_steps=warmup_steps,
            every_n_steps=every_n_steps,
            seed=seed,
            engine=engine,
        )
        check_spec("phonons", phonons)
        if val_phonons is not None:
            check_spec("val_phonons", val_phonons)
        self.phonons = phonons
        self.val_phonons = val_phonons
        self.limits = BatchLimits(batch_size, max_atoms, max_edges)
        self.options = read_options(options)
        self.cache_dir = choose_cache(cache_dir, "cache_dir")
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
        if hasattr(pl_module, "hessian_term"):
            raise ConfigError(
                f"{type(pl_module).__name__} has a Hessian term of its own; leave the "
                "HessianLoss callback out, or use the module of nequip."
            )
        self.attach(pl_module)
        if self.val_phonons is not None:
            self._val = self._open(self.val_phonons, trainer)
        if stage == "fit":
            self._train = self._open(self.phonons, trainer)
            self._stream = self.open_stream(self._train, self.limits)
            self._extend_training_step(trainer, pl_module)

    def _open(self, spec: Spec, trainer: lightning.Trainer) -> PhononBatches:
        return open_batches(
            spec, self.model, trainer, options=self.options, cache_dir=self.cache_dir
        )

    def _read(self, position: int) -> Batch:
        assert self._train is not None
        assert self._stream is not None
        return self._train.read(self._stream.keys(keys.PHONON, position))

    def _extend_training_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        original = pl_module.training_step

        # Lightning looks at the signature, which ``wraps`` hands on.
        @functools.wraps(original)
        def training_step(*args: Any, **kwargs: Any) -> torch.Tensor:
            loss: Any = original(*args, **kwargs)
            term = self.compute(trainer, pl_module, self._read)
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
        self.detach()
        self._train = self._stream = self._val = None

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Follow the network to its device."""
        self.start(trainer, pl_module)

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Follow the network to its device, where nothing is trained before."""
        self.model.to(pl_module.device)

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Log the error of the validation phonons, over all processes."""
        if self._val is not None and not trainer.sanity_checking:
            self.validate(trainer, pl_module, self._val)
