"""Data modules of NequIP with a second loader, of phonon structures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities import CombinedLoader
from nequip.data.datamodule import ASEDataModule, NequIPDataModule
from torch.utils.data import DataLoader, Sampler

from pft_lightning import keys
from pft_lightning.data.batching import BatchKey, BatchLimits, BatchStream
from pft_lightning.data.loading import Collate
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.sources import Spec
from pft_lightning.data.store import choose_cache
from pft_lightning.errors import ConfigError
from pft_lightning.integrations.nequip.options import build_options, read_options
from pft_lightning.integrations.nequip.phonons import PhononBatches, open_batches
from pft_lightning.integrations.nequip.term import NequIPHvpTerm


# What a training step gets: frames for nequip, and the phonon batch of this step.
FRAMES, PHONONS = "frames", "phonons"


@dataclass(frozen=True, slots=True)
class PhononLoading:
    """The ``phonons`` block of a data module.

    Attributes:
        train: File, folder, glob, store or list of them, in any format that
            ``pft-prepare`` reads. Read once, into a store.
        val: The same, for validation; none if left out.
        batch_size: Phonon structures per process and step.
        max_atoms: Atoms of phonon structures per process and step, or None.
        max_edges: Edges per process and step, or None.
        num_workers: Processes that read training batches; 0 reads them in the main
            process.
        options: How phonon files are read.
        cache_dir: Where stores are built on first use; None is the user's cache.

    Raises:
        ConfigError: A number is out of its range.
    """

    train: Spec
    val: Spec | None = None
    batch_size: int = 4
    max_atoms: int | None = None
    max_edges: int | None = None
    num_workers: int = 0
    options: PhononReadOptions = field(default_factory=PhononReadOptions)
    cache_dir: str | Path | None = None

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ConfigError(
                f"data.phonons.num_workers is {self.num_workers}; at least 0."
            )
        self.limits()
        choose_cache(self.cache_dir, "data.phonons.cache_dir")
        # A dataclass that is frozen can set its own attributes in no other way.
        object.__setattr__(self, "options", read_options(self.options))

    def limits(self) -> BatchLimits:
        """What one batch of one process may hold."""
        return BatchLimits(self.batch_size, self.max_atoms, self.max_edges)


class _StepSampler(Sampler[list[BatchKey]]):
    """The phonon batches of the training steps to come, empty where none is due."""

    def __init__(self, stream: BatchStream, term: NequIPHvpTerm) -> None:
        self._stream = stream
        self._term = term

    def __iter__(self) -> Iterator[list[BatchKey]]:
        for step in itertools.count(self._term.phonon_steps):
            position = self._term.position(step)
            if position is None:
                yield []
            else:
                yield self._stream.keys(keys.PHONON, position)


class PhononLoader:
    """Phonon batches from the step that training has come to, without an end.

    It is no torch loader: Lightning would put a distributed sampler into one, and
    share batches that are already shared among the processes.

    Args:
        batches: Structures of this process.
        stream: In which order.
        term: Counts the steps.
        num_workers: Processes that read.
        n_steps: Training batches of an epoch, which Lightning asks for.
    """

    def __init__(
        self,
        batches: PhononBatches,
        stream: BatchStream,
        term: NequIPHvpTerm,
        *,
        num_workers: int,
        n_steps: int,
    ) -> None:
        self._loader: DataLoader[Any] = DataLoader(
            batches.structures,
            batch_sampler=_StepSampler(stream, term),
            collate_fn=Collate(),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            # Its iterator draws a number; not from the generator of the frames.
            generator=torch.Generator().manual_seed(term.seed),
        )
        self._n_steps = n_steps

    def __len__(self) -> int:
        """Training batches of an epoch, of all processes."""
        return self._n_steps

    def __iter__(self) -> Iterator[Any]:
        """Start at the current step when the first batch is asked for.

        Lightning asks for iterators that it does not use.
        """
        yield from self._loader


class PhononNequIPDataModule(NequIPDataModule):
    """Frames as in ``NequIPDataModule``, and beside each batch one of phonons.

    An epoch is one pass over the frames, as without phonons; structures go round at
    their own pace, each pass in another order. Which structures a step gets is a
    function of the seed of the training module and of the number of steps. Statistics
    are those of the frames.

    It goes with ``PhononLightningModule`` or ``PhononEMALightningModule``. Without a
    trainer, as in ``nequip-package``, it gives frames only and opens no phonons.

    For other data modules of NequIP, inherit from this class and from them.

    Args:
        phonons: See ``PhononLoading``.
        **kwargs: Of the data module of NequIP.

    Raises:
        ConfigError: ``phonons`` has unknown options, or lacks ``train``.
    """

    def __init__(self, *, phonons: Mapping[str, Any], **kwargs: Any) -> None:
        options = build_options(PhononLoading, phonons, name="data.phonons")
        super().__init__(**kwargs)
        self.phonons = PhononLoading(**options)
        self.val_phonons: PhononBatches | None = None
        self._train_phonons: tuple[PhononBatches, BatchStream, NequIPHvpTerm] | None
        self._train_phonons = None

    def setup(self, stage: str) -> None:
        """Check that the module of the trainer takes phonons.

        Raises:
            ConfigError: It does not.
        """
        module = None if self.trainer is None else self.trainer.lightning_module
        if (
            module is not None
            and stage == "fit"
            and not hasattr(module, "hessian_term")
        ):
            raise ConfigError(
                f"data._target_ is {type(self).__name__}, which brings phonons, but "
                f"training_module._target_ is {type(module).__name__}, which does not "
                "take them. Use pft_lightning.integrations.nequip."
                "PhononEMALightningModule or PhononLightningModule."
            )
        super().setup(stage)

    def open_phonons(
        self, term: NequIPHvpTerm, trainer: lightning.Trainer, stage: str
    ) -> None:
        """Open the phonons for a network; the training module calls it.

        Args:
            term: Attached to the network.
            trainer: Of the run.
            stage: ``fit`` or ``validate``.

        Raises:
            ConfigError: A structure holds an element that the model lacks.
            DataFormatError: A path is missing, or nothing in it could be read.
        """

        def batches(spec: Spec) -> PhononBatches:
            return open_batches(
                spec,
                term.model,
                trainer,
                options=self.phonons.options,
                cache_dir=self.phonons.cache_dir,
            )

        if self.phonons.val is not None:
            self.val_phonons = batches(self.phonons.val)
        if stage == "fit":
            train = batches(self.phonons.train)
            stream = term.open_stream(train, self.phonons.limits())
            self._train_phonons = train, stream, term

    def train_dataloader(self) -> Any:
        """Frames, and with a trainer the phonons of the same step."""
        frames = super().train_dataloader()
        if self._train_phonons is None:
            return frames
        phonons = PhononLoader(
            *self._train_phonons,
            num_workers=self.phonons.num_workers,
            n_steps=len(frames),
        )
        return CombinedLoader({FRAMES: frames, PHONONS: phonons}, "min_size")

    def teardown(self, stage: str) -> None:
        """Let go of the structures, and of the processes that read them."""
        super().teardown(stage)
        self._train_phonons = self.val_phonons = None


class PhononASEDataModule(PhononNequIPDataModule, ASEDataModule):
    """Frames as in ``ASEDataModule``, and phonons; see ``PhononNequIPDataModule``."""
