"""Frames from MACE's own data sets, in MACE's own order, interleaved with phonons."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pft_lightning import keys
from pft_lightning.data.batching import BatchKey, BatchStream
from pft_lightning.data.datamodule import PhononDataModule
from pft_lightning.data.loading import (
    Collate,
    Structures,
    StructureSource,
    TrainLoader,
    check_trainer,
    hold_out,
)
from pft_lightning.data.records import symbols_of
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.integrations.mace.prepare import Prepared, default_dtype


class ShuffledEpochs:
    """The batches of every epoch that a loader of MACE would make.

    The numbers are drawn by a loader of the same kind over plain indices, so that they
    agree by construction, from the state in which MACE's generator begins to train.
    Processes share batches that are larger by their number.

    Args:
        loader: of MACE; not iterated, and left as it is.
        n_ranks: number of processes.
        rank: of this one.

    Raises:
        ConfigError: there are too few frames for one batch.
    """

    def __init__(self, loader: Any, n_ranks: int = 1, rank: int = 0) -> None:
        self._n_ranks, self._rank = n_ranks, rank
        self._state = loader.generator.get_state()
        self._generator = torch.Generator()
        self._indices: DataLoader[Any] = DataLoader(
            range(len(loader.dataset)),  # type: ignore[arg-type]
            batch_size=loader.batch_size * n_ranks,
            shuffle=True,
            drop_last=loader.drop_last,
            generator=self._generator,
            collate_fn=list,
        )
        self._epoch = -1
        self._batches: list[list[int]] = []
        if len(self) == 0:
            several = f" in each of {n_ranks} processes" if n_ranks > 1 else ""
            raise ConfigError(
                f"{len(loader.dataset)} training frames make no batch of batch_size="
                f"{loader.batch_size}{several}: the incomplete one is left out. Lower "
                "batch_size."
            )

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._indices)

    @property
    def fingerprint(self) -> str:
        """What the order depends on."""
        state = zlib.crc32(self._state.numpy().tobytes())
        size, batch = len(self._indices.dataset), self._indices.batch_size  # type: ignore[arg-type]
        return f"{size} frames in batches of {batch}, random state {state:08x}"

    def batch(self, epoch: int, position: int) -> list[int]:
        """Frames of one batch, those of this process."""
        if epoch < self._epoch or self._epoch < 0:
            self._generator.set_state(self._state)
            self._epoch = -1
        while self._epoch < epoch:
            self._batches = list(self._indices)
            self._epoch += 1
        return self._batches[position][self._rank :: self._n_ranks]


class EpochSampler(Sampler[list[BatchKey]]):
    """Batches of frames in MACE's order, and phonons between them.

    An epoch is one pass over the frames. A batch of phonons comes before the first
    and after every n-th batch of frames, or, jointly, with every one.

    Args:
        frames: batches of frames.
        phonons: batches of phonons; None for frames alone.
        frames_per_phonon: batches of frames after each batch of phonons.
        joint: each step has a batch of both.
        position: steps that training has taken; asked whenever an epoch starts.
    """

    def __init__(
        self,
        frames: ShuffledEpochs,
        phonons: BatchStream | None,
        *,
        frames_per_phonon: int,
        joint: bool,
        position: Callable[[], int] = lambda: 0,
    ) -> None:
        self._frames = frames
        self._phonons = phonons
        self._period = frames_per_phonon + 1
        self._alternates = phonons is not None and not joint
        self._position = position

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        n_frames = len(self._frames)
        return n_frames + self._phonons_per_epoch if self._alternates else n_frames

    @property
    def _phonons_per_epoch(self) -> int:
        return -(-len(self._frames) // (self._period - 1))

    def at(self, position: int) -> list[BatchKey]:
        """Return the batch that a training step consumes."""
        epoch, offset = divmod(position, len(self))
        if not self._alternates:
            batch = self._of_frames(epoch, offset)
            if self._phonons is None:
                return batch
            return batch + self._of_phonons(position, position)
        cycle, place = divmod(offset, self._period)
        if place == 0:
            nth = epoch * self._phonons_per_epoch + cycle
            return self._of_phonons(nth, position)
        return self._of_frames(epoch, offset - cycle - 1)

    def _of_frames(self, epoch: int, position: int) -> list[BatchKey]:
        return [BatchKey(keys.UPSTREAM, i) for i in self._frames.batch(epoch, position)]

    def _of_phonons(self, position: int, step: int) -> list[BatchKey]:
        assert self._phonons is not None
        return self._phonons.keys(keys.PHONON, position, step)

    def __iter__(self) -> Iterator[list[BatchKey]]:
        """Yield the remaining batches of the current epoch."""
        start = self._position()
        end = (start // len(self) + 1) * len(self)
        for position in range(start, end):
            yield self.at(position)


class _Items(Dataset[Any]):
    """Phonon structures in the neutral schema, frames as MACE's own graphs."""

    def __init__(self, phonons: Structures, frames: Any, dtype: torch.dtype) -> None:
        self._phonons = phonons
        self._frames = frames
        self._dtype = dtype

    def __getitem__(self, key: BatchKey) -> tuple[str, Any]:
        if key[0] == keys.PHONON:
            return self._phonons[key]
        with default_dtype(self._dtype):
            return keys.UPSTREAM, self._frames[key[1]]


class _Collate:
    """Group the structures of one step; frames become a batch of MACE's."""

    def __init__(self, frames: Callable[[list[Any]], Any], phonons: Collate) -> None:
        self._frames = frames
        self._phonons = phonons

    def __call__(self, items: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = self._phonons(
            [item for item in items if item[0] == keys.PHONON]
        )
        if frames := [data for source, data in items if source == keys.UPSTREAM]:
            found[keys.UPSTREAM] = self._frames(frames)
        return found


class MACEDataModule(PhononDataModule):
    """Interleave phonon structures with the frames that MACE would train on.

    An epoch is one pass over the frames, as in MACE. With ``mode="alternate"``, a
    batch of phonons precedes every ``upstream_per_phonon`` batches of frames.

    Args:
        prepared: by MACE.
        train_phonons: whether phonons are trained on, or validated only.
        **settings: as of ``PhononDataModule``.

    Raises:
        ConfigError: no frames would be trained on.
    """

    def __init__(
        self, prepared: Prepared, *, train_phonons: bool, **settings: Any
    ) -> None:
        super().__init__(**settings)
        if self.upstream_per_phonon < 1:
            raise ConfigError(
                f"data.upstream_per_phonon is {self.upstream_per_phonon}; with "
                "mace_config at least 1: its epochs are passes over the frames. To "
                "train on phonons alone, give model.checkpoint without mace_config."
            )
        self._prepared = prepared
        self._dtype = next(prepared.network.parameters()).dtype
        self._trains_phonons = train_phonons

    @property
    def counts(self) -> dict[str, int]:
        """Structures per source and set."""
        loaders = self._prepared.valid_loaders.values()
        return super().counts | {
            "upstream_train": len(self._prepared.train_loader.dataset),
            "upstream_val": sum(len(loader.dataset) for loader in loaders),
        }

    def setup(self, stage: str) -> None:
        """Open the phonon sources; the frames are there."""
        if self.phonons.train is None and self.phonons.val is None:
            return
        if self._val:
            return
        train = None
        if self.phonons.train is not None:
            train = self._restrict(self._open_store(self.phonons.train))
        if self.phonons.val is not None:
            val = self._restrict(self._open_store(self.phonons.val))
        else:
            assert train is not None
            train, val = hold_out(
                train, keys.PHONON, fraction=self.val_fraction, seed=self.seed
            )
        self._val[keys.PHONON] = val
        if train is not None and self._trains_phonons:
            self._train[keys.PHONON] = train

    def _restrict(self, structures: StructureSource) -> StructureSource:
        """Refuse elements that the network lacks: MACE drops those without frames."""
        known = set(self.atomic_numbers or ())
        lacking = {z for zs in structures.elements for z in zs} - known
        if lacking:
            raise DataFormatError(
                f"{structures} holds {symbols_of(lacking)}; the network that MACE "
                f"builds for this training knows {symbols_of(known)}, the elements of "
                "its frames. Set foundation_model_elements: true to keep those of the "
                "foundation model, or atomic_numbers and E0s to name them, or leave "
                "these structures out."
            )
        return structures

    def train_dataloader(self) -> DataLoader[Any]:
        """One loader over both sources."""
        n_ranks, rank = self._ranks()
        check_trainer(self.trainer)
        frames = self._prepared.train_loader
        order = ShuffledEpochs(frames, n_ranks, rank)
        phonons = self._train.get(keys.PHONON)
        sampler = EpochSampler(
            order,
            None
            if phonons is None
            else self._stream(keys.PHONON, phonons, n_ranks, rank),
            frames_per_phonon=self.upstream_per_phonon,
            joint=self.mode == "joint",
            position=self._position,
        )
        options = self._loader_options()
        structures = Structures(self._train, self._draws)
        loader = TrainLoader(
            _Items(structures, frames.dataset, self._dtype),
            batch_sampler=sampler,
            collate_fn=_Collate(frames.collate_fn, Collate(self._arrangement())),
            persistent_workers=options["num_workers"] > 0,
            **options,
        )
        loader.fingerprint = {
            **self._fingerprint(n_ranks),
            "training frames": order.fingerprint,
        }
        return loader

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """One loader for phonons, one for the frames of each head.

        Processes share the batches of frames, which stay as they are: MACE's loss of
        a batch depends on what else is in it.
        """
        n_ranks, rank = self._ranks()
        loaders = super().val_dataloader()
        for loader in self._prepared.valid_loaders.values():
            n_frames, size = len(loader.dataset), loader.batch_size
            batches = [
                [BatchKey(keys.UPSTREAM, i) for i in range(s, min(s + size, n_frames))]
                for s in range(rank * size, n_frames, n_ranks * size)
            ]
            loaders.append(
                DataLoader(
                    _Items(Structures({}), loader.dataset, self._dtype),
                    # An empty batch where there are too few: Lightning would let the
                    # process skip the validation, in which the others wait for it.
                    batch_sampler=batches or [[]],
                    collate_fn=_Collate(loader.collate_fn, Collate()),
                    **self._loader_options(),
                )
            )
        return loaders
