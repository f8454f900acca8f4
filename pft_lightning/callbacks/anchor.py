"""Weights that energies and forces of the base model rest on stay near it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader
from torch.utils.hooks import RemovableHandle
from torch_geometric.data import Batch
from tqdm.auto import tqdm

from pft_lightning import keys
from pft_lightning.adaptation.methods import LoRA, Scratch
from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.registry import load_model
from pft_lightning.data.batching import BatchKey
from pft_lightning.data.loading import Structures
from pft_lightning.errors import CheckpointError, ConfigError, PFTError
from pft_lightning.option_types import (
    AtLeastZero,
    Checkpoint,
    NAtoms,
    NStructures,
    Seed,
)
from pft_lightning.training.information import mean_one, squared_gradients
from pft_lightning.training.module import PhononFineTuning


class FisherAnchor(Callback):
    """Pull weights back to the base model, those that its predictions rest on the most.

    After each step the difference ``d`` of a weight from its start shrinks to
    ``d exp(-lr · strength · f)``. Its ``f`` is the diagonal of the Fisher information
    that energies and forces of upstream frames have of it, each divided by its mean
    over all weights, and the two averaged. It is measured once, at the start; labels
    are not needed. Most of the weights have an ``f`` far below one and are hardly held;
    a few per cent, far above it, hardly move.

    Args:
        strength: Of the pull where ``f`` is one, times the learning rate; 0 leaves
            weights alone.
        n_frames: Frames that the information is measured on, evenly spread over those
            of the training.
        max_atoms: Larger frames are not taken.
        seed: Of the random sums of forces.
        base: Model that weights are held at, and whose predictions count, where the
            training starts from a fine-tuned one; None is what it starts from.

    Raises:
        ConfigError: ``strength`` is negative or not finite, or a number is below 1.

    Source: elastic weight consolidation, arXiv:1612.00796, as a step of its own after
    that of the optimiser, which would divide a term of the loss by its size.
    """

    def __init__(
        self,
        strength: AtLeastZero = 0.0,
        n_frames: NStructures = 60,
        max_atoms: NAtoms = 40,
        seed: Seed = 0,
        base: Checkpoint | None = None,
    ) -> None:
        if not (math.isfinite(strength) and strength >= 0):
            raise ConfigError(f"anchor strength is {strength}; a number of at least 0.")
        if n_frames < 1 or max_atoms < 1:
            raise ConfigError(
                f"anchor n_frames is {n_frames}, max_atoms {max_atoms}; 1 at least."
            )
        self.strength = strength
        self.n_frames = n_frames
        self.max_atoms = max_atoms
        self.seed = seed
        self.base = base
        # By name of a weight: where it started, and its information.
        self._held: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._hooks: list[RemovableHandle] = []

    def setup(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        stage: str,
    ) -> None:
        """Refuse what has no base model to be held at.

        Raises:
            ConfigError: The adaptation trains other numbers than weights.
        """
        if stage == "fit":
            self._held = {}  # of an earlier training; a checkpoint is read after this
        if not self.strength:
            return
        where = f"callbacks.anchor.strength={self.strength:g}"
        if not isinstance(pl_module, PhononFineTuning):
            raise ConfigError(
                f"{where}: {type(pl_module).__name__} has no base model; use it with "
                "pft_lightning.PhononFineTuning."
            )
        if isinstance(pl_module.adaptation, LoRA):
            raise ConfigError(
                f"{where} holds weights, and adaptation=lora trains factors in their "
                "place. Use adaptation=none, delta or freeze, or strength=0."
            )
        if isinstance(pl_module.adaptation, Scratch):
            raise ConfigError(
                f"{where} holds weights at those of the base model, which "
                "adaptation=scratch throws away. Leave one of them out."
            )

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Measure the information, unless a checkpoint brought it.

        Raises:
            ConfigError: The run that is resumed has none, or none for these weights.
        """
        if not self.strength:
            return
        assert isinstance(pl_module, PhononFineTuning)
        trained = _trained(pl_module.model)
        if not self._held and trainer.ckpt_path is not None and self.base is None:
            raise ConfigError(
                f"callbacks.anchor.strength={self.strength:g}: the run that is resumed "
                "began without it, and its checkpoint does not hold the base weights. "
                "Name their file with callbacks.anchor.base=..., or start a new run."
            )
        if not self._held:
            model = self._base_model(pl_module)
            weights = {n: p for n, p in _trained(model).items() if n in trained}
            found = self._measure(trainer, pl_module, model, list(weights.values()))
            self._held = {
                name: (p.detach().clone(), f)
                for (name, p), f in zip(weights.items(), found, strict=True)
            }
        shapes = {name: p.shape for name, p in trained.items()}
        if {name: p.shape for name, (p, _) in self._held.items()} != shapes:
            raise ConfigError(
                "callbacks.anchor: the checkpoint holds other weights than those that "
                "are trained now. Resume with the original adaptation."
            )
        pulls = [
            (p, *(part.to(p) for part in self._held[name]))
            for name, p in trained.items()
        ]

        def pull(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            rate = optimizer.param_groups[0]["lr"]
            with torch.no_grad():
                for weight, start, f in pulls:
                    kept = torch.exp(-rate * self.strength * f)
                    weight.copy_(start + (weight - start) * kept)

        self._hooks = [o.register_step_post_hook(pull) for o in trainer.optimizers]

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Let the weights go."""
        self._release()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Let the weights go."""
        self._release()

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def state_dict(self) -> dict[str, Any]:
        """Where weights started, and their information."""
        return {name: tuple(t.cpu() for t in both) for name, both in self._held.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hold weights where the checkpoint did.

        Raises:
            CheckpointError: It holds something else.
        """
        for name, both in state_dict.items():
            if not _is_pair(both):
                raise CheckpointError(
                    f"The checkpoint is damaged: what callbacks.anchor holds of {name} "
                    "is no weight and its information. Start another run in another "
                    "folder with hydra.run.dir=..."
                )
        self._held = {name: (start, f) for name, (start, f) in state_dict.items()}

    def _base_model(self, module: PhononFineTuning) -> EnergyModel:
        """The model whose weights are held.

        Raises:
            ConfigError: The one that was given has other weights.
        """
        if self.base is None:
            return module.model
        dtype = next(module.model.parameters()).dtype
        head, device = module.model.head, module.device
        try:
            model = load_model(self.base, dtype=dtype, head=head, device=device)
        except PFTError as error:
            raise ConfigError(f"callbacks.anchor.base={self.base}: {error}") from error
        model.requires_grad_(True)
        found = _trained(model)
        for name, parameter in _trained(module.model).items():
            if name not in found or found[name].shape != parameter.shape:
                raise ConfigError(
                    f"callbacks.anchor.base={self.base} has no weight {name} like that "
                    "of the model that is trained. Give the one that it was fine-tuned "
                    "from, with adaptation=none or freeze."
                )
        return model

    def _measure(
        self,
        trainer: lightning.Trainer,
        module: PhononFineTuning,
        model: EnergyModel,
        weights: list[torch.Tensor],
    ) -> list[torch.Tensor]:
        """Information of each weight, from frames that the processes share."""
        loader: Any = trainer.train_dataloader
        if not isinstance(getattr(loader, "dataset", None), Structures):
            raise ConfigError(
                "FisherAnchor takes its frames from pft_lightning.PhononDataModule, "
                "which this training does not use. Leave callbacks.anchor.strength at "
                "0 here."
            )
        frames = self._frames(loader, trainer, module)
        with module.head_of(keys.UPSTREAM):
            model.head = module.model.head
            found = squared_gradients(model, frames, weights, seed=self.seed)
        summed = [
            [trainer.strategy.reduce(p, reduce_op="sum") for p in part]
            for part in found
        ]
        parts = [mean_one(part) for part in summed if any(p.any() for p in part)]
        if not parts or not all(p.isfinite().all() for part in parts for p in part):
            raise ConfigError(
                "callbacks.anchor: energies and forces of the frames do not depend on "
                "the weights that are trained, or are not finite. Leave strength at 0, "
                "or look at the frames."
            )
        return [torch.stack(same).mean(0) for same in zip(*parts, strict=True)]

    def _frames(
        self,
        loader: DataLoader[Any],
        trainer: lightning.Trainer,
        module: PhononFineTuning,
    ) -> Iterator[tuple[int, Batch]]:
        """The frames of this process, one by one, and their numbers."""
        structures = loader.dataset
        assert isinstance(structures, Structures)
        sources = structures.sources
        if keys.UPSTREAM not in sources:
            raise ConfigError(
                "callbacks.anchor: what energies and forces rest on is measured on "
                "upstream frames, and there are none. Set data.upstream.train."
            )
        sizes = sources[keys.UPSTREAM].n_atoms
        small = np.flatnonzero(np.asarray(sizes) <= self.max_atoms)
        if not len(small):
            raise ConfigError(
                f"callbacks.anchor.max_atoms={self.max_atoms}: every upstream frame "
                f"has more atoms ({min(sizes)} at least). Give a larger number."
            )
        chosen = small[evenly(len(small), self.n_frames)]
        mine = chosen[trainer.global_rank :: trainer.world_size]
        for index in tqdm(
            mine,
            desc="what energies and forces rest on",
            leave=False,
            disable=None if trainer.is_global_zero else True,
        ):
            key = BatchKey(keys.UPSTREAM, int(index))
            batches = loader.collate_fn([structures[key]])
            yield int(index), batches[keys.UPSTREAM].to(module.device)


def _trained(model: EnergyModel) -> dict[str, torch.Tensor]:
    """Parameters that a training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def evenly(n: int, wanted: int) -> np.ndarray:
    """Indices of some of n things, the first and the last among them."""
    return np.linspace(0, n - 1, min(n, wanted)).round().astype(int)


def _is_pair(both: object) -> bool:
    """Whether this is a weight and, of the same shape, its information."""
    if not isinstance(both, tuple) or len(both) != 2:
        return False
    if not all(isinstance(part, torch.Tensor) for part in both):
        return False
    start, f = both
    finite = start.isfinite().all() and f.isfinite().all()
    return start.shape == f.shape and bool(finite and (f >= 0).all())
