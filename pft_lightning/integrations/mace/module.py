"""The training step of MACE on its frames, ours on phonons, of one network."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch_geometric.data import Data

from pft_lightning import keys
from pft_lightning.adaptation import LoRA
from pft_lightning.backends.mace.model import MACEModel
from pft_lightning.backends.mace.state import keep_global_state
from pft_lightning.integrations.mace.clipping import Bystanders
from pft_lightning.integrations.mace.prepare import Prepared
from pft_lightning.integrations.mace.schedule import EpochSchedule
from pft_lightning.losses import absolute_errors, doubtful_labels
from pft_lightning.training.module import PhononFineTuning
from pft_lightning.training.validation import METRICS, tell_doubts
from pft_lightning.types import Derivatives


with keep_global_state():
    from mace.tools.scripts_utils import get_optimizer, get_params_options

# MACE's loss of the validation frames, of the head that it looks at.
UPSTREAM_LOSS = "upstream/loss"
_SCHEDULE = "mace_schedule"


class MACEFineTuning(PhononFineTuning):
    """Train a MACE network as ``mace_run_train`` does, and on phonons between.

    On frames, MACE's own loss is taken of what MACE's own forward gives; groups of
    parameters, optimiser and schedule are MACE's too. Without phonons the sequence of
    losses is that of ``mace_run_train``.

    Besides the validation metrics of ``PhononFineTuning``, ``upstream/loss`` is the
    loss of the validation frames (of the last head, as in MACE; those of the others
    are called ``upstream/loss_HEAD``).

    Args:
        model: the network that MACE prepared.
        prepared: by MACE.
        **settings: as of ``PhononFineTuning``; those of upstream frames, the optimiser
            and the schedule have no effect.
    """

    def __init__(self, model: MACEModel, prepared: Prepared, **settings: Any) -> None:
        super().__init__(model, upstream_weights={}, **settings)
        self._arguments = prepared.arguments
        self._outputs = dict(prepared.outputs)
        # In a tuple: not a part of the network, and not in its checkpoints.
        self._first_loss = (prepared.loss,)
        self._schedule: EpochSchedule | None = None
        self._stored_schedule: dict[str, Any] | None = None
        self._has_frames = False
        self._loss_sums = torch.zeros(len(model.heads), 2, dtype=torch.float64)
        if prepared.arguments.foundation_model is None:
            self._unjudged.clear()  # weights that were just drawn can judge no data
        self._last_head = model.heads.index(list(prepared.valid_loaders)[-1])
        # With low-rank differences MACE, too, fixes all that it has loaded.
        clips = self._arguments.clip_grad is not None
        counts = clips and not isinstance(self.adaptation, LoRA)
        self._bystanders = Bystanders(
            self._network, prepared.network if counts else None
        )

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """MACE's loss of the frames plus ours of the phonons."""
        parts = []
        if keys.UPSTREAM in batch:
            frames = batch[keys.UPSTREAM]
            # With several processes MACE scales its share of the mean over the frames
            # of all, so that the mean over processes is that of one large batch.
            output = self._predict(frames, training=True)
            self._judge_frames(frames, output, "training")
            loss = self._loss(pred=output, ref=frames, ddp=self.trainer.world_size > 1)
            value = self.trainer.strategy.reduce(
                loss.detach().clone(), reduce_op="mean"
            )
            size = frames.num_graphs
            self.log("train/upstream_loss", value, batch_size=size, prog_bar=True)
            parts.append(loss)
        if phonons := {k: v for k, v in batch.items() if k != keys.UPSTREAM}:
            with self._bystanders.left_out():
                parts.append(super().training_step(phonons, batch_idx))
        self._has_frames = keys.UPSTREAM in batch
        return torch.stack(parts).sum()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as MACE does, whose norm counts more than the optimiser's parameters."""
        if gradient_clip_algorithm == "value":  # asked for on the command line
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )
        elif gradient_clip_val is not None:
            self._bystanders.clip(
                self._network, gradient_clip_val, counted=self._has_frames
            )

    @property
    def _network(self) -> torch.nn.Module:
        network = self.model.network
        assert isinstance(network, torch.nn.Module)
        return network

    @property
    def _loss(self) -> torch.nn.Module:
        return self._first_loss[0] if self._schedule is None else self._schedule.loss

    def _predict(self, frames: Any, *, training: bool) -> dict[str, Any]:
        output: dict[str, Any] = self._network(
            frames.to_dict(),
            training=training,
            compute_force=self._outputs["forces"],
            compute_virials=self._outputs["virials"],
            compute_stress=self._outputs["stress"],
        )
        return output

    def _judge_frames(self, frames: Any, output: Mapping[str, Any], stage: str) -> None:
        """Look at the labels of the first frames with the foundation model's eyes."""
        if stage in self._unjudged:
            self._unjudged.remove(stage)
            reasons = doubtful_labels(
                *_neutral(frames, output), weight="+mace.{}_weight"
            )
            tell_doubts(reasons, f"Upstream {stage} data", frames.num_graphs)

    def on_train_start(self) -> None:
        """Go on with the gradients that stay."""
        self._bystanders.start()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Before the first batch of an epoch, do what MACE does between epochs."""
        super().on_train_batch_start(batch, batch_idx)
        assert self._schedule is not None
        epoch = self.trainer.global_step // int(self.trainer.num_training_batches)
        if self._schedule.start_epoch(epoch):
            self._forget_best_losses()
        present = self.trainer.current_epoch
        # MACE validates after the first epoch, Lightning after the n-th.
        self.trainer.check_val_every_n_epoch = (
            1 if self._schedule.validation_due else present + 2
        )

    def on_train_epoch_end(self) -> None:
        """End where MACE's count of epochs does."""
        super().on_train_epoch_end()
        assert self._schedule is not None
        if self._schedule.complete:
            self.trainer.should_stop = True

    def on_validation_model_zero_grad(self) -> None:
        """Clear the gradients, without those that MACE never clears."""
        with self._bystanders.preserve_gradients():
            super().on_validation_model_zero_grad()

    def _forget_best_losses(self) -> None:
        """The losses of stage two do not compare with those before."""
        for callback in self.trainer.checkpoint_callbacks:
            if (
                isinstance(callback, ModelCheckpoint)
                and callback.monitor is not None
                and callback.monitor.startswith(UPSTREAM_LOSS)
            ):
                callback.best_k_models.clear()
                callback.best_model_score = None
                callback.kth_best_model_path = callback.best_model_path = ""

    def on_validation_epoch_start(self) -> None:
        """Start the means anew."""
        super().on_validation_epoch_start()
        self._loss_sums = torch.zeros_like(self._loss_sums, device=self.device)

    def validation_step(
        self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Add the errors of one batch to the sums; it may be empty."""
        if not batch:
            return
        if keys.UPSTREAM not in batch:
            super().validation_step(batch, batch_idx, dataloader_idx)
            return
        frames = batch[keys.UPSTREAM]
        with torch.enable_grad():
            output = self._predict(frames, training=False)
        with torch.no_grad():
            loss = self._loss(pred=output, ref=frames, ddp=False)
            errors = _errors(frames, output)
            self._judge_frames(frames, output, "validation")
        self._loss_sums[int(frames.head[0])] += torch.stack(
            [loss.double(), loss.new_tensor(frames.num_graphs).double()]
        )
        for name, values in errors.items():
            row = self._sums[METRICS.index(f"{keys.UPSTREAM}/{name}")]
            row += torch.stack(
                [values.double().sum(), values.new_tensor(len(values)).double()]
            )

    def on_validation_epoch_end(self) -> None:
        """Log the means, and let MACE's schedule see its loss."""
        super().on_validation_epoch_end()
        sums = self.trainer.strategy.reduce(self._loss_sums, reduce_op="sum")
        for head, (total, count) in enumerate(sums):
            if count > 0:
                suffix = "" if head == self._last_head else f"_{self.model.heads[head]}"
                self.log(UPSTREAM_LOSS + suffix, total / count)
        if self.trainer.state.fn == TrainerFn.FITTING:
            assert self._schedule is not None
            total, count = sums[self._last_head]
            if self._schedule.end_validation(float(total / count)):
                self.trainer.should_stop = True

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """MACE's optimiser of MACE's groups of parameters."""
        # What is frozen is the adaptation's to say.
        arguments = argparse.Namespace(**{**vars(self._arguments), "freeze": None})
        options = get_params_options(arguments, self._network)
        optimizer: torch.optim.Optimizer = get_optimizer(self._arguments, options)
        self._schedule = EpochSchedule(
            self._arguments,
            self._network,
            optimizer,
            self._first_loss[0],
            self.model.dtype,
        )
        if self._stored_schedule is not None:
            self._schedule.load_state_dict(self._stored_schedule)
        return optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of the schedule, and gradients that stay."""
        with self._bystanders.left_out():
            super().on_save_checkpoint(checkpoint)
        self._bystanders.save(checkpoint)
        if self._schedule is not None:
            checkpoint[_SCHEDULE] = self._schedule.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the state of the schedule; see ``PhononFineTuning`` for the weights."""
        with self._bystanders.left_out():
            super().on_load_checkpoint(checkpoint)
        self._bystanders.load(checkpoint)
        self._stored_schedule = checkpoint.get(_SCHEDULE)


def _errors(frames: Any, output: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Mean absolute errors of each frame that counts, see ``efs_errors``."""
    found = absolute_errors(*_neutral(frames, output))
    return {name: rows[mask] for name, (rows, mask) in found.items()}


def _neutral(frames: Any, output: Mapping[str, Any]) -> tuple[Derivatives, Any]:
    """Output and labels of MACE in the neutral schema, masked where none counts."""
    targets: dict[str, torch.Tensor] = {}
    counts = frames.weight > 0
    for name in ("energy", "forces", "stress"):
        if output.get(name) is not None:
            targets[name] = frames[name]
            targets[f"{name}_mask"] = counts & (frames[f"{name}_weight"] > 0)
    batch = Data(
        **targets, **{keys.STRUCTURE_INDEX: frames.batch, "num_graphs": len(counts)}
    )
    derivatives = Derivatives(
        energy=output["energy"],
        forces=output.get("forces"),
        stress=output.get("stress"),
    )
    return derivatives, batch
