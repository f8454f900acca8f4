"""Weights that energies and forces of the base model rest on stay near it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader
from torch_geometric.data import Batch
from tqdm.auto import tqdm

from pft_lightning import keys
from pft_lightning.adaptation.methods import LoRA, Scratch
from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.registry import load_model
from pft_lightning.data.batching import BatchKey
from pft_lightning.data.loading import Structures
from pft_lightning.errors import ConfigError
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
    that energies and forces of training frames have of it, each divided by its mean
    over all weights, and the two averaged. It is measured once, at the start; labels
    are not needed, and without frames the crystals of the phonons are taken. Most of
    the weights have an ``f`` far below one and are hardly held; a few per cent, far
    above it, hardly move.

    Args:
        strength: Of the pull where ``f`` is one, times the learning rate; 0 leaves
            weights alone.
        n_frames: Frames that the information is measured on, evenly spread over those
            of the training.
        max_atoms: Larger frames are not taken.
        seed: Of the random sums of forces.
        base: Model that weights are held at, and whose predictions count, where the
            training starts from a fine-tuned one; None is what it starts from.

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
        self.strength = strength
        self.n_frames = n_frames
        self.max_atoms = max_atoms
        self.seed = seed
        self.base = base
        # By name of a weight: where it started, and its information.
        self._held: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

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
        if not self.strength or stage != "fit":
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
        if not self._held and trainer.ckpt_path is not None:
            raise ConfigError(
                f"callbacks.anchor.strength={self.strength:g}: the run that is resumed "
                "began without it, and its base weights are gone. Set it to 0, or "
                "start a new run."
            )
        if not self._held:
            model = self._base_model(pl_module)
            weights = {n: p for n, p in _trained(model).items() if n in trained}
            found = self._measure(trainer, pl_module, model, list(weights.values()))
            self._held = {
                name: (p.detach().clone(), f)
                for (name, p), f in zip(weights.items(), found, strict=True)
            }
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

        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(pull)

    def state_dict(self) -> dict[str, Any]:
        """Where weights started, and their information."""
        return {name: tuple(t.cpu() for t in both) for name, both in self._held.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hold weights where the checkpoint did."""
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
        model = load_model(self.base, dtype=dtype, head=head, device=device)
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
            parts = squared_gradients(model, frames, weights, seed=self.seed)
        summed = (
            [trainer.strategy.reduce(p, reduce_op="sum") for p in part]
            for part in parts
        )
        try:
            of_energies, of_forces = map(mean_one, summed)
        except ArithmeticError as error:
            raise ConfigError(
                f"callbacks.anchor: energies or forces of the frames do not depend on "
                f"the weights ({error})."
            ) from error
        return [(e + f) / 2 for e, f in zip(of_energies, of_forces, strict=True)]

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
        source = keys.UPSTREAM if keys.UPSTREAM in sources else keys.PHONON
        sizes = sources[source].n_atoms
        small = [i for i, n in enumerate(sizes) if n <= self.max_atoms]
        if not small:
            raise ConfigError(
                f"callbacks.anchor.max_atoms={self.max_atoms}: every structure has "
                f"more atoms ({min(sizes)} at least). Give a larger one."
            )
        chosen = small[:: max(1, len(small) // self.n_frames)][: self.n_frames]
        mine = chosen[trainer.global_rank :: trainer.world_size]
        for index in tqdm(
            mine,
            desc="what energies and forces rest on",
            leave=False,
            disable=None if trainer.is_global_zero else True,
        ):
            batches = loader.collate_fn([structures[BatchKey(source, int(index))]])
            yield int(index), batches[source].to(module.device)


def _trained(model: EnergyModel) -> dict[str, torch.Tensor]:
    """Parameters that a training changes, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
