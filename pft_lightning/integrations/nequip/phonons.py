"""Phonon structures for a training whose data module knows nothing of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from ase.data import chemical_symbols
from lightning.pytorch.utilities import rank_zero_warn
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.base import EnergyModel
from pft_lightning.data.batching import BatchKey, BatchLimits, BatchStream
from pft_lightning.data.loading import (
    Collate,
    Structures,
    cell_draws,
    describe_set,
)
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.sources import Spec
from pft_lightning.data.store import PhononStore, cached_store, choose_cache
from pft_lightning.errors import ConfigError
from pft_lightning.graphs import build_batch


# Files that a message names; the others are counted.
_MAX_NAMED = 5


def open_phonons(
    spec: Spec,
    model: EnergyModel,
    *,
    options: PhononReadOptions,
    cache_dir: str | Path | None,
    progress: bool,
) -> PhononStore:
    """Open a store, or build it on first use, for one model.

    Args:
        spec: File, folder, glob, store or list of them.
        model: Whose cutoff and elements count.
        options: How files are read.
        cache_dir: Where stores are built; None is the user's cache.
        progress: Show a progress bar while building.

    Raises:
        DataFormatError: A path is missing, or nothing in it could be read.
        ConfigError: A structure holds an element that the model lacks, or one for
            which it has no finite energy.
    """
    store = cached_store(
        spec,
        cutoff=model.cutoff,
        cache_dir=choose_cache(cache_dir, "cache_dir"),
        progress=progress,
        **asdict(options),
    )
    if store.report.skipped:
        rank_zero_warn(f"Phonon sources: {store.report.summary()}")
    _check_elements(store, model)
    _check_energies(store, model)
    return store


def _check_elements(store: PhononStore, model: EnergyModel) -> None:
    known = set(model.atomic_numbers)
    lacking = [
        (index, sorted(set(elements) - known))
        for index, elements in enumerate(store.elements)
        if not known >= set(elements)
    ]
    if not lacking:
        return
    lines = [
        f"  {store.record(index).info['source']}: {_symbols(numbers)}"
        for index, numbers in lacking[:_MAX_NAMED]
    ]
    if len(lacking) > _MAX_NAMED:
        lines.append(f"  and {len(lacking) - _MAX_NAMED} more")
    raise ConfigError(
        f"{len(lacking)} of {len(store)} phonon structures hold elements that the "
        f"model lacks; it knows {_symbols(model.atomic_numbers)}. Leave these files "
        "out, or add the elements to the model's type_names and to its data:\n"
        + "\n".join(lines)
    )


def _check_energies(store: PhononStore, model: EnergyModel) -> None:
    """Find elements whose statistics are NaN: those that the frames do not hold."""
    seen: set[int] = set()
    for index, elements in enumerate(store.elements):
        if seen >= set(elements):
            continue
        seen |= set(elements)
        batch = build_batch([store.data(index)]).to(model.device)
        with torch.no_grad():
            energy = model.derivatives(batch, forces=False, stress=False).energy
        if not energy.isfinite().all():
            raise ConfigError(
                f"the energy of {store.record(index).info['source']} "
                f"({_symbols(elements)}) is {float(energy)}: an element is among the "
                "model's type_names but not in its training frames, so that its "
                "statistics are not numbers. Give numbers for its scale and shift, or "
                "leave such files out."
            )


def _symbols(numbers: tuple[int, ...] | list[int]) -> str:
    return ", ".join(chemical_symbols[number] for number in numbers)


class PhononBatches:
    """Phonon structures of one process, as batches that are functions of a position.

    ``read`` takes no loader: the iterator of a torch loader draws from the global
    random generator, and the frames that a training sees beside would then come in
    another order.

    Args:
        store: Structures of all processes.
        n_ranks: Number of processes.
        rank: This process.
    """

    def __init__(self, store: PhononStore, *, n_ranks: int, rank: int) -> None:
        self.store = store
        self.structures = Structures({keys.PHONON: store})
        self._n_ranks = n_ranks
        self._rank = rank

    def stream(
        self, limits: BatchLimits, seed: int, commensurate_share: float
    ) -> BatchStream:
        """Sequence of training batches; epochs are permutations of the structures."""
        return BatchStream(
            self.store.n_atoms,
            self.store.n_edges,
            limits,
            seed=seed,
            n_ranks=self._n_ranks,
            rank=self._rank,
            cells=cell_draws(self.store, share=commensurate_share, seed=seed),
        )

    def read(self, batch: list[BatchKey]) -> Batch:
        """Make a neutral batch of structures and fillers (see ``data.batching``)."""
        return Collate()([self.structures[key] for key in batch])[keys.PHONON]

    def one_by_one(self) -> Iterator[Batch]:
        """Go through this process's share of the structures, none twice."""
        for index in np.arange(self._rank, len(self.store), self._n_ranks):
            yield self.read([BatchKey(keys.PHONON, int(index))])

    def fingerprint(self, limits: BatchLimits) -> dict[str, Any]:
        """What the sequence of training batches depends on besides the seed."""
        return {
            "number of processes": self._n_ranks,
            "phonon batch limits": str(limits),
            "phonon training set": describe_set(self.store.names),
        }


def open_batches(
    spec: Spec,
    model: EnergyModel,
    trainer: lightning.Trainer,
    *,
    options: PhononReadOptions,
    cache_dir: str | Path | None,
) -> PhononBatches:
    """Open the structures of this process; arguments and errors of ``open_phonons``."""
    store = open_phonons(
        spec,
        model,
        options=options,
        cache_dir=cache_dir,
        progress=trainer.global_rank == 0,
    )
    return PhononBatches(store, n_ranks=trainer.world_size, rank=trainer.global_rank)
