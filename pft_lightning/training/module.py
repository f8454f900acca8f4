"""The LightningModule that fine-tunes a potential on curvature and on forces."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.adaptation import Adaptation, FullFineTuning, Scratch
from pft_lightning.adaptation.checkpoint import complete_checkpoint, reduce_checkpoint
from pft_lightning.backends.base import EnergyModel, check_model
from pft_lightning.data.loading import count_structures
from pft_lightning.errors import ConfigError
from pft_lightning.losses import (
    PAPER_KINDS,
    ElasticTarget,
    EnergyForceStressLoss,
    TermSum,
    global_counts,
    mean_over_processes,
)
from pft_lightning.losses.terms import Reduction
from pft_lightning.training.balance import LossBalance
from pft_lightning.training.divergence import StopsAtDivergence
from pft_lightning.training.elastic import elastic_constants_of
from pft_lightning.training.optimizers import (
    OptimizerFactory,
    SchedulerFactory,
    decay_groups,
    make_optimizer,
    make_scheduler,
)
from pft_lightning.training.replay import ReplayedSteps
from pft_lightning.training.requests import Requests, TargetSources, collect
from pft_lightning.training.requirements import check_differentiates
from pft_lightning.training.splitting import (
    Gradients,
    LocalStep,
    Work,
    differentiate,
    run_measured_step,
    run_step,
)
from pft_lightning.training.validation import (
    METRICS,
    MONITOR,
    find_errors,
    warn_of_doubtful_labels,
)
from pft_lightning.types import Engine


# arXiv:2601.07742, with co-training.
PAPER_PHONON_WEIGHTS = MappingProxyType({"energy": 0.0, "forces": 20.0, "stress": 5.0})
PAPER_UPSTREAM_WEIGHTS = MappingProxyType(
    {"energy": 500.0, "forces": 200.0, "stress": 50.0}
)


_SPLIT = (
    "A batch did not fit in memory and is computed in parts: the same step, but "
    "slower. Lower data.phonons.max_edges or data.upstream.max_edges. The log counts "
    "such splits as train/memory_splits."
)


class PhononFineTuning(StopsAtDivergence):
    """Fine-tune any potential on force constants while co-training on its own data.

    A training batch is a dict of neutral batches by source (``keys.PHONON``,
    ``keys.UPSTREAM``, ``keys.ELASTIC``, ``keys.MEASURED``). Energies, forces, stresses
    and, for phonon batches, the Hessian-vector products that ``HessianLoss`` asks for
    come out of one pass, and with them the third derivatives of ``ThirdOrderLoss``.
    Every term is a mean over the structures (or atoms) of the global batch, so the
    gradient does not depend on how many processes share it.

    Validation metrics, all mean absolute errors over structures:
    ``phonon/hvp_mae`` (eV/Å², one isotropic displacement of every inequivalent atom,
    weighted with its multiplicity), ``phonon/forces_mae`` (eV/Å),
    ``upstream/energy_mae`` (eV/atom), ``upstream/forces_mae`` (eV/Å) and
    ``upstream/stress_mae`` (eV/Å³); where structures have third-order force constants
    ``phonon/third_order_mae`` (eV/Å³, along fixed pairs of atoms); with elastic
    crystals ``elastic/constants_mae`` (GPa, over all 36), ``elastic/bulk_modulus_mae``
    and ``elastic/shear_modulus_mae`` (GPa); with a ``PropertyLoss`` also
    ``phonon/property_frequencies_mae`` (THz) and the like, and with a ``MeasuredLoss``
    ``measured/frequencies_mae`` and the like.

    A batch that does not fit in the memory of the device is computed in parts, with the
    same gradient.

    Args:
        model: The potential, which is adapted in place.
        adaptation: What of it is trained, and how far; all weights if left out.
        phonon_weights: Of energy, forces and stress on phonon structures. The
            weight of the Hessian term belongs to the ``HessianLoss`` callback.
        upstream_weights: Of energy, forces and stress on upstream structures.
        kinds: Per quantity, ``mae``, ``l2``, ``mse`` or ``huber``.
        elastic: Losses of crystals with elastic constants or moduli.
        reduction: ``structures`` or ``atoms``: what a mean is taken over.
        huber_delta: Where Huber losses turn linear.
        optimizer: Takes parameter groups; AdamW with lr 1e-4 and decay 1e-3 if
            left out, the published recipe.
        scheduler: Takes the optimizer; constant learning rate if left out.
        no_decay: Shell patterns of parameters without weight decay.
        engine: How Hessian-vector products are differentiated; None is the faster way
            on the device.
        validation_seed: Of the fixed tangents of the validation.
        replayed: Records the steps of a GPU and repeats them; none if left out.
        balance: Finds weights of terms; those given hold until it has.

    Attributes:
        memory_splits: How often a batch, or a part of one, was split because it did not
            fit in memory; of all processes, at the end of the last epoch.
    """

    def __init__(
        self,
        model: EnergyModel,
        *,
        adaptation: Adaptation | None = None,
        phonon_weights: Mapping[str, float] = PAPER_PHONON_WEIGHTS,
        upstream_weights: Mapping[str, float] = PAPER_UPSTREAM_WEIGHTS,
        kinds: Mapping[str, str] = PAPER_KINDS,
        elastic: ElasticTarget | None = None,
        reduction: str = "structures",
        huber_delta: float = 0.01,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        no_decay: Sequence[str] = (),
        engine: Engine | None = None,
        validation_seed: int = 0,
        replayed: ReplayedSteps | None = None,
        balance: LossBalance | None = None,
    ) -> None:
        super().__init__()
        check_model(model)
        self.adaptation = adaptation or FullFineTuning()
        self._heads = dict(self.adaptation.heads(model.head))
        if keys.PHONON in self._heads:
            self._heads[keys.MEASURED] = self._heads[keys.PHONON]
        self.trainable = self.adaptation.apply(model)
        self.model = model
        self.losses = {
            source: EnergyForceStressLoss(
                weights,
                kinds,
                reduction=reduction,
                huber_delta=huber_delta,
                name=source,
            )
            for source, weights in (
                (keys.PHONON, phonon_weights),
                (keys.UPSTREAM, upstream_weights),
                (keys.MEASURED, {}),
            )
        }
        self.elastic = elastic or ElasticTarget()
        self.reduction: Reduction = reduction  # type: ignore[assignment]
        self.targets = TargetSources()
        self._optimizer = optimizer or _paper_optimizer
        self._scheduler = scheduler
        self._no_decay = no_decay
        self._engine = engine
        self._validation_seed = validation_seed
        self.replayed = replayed
        self.balance = balance or LossBalance({})
        self._sums = torch.zeros(len(METRICS), 2, dtype=torch.float64)
        self._splits = 0
        self.memory_splits = 0
        # Weights that were just drawn can judge no data.
        judges = not isinstance(self.adaptation, Scratch)
        self._unjudged = {"training", "validation"} if judges else set()

    def setup(self, stage: str) -> None:
        """Fail before the first step where derivatives cannot be taken."""
        if isinstance(self.trainer.strategy, DDPStrategy):
            # Which weights have a gradient differs between the two kinds of steps (a
            # constant energy shift has none from curvature), which plain DDP refuses.
            self.trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
        if self.replayed is not None:
            self.replayed.check(self.trainer.strategy.root_device)
        check_differentiates(self.trainer)

    def training_step(self, batch: Mapping[str, Batch], batch_idx: int) -> torch.Tensor:
        """Weighted sum of all loss terms of the batches of one step."""
        self._judge_labels(batch, "training")
        with self.head_of(keys.PHONON):
            asked = collect(
                batch,
                self.losses,
                self.targets,
                self.elastic,
                self.model,
                self.global_step,
                self.reduction,
            )
        if not asked.work:
            raise ConfigError(
                f"No loss applies to a batch of {' and '.join(batch)}: all its weights "
                "are 0. Set loss.phonon.*, loss.upstream.*, loss.elastic.* or "
                "loss.measured.*, or use every_n_steps=1."
            )
        step = self._take(asked)
        if step.n_splits and not self._splits:
            warnings.warn(_SPLIT, stacklevel=2)
        self._splits += step.n_splits
        return self._log_step(step, batch)

    def _take(self, asked: Requests) -> LocalStep:
        """Take the gradient of a step; of each term, where weights are to be found."""
        work, counts = asked.work, global_counts(asked.counts)
        parameters = [p for p in self.parameters() if p.requires_grad]
        if not (self.balance and self.balance.is_due(asked.weights)):
            weights = self.balance.apply(asked.weights)
            whole = self.replayed or differentiate
            return run_step(work, self._terms, counts, weights, parameters, whole)

        def weigh(gradients: Mapping[str, Gradients]) -> dict[str, float]:
            return self.balance.weigh(asked.weights, gradients, parameters)

        return run_measured_step(work, self._terms, counts, weigh, parameters)

    def _terms(
        self, counts: Mapping[str, torch.Tensor], work: Sequence[Work]
    ) -> dict[str, torch.Tensor]:
        """What some of the structures of a step add to its means."""
        terms: dict[str, TermSum] = {}
        for part in work:
            source, structures, request = part.source, part.structures, part.request
            if part.elastic is not None:
                stiffness = elastic_constants_of(self.model, structures, self._engine)
                for name, term in part.elastic.terms(stiffness, structures).items():
                    terms[f"{source}_{name}"] = term
                continue
            losses, third = self.losses[source], part.third
            with self.head_of(source):
                derivatives = self.model.derivatives(
                    structures,
                    tangents=part.tangents,
                    pairs=None if third is None else third.wanted_pairs,
                    forces="forces" in losses.weights,
                    stress="stress" in losses.weights,
                    engine=self._engine,
                )
            for quantity, term in losses.terms(derivatives, structures).items():
                terms[f"{source}_{quantity}"] = term
            hvp, of_properties = part.share_products(derivatives.hvp)
            if request is not None:
                assert hvp is not None
                terms[f"{source}_hvp"] = request.term(hvp, structures, self.reduction)
            if part.properties is not None:
                for name, term in part.properties.terms(
                    of_properties, structures
                ).items():
                    terms[f"{source}_{name}"] = term
            if third is not None:
                terms[f"{source}_third_order"] = third.term(
                    derivatives.third, structures, self.reduction
                )
        return {
            name: term.total / counts[name].to(term.total.dtype)
            for name, term in terms.items()
        }

    @contextlib.contextmanager
    def head_of(self, source: str) -> Iterator[None]:
        """Use the output head that belongs to a source."""
        kept = self.model.head
        self.model.head = self._heads.get(source, kept)
        try:
            yield
        finally:
            self.model.head = kept

    def _judge_labels(self, batch: Mapping[str, Batch], stage: str) -> None:
        """Look at the labels of the first upstream batch with the base model's eyes."""
        if keys.UPSTREAM in batch and stage in self._unjudged:
            self._unjudged.remove(stage)
            with self.head_of(keys.UPSTREAM):
                warn_of_doubtful_labels(
                    self.model,
                    batch[keys.UPSTREAM],
                    self.losses[keys.UPSTREAM].weights,
                    f"Upstream {stage} data",
                )

    def _log_step(self, step: LocalStep, batch: Mapping[str, Batch]) -> torch.Tensor:
        size = count_structures(batch)
        source = "_".join(batch)
        values = torch.stack([step.loss, *step.terms.values()]).detach()
        values = mean_over_processes(values)
        # To show a loss the progress bar would let the host wait for a GPU.
        shown = values.device.type == "cpu"
        self.log(f"train/{source}_loss", values[0], batch_size=size, prog_bar=shown)
        for name, value in zip(step.terms, values[1:], strict=True):
            self.log(f"train/{name}", value, batch_size=size)
        for name, weight in self.balance.weights.items():
            self.log(f"train/weight_{name}", weight, batch_size=size)
        penalty = self.adaptation.penalty(self.model)
        if penalty is None:
            return step.loss
        # The same on all processes, so that their mean is the penalty itself.
        self.log("train/penalty", penalty.detach(), batch_size=size)
        return step.loss + penalty

    def on_train_epoch_end(self) -> None:
        """Log how often batches were split, summed over all processes."""
        local = torch.tensor(float(self._splits), device=self.device)
        total = self.trainer.strategy.reduce(local, reduce_op="sum")
        self.memory_splits = int(total)
        if self.memory_splits:
            self.log("train/memory_splits", total)

    def on_validation_epoch_start(self) -> None:
        """Start the means anew."""
        self._sums = torch.zeros(
            len(METRICS), 2, dtype=torch.float64, device=self.device
        )

    def validation_step(
        self, batch: Mapping[str, Batch], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add the errors of one batch to the sums."""
        self._judge_labels(batch, "validation")
        for source, structures in batch.items():
            with self.head_of(source):
                errors = find_errors(
                    self.model,
                    source,
                    structures,
                    self._validation_seed,
                    self._engine,
                )
                errors |= self.targets.spectral_errors(self.model, source, structures)
            for name, values in errors.items():
                if (metric := f"{source}/{name}") in METRICS:
                    row = self._sums[METRICS.index(metric)]
                    row += torch.stack(
                        [values.double().sum(), values.new_tensor(len(values)).double()]
                    )

    def on_validation_epoch_end(self) -> None:
        """Log the means over all processes; those without a reference are left out.

        All processes reduce the same fixed list, whatever they have seen, and a NaN
        stays a NaN: a diverged model must not look like a good one.
        """
        sums = self.trainer.strategy.reduce(self._sums, reduce_op="sum")
        for metric, (total, count) in zip(METRICS, sums, strict=True):
            if count > 0:
                self.log(metric, total / count, prog_bar=metric == MONITOR)

    def configure_optimizers(self) -> Any:
        """Optimizer over the trainable parameters, and its schedule."""
        decay = self.adaptation.weight_decay
        groups = decay_groups(self.model, no_decay=self._no_decay, weight_decay=decay)
        if not groups:
            raise ConfigError("The model has no trainable parameter.")
        optimizer = make_optimizer(self._optimizer, groups)
        if self._scheduler is None:
            return optimizer
        scheduler = make_scheduler(self._scheduler, optimizer)
        settings: dict[str, Any] = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            # A plateau is one of the validation error: one look per validation.
            settings |= {"monitor": MONITOR, "strict": False}
            if (epochs := self.trainer.check_val_every_n_epoch) is not None:
                settings |= {"interval": "epoch", "frequency": epochs}
            else:
                settings["frequency"] = self.trainer.val_check_interval
        return {"optimizer": optimizer, "lr_scheduler": settings}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write what is trained only, where anything is not."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["loss_balance"] = self.balance.state_dict()
        if any(not p.requires_grad for p in self.parameters()):
            reduce_checkpoint(checkpoint, self, repr(self.adaptation))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fill in the weights of the base model.

        Raises:
            CheckpointError: It was trained from another one, or otherwise.
        """
        complete_checkpoint(checkpoint, self, repr(self.adaptation))
        self.balance.load_state_dict(checkpoint.get("loss_balance", {}))


def _paper_optimizer(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1e-4, weight_decay=1e-3)
