"""Structures of several sources, one by one and as the batches of a loader."""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import lightning
import numpy as np
import torch
from ase.data import chemical_symbols
from lightning.fabric.utilities.seed import pl_worker_init_function
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader, Dataset
from torch_geometric.data import Batch, Data
from typing_extensions import Self

from pft_lightning import keys
from pft_lightning.data.batching import (
    BatchKey,
    BatchLimits,
    filler,
    plan_batches,
)
from pft_lightning.data.commensurate import WHOLE, CellChoice, CellSampler
from pft_lightning.data.padding import Padding
from pft_lightning.data.store.reading import PhononStore
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.graphs import build_batch
from pft_lightning.physics.probes import Draws


# Processes that load for one GPU, where nobody says how many. Eight give it more than
# it takes, whatever the cutoff.
MOST_WORKERS = 8


class StructureSource(Protocol):
    """What ``PhononStore`` and ``UpstreamFrames`` have in common."""

    names: list[str]
    n_atoms: np.ndarray
    elements: list[tuple[int, ...]]

    def __len__(self) -> int:
        """Number of structures."""

    @property
    def n_edges(self) -> np.ndarray:
        """(n_structures,), edges of each graph."""

    def data(self, index: int) -> Data:
        """Read one structure in the neutral schema."""

    def subset(self, indices: Sequence[int]) -> Self:
        """Give a view of some structures."""

    def select(self, allowed: Iterable[int]) -> tuple[Self, list[str]]:
        """Keep the structures of these elements; name those left out."""


class Arrangement(Protocol):
    """Makes batches ready for a model: ``backends.arrangement.Arrangement``."""

    cutoff: float

    def trim(self, batch: Batch) -> Batch:
        """Copy of a batch, checked, with the edges that the model needs."""

    def finish(self, batch: Batch) -> Batch:
        """The same batch with all that the model needs beside it."""


class Structures(Dataset[Any]):
    """Structures of several sources under one kind of key.

    Args:
        sources: By name.
        draws: Tangents of the keys that name a step; none if left out.
    """

    def __init__(
        self, sources: dict[str, StructureSource], draws: Draws | None = None
    ) -> None:
        self.sources = sources
        self._draws = draws

    def __getitem__(self, key: BatchKey) -> tuple[str, Data]:
        counted = key.structure >= 0
        index = key.structure if counted else filler(key.structure)
        source = self.sources[key.source]
        if key.q_point == WHOLE:
            data = source.data(index)
        else:
            assert isinstance(source, PhononStore)
            data = source.folded_data(index, key.q_point)
        data[keys.COUNTED] = torch.tensor([counted])
        if not counted:
            for mask in (keys.ENERGY_MASK, keys.FORCES_MASK, keys.STRESS_MASK):
                data[mask] = torch.zeros_like(data[mask])
        if self._draws is not None and key.step is not None:
            self._draw(data, self._draws, key.step)
        return key.source, data

    @staticmethod
    def _draw(data: Data, draws: Draws, step: int) -> None:
        """Add the tangents of a step, and their products in float64."""
        force_constants = data[keys.FORCE_CONSTANTS]
        tangents = draws.tangents(force_constants, data[keys.NAME], step)
        data[keys.TANGENTS] = torch.from_numpy(tangents)
        data[keys.TARGETS] = torch.from_numpy(force_constants.multiply(tangents))
        data[keys.DRAW] = draws.label(step)


class Collate:
    """Group the structures of one step by source; picklable for spawned workers.

    Args:
        arrangement: What is done to each batch for the model that is trained or
            validated; nothing if left out.
        paddings: By source, what fills batches up to few sizes; none if left out.
    """

    def __init__(
        self,
        arrangement: Arrangement | None = None,
        paddings: Mapping[str, Padding] | None = None,
    ) -> None:
        self._arrangement = arrangement
        self._paddings = dict(paddings or {})

    def __call__(self, items: Sequence[tuple[str, Data]]) -> dict[str, Batch]:
        """Make one neutral batch of each source."""
        groups: dict[str, list[Data]] = {}
        for source, data in items:
            groups.setdefault(source, []).append(data)
        batches = {source: build_batch(group) for source, group in groups.items()}
        if self._arrangement is not None:
            batches = {
                source: self._arrange(self._arrangement, source, batch)
                for source, batch in batches.items()
            }
        for batch in batches.values():
            _share_tables(batch)
        return batches

    def _arrange(self, arrangement: Arrangement, source: str, batch: Batch) -> Batch:
        trimmed = arrangement.trim(batch)
        if (padding := self._paddings.get(source)) is not None:
            trimmed = build_batch(padding(trimmed.to_data_list()))
        return arrangement.finish(trimmed)


def _share_tables(batch: Batch) -> None:
    """Let fields whose structures begin at the same places have one table of these.

    Every tensor that another process has loaded is an open file until it is gone, and
    with a table for each field some batches in advance exceed what is allowed (1024).
    """
    for name in ("_slice_dict", "_inc_dict"):
        tables = getattr(batch, name)
        known: dict[tuple[Any, ...], torch.Tensor] = {}
        for field, table in tables.items():
            if isinstance(table, torch.Tensor):
                content = table.dtype, table.shape, *table.flatten().tolist()
                tables[field] = known.setdefault(content, table)


class TrainLoader(DataLoader[Any]):
    """A loader that Lightning may resume in mid-epoch.

    Its sampler starts at the trainer's position by itself, so the state is only
    what must agree for the continuation to be exact.
    """

    fingerprint: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        """Return what the sequence of batches depends on."""
        return dict(self.fingerprint)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse to continue with another sequence of batches.

        Raises:
            ConfigError: Data, batch limits, pattern, seed or number of processes
                differ from those of the checkpoint.
        """
        check_continuation(state, self.fingerprint)


def check_continuation(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raise unless what a sequence of batches depends on is as it was.

    Args:
        saved: From the checkpoint.
        current: Of this run.

    Raises:
        ConfigError: They differ.
    """
    for name, value in current.items():
        if saved.get(name) != value:
            raise ConfigError(
                f"The checkpoint was trained with {name} = {saved.get(name)}, this "
                f"run has {value}: the sequence of batches would not continue. "
                "Resume with the original setting, or start a new run from the "
                "exported model."
            )


def cell_draws(
    store: PhononStore, *, share: float, seed: int
) -> Callable[[int], CellChoice] | None:
    """Choose commensurate cells by epoch; None where all structures stay whole.

    Args:
        store: Of the structures.
        share: Of the draws that take a commensurate cell.
        seed: Of the draws.
    """
    if share == 0:
        return None
    return CellSampler(store.names, store.q_point_orders(), share=share, seed=seed).draw


def describe_set(names: Sequence[str]) -> str:
    """Tell a set of structures from others of the same size by their names."""
    checksum = zlib.crc32("\n".join(names).encode())
    return f"{len(names)} structures, checksum {checksum:08x}"


def hold_out(
    structures: StructureSource, source: str, *, fraction: float, seed: int
) -> tuple[StructureSource, StructureSource]:
    """Split a source at random into training and validation structures.

    Args:
        structures: All of them.
        source: Its name, for messages.
        fraction: Of the structures that is held out for validation; one at least.
        seed: Of the split.
    """
    if len(structures) == 1:
        rank_zero_warn(
            f"The only {source} structure is used for training and validation: "
            "the errors say nothing about others. Give a validation set."
        )
        return structures, structures
    order = np.random.default_rng([seed, 0]).permutation(len(structures))
    n_val = max(1, round(fraction * len(structures)))
    rank_zero_info(
        f"No {source} validation set: {n_val} of {len(structures)} structures are "
        "held out."
    )
    return (
        structures.subset(sorted(order[n_val:].tolist())),
        structures.subset(sorted(order[:n_val].tolist())),
    )


def leave_out_unknown(
    structures: StructureSource, numbers: Sequence[int]
) -> StructureSource:
    """Leave out structures with elements that a model lacks, and say so.

    Args:
        structures: Of a source.
        numbers: Atomic numbers that the model knows.

    Raises:
        DataFormatError: Nothing is left.
    """
    kept, dropped = structures.select(numbers)
    if not dropped:
        return structures
    known = set(numbers)
    lacking = {z for zs in structures.elements for z in zs} - known
    message = (
        f"{len(dropped)} of {len(structures)} structures in {structures} hold "
        f"elements that the model lacks "
        f"({', '.join(chemical_symbols[z] for z in sorted(lacking))}): "
        f"{', '.join(dropped[:10])}{', ...' if len(dropped) > 10 else ''}"
    )
    if len(kept) == 0:
        raise DataFormatError(
            f"{message}. Nothing is left; use a model that covers these elements."
        )
    rank_zero_warn(f"{message}. They are left out.")
    return kept


def loader_options(
    num_workers: int | None, trainer: lightning.Trainer | None
) -> dict[str, Any]:
    """Arguments of a loader: who loads, and into which memory.

    Args:
        num_workers: Processes; None is none on the CPU, whose cores compute, and up to
            ``MOST_WORKERS`` where a GPU computes.
        trainer: That the batches are for.
    """
    on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
    if num_workers is None:
        num_workers = 0
        if on_gpu:
            assert trainer is not None
            cores = len(os.sched_getaffinity(0)) // trainer.num_devices
            num_workers = min(MOST_WORKERS, max(1, cores - 1))
    return {
        "num_workers": num_workers,
        "pin_memory": on_gpu,
        "worker_init_fn": _start_worker,
    }


def _start_worker(number: int) -> None:
    """Leave Ctrl-C, which a terminal sends to all, to the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What Lightning does in workers that have no function of their own.
    pl_worker_init_function(number)


def validation_batches(
    structures: StructureSource, source: str, limits: BatchLimits, rank: int, n: int
) -> list[list[BatchKey]]:
    """The share of a process in a validation set; no structure comes twice.

    Args:
        structures: of the set.
        source: its name.
        limits: of a batch.
        rank: of the process.
        n: number of processes.
    """
    mine = np.arange(rank, len(structures), n)
    if source == keys.PHONON:
        # Every structure has its own number of inequivalent atoms.
        batches = [[int(i)] for i in mine]
    else:
        edges = None if limits.edges is None else structures.n_edges
        plan = plan_batches(mine, structures.n_atoms, edges, limits, 1)
        batches = [ranks[0] for ranks in plan]
    if not batches:
        # Lightning would let a process without any batch skip the validation, and with
        # it the reductions that the others wait in.
        batches = [[filler(0)]]
    return [[BatchKey(source, i) for i in batch] for batch in batches]


def check_trainer(trainer: lightning.Trainer | None) -> None:
    """Refuse what would change the batches of a step.

    Raises:
        ConfigError: batches would be shared twice, or steps be joined.
    """
    if trainer is None:
        return
    if (
        trainer.world_size > 1
        and trainer._accelerator_connector.use_distributed_sampler
    ):
        raise ConfigError(
            "Trainer(use_distributed_sampler=True) would share batches that are "
            "already shared among processes; set it to False."
        )
    if trainer.accumulate_grad_batches != 1:
        raise ConfigError(
            f"trainer.accumulate_grad_batches is "
            f"{trainer.accumulate_grad_batches}; every batch is an optimiser step "
            "of its own, 1 is needed. Use larger batches or more processes."
        )


def count_structures(batch: Mapping[str, Batch]) -> int:
    """Count the structures of one step; what throughput is measured in.

    Those that only fill a batch up to the size of others do not count.
    """
    return sum(
        structures.num_graphs
        - list(getattr(structures, keys.NAME, ())).count(keys.PADDING)
        for structures in batch.values()
    )
