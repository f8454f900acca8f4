"""Structures of all sources of a training as one interleaved stream of batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import lightning
import torch
from lightning.pytorch.utilities import rank_zero_warn
from pydantic import Field
from torch.utils.data import DataLoader
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.data.batching import (
    BatchLimits,
    BatchStream,
    InterleavedSampler,
)
from pft_lightning.data.commensurate import CellChoice
from pft_lightning.data.elastic import ElasticCrystals
from pft_lightning.data.loading import (
    Arrangement,
    Collate,
    Structures,
    StructureSource,
    TrainLoader,
    cell_draws,
    check_trainer,
    describe_set,
    hold_out,
    leave_out_unknown,
    loader_options,
    validation_batches,
)
from pft_lightning.data.measured.crystals import Relax
from pft_lightning.data.measured.source import MeasuredValues
from pft_lightning.data.opening import open_crystals, open_frames, open_measured
from pft_lightning.data.padding import Padding
from pft_lightning.data.settings import (
    ElasticSource,
    MeasuredSource,
    PhononSource,
    UpstreamSource,
)
from pft_lightning.data.sources import Spec
from pft_lightning.data.store import PhononStore, cached_store, choose_cache
from pft_lightning.data.upstream import UpstreamFrames
from pft_lightning.errors import ConfigError
from pft_lightning.option_types import As, Given, Natural, Processes, Seed, Text, Words
from pft_lightning.physics.probes import Draws


Mode = Literal["alternate", "joint"]

_SEEDS = {keys.PHONON: 0, keys.UPSTREAM: 1_000_003, keys.ELASTIC: 2_000_029}
_SEEDS[keys.MEASURED] = 3_000_017

_Folder = Annotated[Text | None, Words("a folder, or null")]


class PhononDataModule(lightning.LightningDataModule):
    """Interleave phonon structures with energy, force and stress frames.

    A training batch is a dict of neutral batches by source. In ``alternate`` mode
    one phonon batch is followed by ``upstream_per_phonon`` upstream batches, and by an
    elastic and a measured one where there are such crystals, each an optimiser step; in
    ``joint`` mode each step holds one batch of each. An epoch is one pass over the
    phonon structures; others go round at their own pace. The sequence is a function of
    the seed and the step alone, the same on all ranks up to the share of each, and
    continues exactly after a resume.

    Phonon sources are read once into a store (``pft-prepare``), on first use if need
    be. Structures with elements that the model lacks are left out and counted.

    Args:
        phonons: Phonon structures.
        upstream: Upstream frames.
        elastic: Crystals with elastic constants or moduli.
        measured: Measured frequencies, densities of states and thermal properties.
        cutoff: Å, of the model; taken from the trainer's module if left out.
        atomic_numbers: Elements of the model; likewise.
        mode: ``alternate``, one optimiser step per batch, or ``joint``, each step sums
            a batch of each source.
        upstream_per_phonon: Upstream batches after each phonon batch; 0 is none.
        val_fraction: Share held out where a source has no validation set.
        num_workers: Processes of each loader; null is none on the CPU and up to 8 where
            a GPU computes.
        cache_dir: Folder where stores are built on first use; None is the user's cache.
        seed: Seed of permutations and splits.
    """

    def __init__(
        self,
        phonons: Annotated[PhononSource, As(dict[str, Any])],
        upstream: Annotated[UpstreamSource | None, As(dict[str, Any] | None)] = None,
        elastic: Annotated[ElasticSource | None, As(dict[str, Any] | None)] = None,
        measured: Annotated[MeasuredSource | None, As(dict[str, Any] | None)] = None,
        *,
        cutoff: Annotated[float | None, Given()] = None,
        atomic_numbers: Annotated[Sequence[int] | None, Given()] = None,
        mode: Mode = "alternate",
        upstream_per_phonon: Natural = 4,
        val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1,
        num_workers: Processes | None = None,
        cache_dir: Annotated[str | Path | None, As(_Folder)] = None,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        if not isinstance(phonons, PhononSource):
            found = type(phonons).__name__
            raise ConfigError(f"phonons is a {found}; expected pft.PhononSource.")
        if mode not in get_args(Mode):
            modes = ", ".join(get_args(Mode))
            raise ConfigError(f"data.mode is {mode!r}; expected one of {modes}.")
        if upstream_per_phonon < 0:
            raise ConfigError(
                f"data.upstream_per_phonon is {upstream_per_phonon}; at least 0."
            )
        if not 0 < val_fraction < 1:
            raise ConfigError(f"data.val_fraction is {val_fraction}; between 0 and 1.")
        self.phonons = phonons
        self.upstream = upstream or UpstreamSource()
        self.elastic = elastic or ElasticSource()
        self.measured = measured or MeasuredSource()
        self.cutoff = cutoff
        self.atomic_numbers = atomic_numbers
        self.mode = mode
        self.upstream_per_phonon = upstream_per_phonon
        self.val_fraction = val_fraction
        self.num_workers = num_workers
        self.cache_dir = choose_cache(cache_dir, "data.cache_dir")
        self.seed = seed
        self._draws: Draws | None = None
        self._relax: Relax | None = None
        self._train: dict[str, StructureSource] = {}
        self._val: dict[str, StructureSource] = {}

    @property
    def counts(self) -> dict[str, int]:
        """Structures per source and set."""
        return {
            f"{source}_{name}": len(subset)
            for name, subsets in (("train", self._train), ("val", self._val))
            for source, subset in subsets.items()
        }

    @property
    def n_third_order(self) -> int:
        """Training structures with third-order force constants."""
        store = self._train.get(keys.PHONON)
        return int(store.has_third_order.sum()) if isinstance(store, PhononStore) else 0

    def use_draws(self, draws: Draws) -> None:
        """Give training structures with the tangents of their step (``HessianLoss``).

        They come in commensurate cells where the probe wants it; validation keeps
        supercells.
        """
        self._draws = draws

    def use_relaxation(self, relax: Relax) -> None:
        """Give what relaxes crystals where ``measured.relax`` asks for it."""
        self._relax = relax

    def use_measured(self, quantities: Collection[str]) -> None:
        """Keep the measured values that a loss has a weight for (``MeasuredLoss``).

        Raises:
            ConfigError: None is left for the training.
        """
        for name, subsets in (("train", self._train), ("val", self._val)):
            values = subsets.pop(keys.MEASURED, None)
            if not isinstance(values, MeasuredValues):
                continue
            if kept := values.only(quantities):
                subsets[keys.MEASURED] = kept
            elif name == "train":
                raise ConfigError(
                    f"data.measured.train has {', '.join(values.quantities)}, and "
                    "loss.measured has a weight for none of it. Set one above 0."
                )

    def prepare_data(self) -> None:
        """Build the stores that do not exist yet; Lightning calls it on one process."""
        for spec in (self.phonons.train, self.phonons.val):
            if spec is not None:
                self._open_store(spec)

    def setup(self, stage: str) -> None:
        """Open all sources, leave out unknown elements and split."""
        if self._train:
            return
        for source, spec, read in (
            (keys.PHONON, self.phonons, self._open_store),
            (keys.UPSTREAM, self.upstream, self._open_frames),
            (keys.ELASTIC, self.elastic, self._open_crystals),
            (keys.MEASURED, self.measured, self._open_measured),
        ):
            train = None if spec.train is None else self._restrict(read(spec.train))
            val = None if spec.val is None else self._restrict(read(spec.val))
            if train is not None and val is None:
                train, val = hold_out(
                    train, source, fraction=self.val_fraction, seed=self.seed
                )
            if train is not None:
                self._train[source] = train
            if val is not None:
                self._val[source] = val
        if self.upstream_per_phonon == 0 and self.mode == "alternate":
            self._train.pop(keys.UPSTREAM, None)
        if keys.UPSTREAM not in self._train:
            rank_zero_warn(
                "Training on phonons alone: nothing keeps the potential from "
                "forgetting energies, forces and stresses. Set data.upstream.train."
            )

    def _restrict(self, structures: StructureSource) -> StructureSource:
        """Leave out structures with elements that the model lacks."""
        numbers = self.atomic_numbers
        if numbers is None:
            numbers = self._model().atomic_numbers
        return leave_out_unknown(structures, numbers)

    def _module(self) -> Any:
        """What the trainer trains, if it does."""
        return None if self.trainer is None else self.trainer.lightning_module

    def _model(self) -> Any:
        """The potential of the trainer's module."""
        model = getattr(self._module(), "model", None)
        if model is None:
            raise ConfigError(
                "PhononDataModule needs cutoff=... and atomic_numbers=... unless a "
                "trainer runs it with PhononFineTuning."
            )
        return model

    def _arrangement(self) -> Arrangement | None:
        """What makes batches ready for the model; None without a trainer's module."""
        model = getattr(self._module(), "model", None)
        arrangement = getattr(model, "arrangement", None)
        return None if arrangement is None else arrangement()

    def _paddings(self) -> dict[str, Padding]:
        """What fills training batches up, where steps are recorded for some sizes."""
        arrangement = self._arrangement()
        if arrangement is None or getattr(self._module(), "replayed", None) is None:
            return {}
        return {
            source: Padding(self._limits(source).structures, arrangement.cutoff)
            for source in self._train
        }

    def _loader_options(self) -> dict[str, Any]:
        return loader_options(self.num_workers, self.trainer)

    def _cutoff(self) -> float:
        return self.cutoff if self.cutoff is not None else float(self._model().cutoff)

    def _open_store(self, spec: Spec) -> PhononStore:
        store = cached_store(
            spec,
            cutoff=self._cutoff(),
            cache_dir=self.cache_dir,
            progress=self._ranks()[1] == 0,
            **asdict(self.phonons.options),
        )
        if store.report.skipped or store.report.warnings:
            rank_zero_warn(f"Phonon sources: {store.report.summary()}")
        return store

    def _open_frames(self, spec: Spec) -> UpstreamFrames:
        return open_frames(spec, self._cutoff(), self.upstream)

    def _open_crystals(self, spec: Spec) -> ElasticCrystals:
        return open_crystals(spec, self._cutoff())

    def _open_measured(self, spec: Spec) -> MeasuredValues:
        return open_measured(spec, self._cutoff(), self.measured, self._relax)

    def train_dataloader(self) -> DataLoader[Any]:
        """One loader over all sources."""
        n_ranks, rank = self._ranks()
        check_trainer(self.trainer)
        if keys.ELASTIC in self._train and self._paddings():
            raise ConfigError(
                "cuda_graphs=true does not repeat steps with elastic constants. Leave "
                "it out, or set data.elastic.train=null."
            )
        streams = {
            source: self._stream(source, subset, n_ranks, rank)
            for source, subset in self._train.items()
        }
        sampler = InterleavedSampler(
            streams[keys.PHONON],
            streams.get(keys.UPSTREAM),
            streams.get(keys.ELASTIC),
            streams.get(keys.MEASURED),
            upstream_per_phonon=self.upstream_per_phonon,
            joint=self.mode == "joint",
            position=self._position,
        )
        options = self._loader_options()
        loader = TrainLoader(
            Structures(self._train, self._draws),
            batch_sampler=sampler,
            collate_fn=Collate(self._arrangement(), self._paddings()),
            persistent_workers=options["num_workers"] > 0,
            **options,
        )
        loader.fingerprint = self._fingerprint(n_ranks)
        return loader

    def _position(self) -> int:
        """Batches that training has consumed so far."""
        if self.trainer is None:
            return 0
        return self.trainer.global_step

    def _ranks(self) -> tuple[int, int]:
        if self.trainer is None:
            return 1, 0
        return self.trainer.world_size, self.trainer.global_rank

    def _limits(self, source: str) -> BatchLimits:
        bounds: Any = {
            keys.PHONON: self.phonons,
            keys.UPSTREAM: self.upstream,
            keys.ELASTIC: self.elastic,
            keys.MEASURED: self.measured,
        }[source]
        return BatchLimits(bounds.batch_size, bounds.max_atoms, bounds.max_edges)

    def _stream(
        self, source: str, subset: StructureSource, n_ranks: int, rank: int
    ) -> BatchStream:
        limits = self._limits(source)
        # A store knows its edges; those of frames take a pass over all of them.
        known = source == keys.PHONON or limits.edges is not None
        return BatchStream(
            subset.n_atoms,
            subset.n_edges if known else None,
            limits,
            # Different permutations, also where sources have the same size.
            seed=self.seed + _SEEDS[source],
            n_ranks=n_ranks,
            rank=rank,
            cells=self._cells(subset) if source == keys.PHONON else None,
        )

    def _cells(self, subset: StructureSource) -> Callable[[int], CellChoice] | None:
        assert isinstance(subset, PhononStore)
        share = 0.0 if self._draws is None else self._draws.probe.commensurate_share
        return cell_draws(subset, share=share, seed=self.seed)

    def _fingerprint(self, n_ranks: int) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "number of processes": n_ranks,
            "data.mode": self.mode,
            "data.upstream_per_phonon": self.upstream_per_phonon,
            **{
                f"{source} batch limits": str(self._limits(source))
                for source in self._train
            },
            **{
                f"{source} training set": describe_set(subset.names)
                for source, subset in self._train.items()
            },
        }

    def transfer_batch_to_device(
        self, batch: Mapping[str, Batch], device: torch.device, dataloader_idx: int
    ) -> dict[str, Batch]:
        """Copy a batch from pinned memory while the device computes."""
        return {
            source: structures.to(device, non_blocking=device.type == "cuda")
            for source, structures in batch.items()
        }

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """One loader per source; each process has its share, none twice."""
        n_ranks, rank = self._ranks()
        return [
            DataLoader(
                Structures(self._val),
                batch_sampler=validation_batches(
                    subset, source, self._limits(source), rank, n_ranks
                ),
                collate_fn=Collate(self._arrangement()),
                **self._loader_options(),
            )
            for source, subset in self._val.items()
        ]
