"""Which structures form which batch: deterministic, stateless, the same on every rank.

Everything here is a pure function of the seed and of the position in training, so
a resumed run continues exactly where it stopped, no sampler state has to be kept,
and no rank can wait for a batch that another rank does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from pft_lightning import keys
from pft_lightning.data.commensurate import WHOLE, CellChoice
from pft_lightning.errors import ConfigError


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one batch of one process may hold.

    Attributes:
        structures: Largest number of structures.
        atoms: Largest number of atoms, or None.
        edges: Largest number of edges, or None.
    """

    structures: int
    atoms: int | None = None
    edges: int | None = None

    def __post_init__(self) -> None:
        for name in ("structures", "atoms", "edges"):
            value = getattr(self, name)
            if value is None and name != "structures":
                continue
            if not isinstance(value, Integral) or value < 1:
                raise ConfigError(
                    f"Batch limit on {name} is {value!r}; expected a whole number of "
                    "at least 1."
                )

    def allows(self, structures: int, atoms: int, edges: int) -> bool:
        """Tell whether a batch of this content is within the limits."""
        return (
            structures <= self.structures
            and (self.atoms is None or atoms <= self.atoms)
            and (self.edges is None or edges <= self.edges)
        )


def filler(index: int) -> int:
    """Mark a structure as one that counts neither in losses nor in metrics."""
    return ~index


class _Shares:
    """Structures of one step by rank.

    Args:
        sizes: Atoms, edges and work of each structure.
        limits: Of one rank.
        n_ranks: Number of processes.
    """

    def __init__(
        self, sizes: list[tuple[int, int, int]], limits: BatchLimits, n_ranks: int
    ) -> None:
        self._sizes = sizes
        self._limits = limits
        self._loads = [(0, 0, 0)] * n_ranks
        self.ranks: list[list[int]] = [[] for _ in range(n_ranks)]

    def place(self, index: int) -> bool:
        """Give a structure to the rank with the least work that has room for it."""
        size = self._sizes[index]
        for rank in sorted(range(len(self.ranks)), key=self._work):
            content, load = self.ranks[rank], self._loads[rank]
            atoms, edges = load[0] + size[0], load[1] + size[1]
            if not content or self._limits.allows(len(content) + 1, atoms, edges):
                content.append(index)
                self._loads[rank] = (atoms, edges, load[2] + size[2])
                return True
        return False

    def _work(self, rank: int) -> tuple[int, int]:
        # Structures without edges are no work, and must not all go to one rank.
        return self._loads[rank][2], len(self.ranks[rank])

    def balanced(self) -> list[list[int]]:
        """Share the same structures again, the largest first, where all find room."""
        together = [index for rank in self.ranks for index in rank]
        together.sort(key=lambda index: (-self._sizes[index][2], index))
        again = _Shares(self._sizes, self._limits, len(self.ranks))
        if len(self.ranks) == 1 or not all(map(again.place, together)):
            return self.ranks
        return again.ranks


def plan_batches(
    order: np.ndarray,
    n_atoms: np.ndarray,
    n_edges: np.ndarray | None,
    limits: BatchLimits,
    n_ranks: int,
) -> list[list[list[int]]]:
    """Fill global batches in the given order and share each among the ranks.

    A structure goes to the rank with the least work so far; a global batch closes when
    the next structure fits nowhere, and is shared anew from its largest structure
    down (Graham's rule for the last rank to finish soon). A structure that exceeds the
    limits on its own gets a rank to itself. Every rank has at least one structure in
    every batch: where the last batch has too few, a filler that does not count
    (``filler``).

    Args:
        order: Structure indices in the order of the epoch.
        n_atoms: Atoms of each structure.
        n_edges: Edges of each structure, which are its work; None where they are not
            known, and atoms are. Needed where the limits bound edges.
        limits: Of one rank.
        n_ranks: Number of processes.

    Returns:
        ``plan[batch][rank]``, lists of structure indices and fillers.
    """
    work = n_atoms if n_edges is None else n_edges
    edges = np.zeros_like(n_atoms) if n_edges is None else n_edges
    sizes = list(zip(n_atoms.tolist(), edges.tolist(), work.tolist(), strict=True))
    plan: list[list[list[int]]] = []
    shares = _Shares(sizes, limits, n_ranks)
    for index in order.tolist():
        if not shares.place(index):
            plan.append(shares.balanced())
            shares = _Shares(sizes, limits, n_ranks)
            shares.place(index)
    if any(shares.ranks):
        plan.append([rank or [filler(int(order[0]))] for rank in shares.balanced()])
    return plan


class BatchKey(NamedTuple):
    """One structure of a batch.

    Attributes:
        source: That it is of.
        structure: Its index in that source, or a filler.
        q_point: Number of the q-point whose commensurate cell is taken, or ``WHOLE``.
        step: Of the training, at which tangents are drawn; None where none are.
    """

    source: str
    structure: int
    q_point: int = WHOLE
    step: int | None = None


class BatchStream:
    """An endless sequence of batches of one source; each epoch is a permutation.

    Args:
        n_atoms: Atoms of each structure.
        n_edges: Edges of each structure, or None where they are not known.
        limits: Of one rank.
        seed: Of the permutations.
        n_ranks: Number of processes.
        rank: This process.
        cells: Which cells the structures are taken in, by epoch; batches are filled
            with the sizes of these. The structures as they are if left out.
    """

    def __init__(
        self,
        n_atoms: np.ndarray,
        n_edges: np.ndarray | None,
        limits: BatchLimits,
        *,
        seed: int,
        n_ranks: int = 1,
        rank: int = 0,
        cells: Callable[[int], CellChoice] | None = None,
    ) -> None:
        self._n_atoms = np.asarray(n_atoms)
        self._n_edges = n_edges
        self._limits = limits
        self._seed = seed
        self._n_ranks = n_ranks
        self._rank = rank
        self._choose_cells = cells
        self._starts = [0]  # position of the first batch of each epoch seen so far
        self._plan_epoch(0)
        self._starts.append(len(self._plan))

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches of the first epoch; others may differ a little."""
        return self._starts[1]

    def _plan_epoch(self, epoch: int) -> None:
        order = np.random.default_rng([self._seed, epoch]).permutation(
            len(self._n_atoms)
        )
        n_atoms, n_edges = self._n_atoms, self._n_edges
        self._epoch, self._cells = epoch, None
        if self._choose_cells is not None:
            self._cells = self._choose_cells(epoch)
            n_atoms = np.rint(n_atoms * self._cells.shares).astype(np.int64)
            if n_edges is not None:
                # Every atom keeps its neighbours, now also those in other images.
                n_edges = np.rint(n_edges * self._cells.shares).astype(np.int64)
        self._plan = plan_batches(order, n_atoms, n_edges, self._limits, self._n_ranks)

    def batch(self, position: int) -> list[int]:
        """Return the structures of this rank in the batch at ``position``."""
        while self._starts[-1] <= position:
            self._plan_epoch(len(self._starts) - 1)
            self._starts.append(self._starts[-1] + len(self._plan))
        epoch = int(np.searchsorted(self._starts, position, side="right")) - 1
        if epoch != self._epoch:
            self._plan_epoch(epoch)
        return self._plan[position - self._starts[epoch]][self._rank]

    def keys(
        self, source: str, position: int, step: int | None = None
    ) -> list[BatchKey]:
        """Return the same batch as keys, with the cell of every structure."""
        batch = self.batch(position)
        if self._cells is None:
            return [BatchKey(source, index, step=step) for index in batch]
        q_points = self._cells.q_points
        return [
            BatchKey(
                source, index, int(q_points[index if index >= 0 else ~index]), step
            )
            for index in batch
        ]


class InterleavedSampler(Sampler[list[BatchKey]]):
    """Batches of some sources in a fixed pattern, from a given position on.

    ``alternate``: one phonon batch, then ``upstream_per_phonon`` upstream batches, one
    elastic batch and one of measured values, each an optimiser step of its own.
    ``joint``: every step holds one batch of each. Without the other streams all batches
    are phonon batches.

    An epoch is one pass over the phonon source. Iterating yields the batches from
    ``position()`` to the end of the epoch that it lies in.

    Args:
        phonon: Stream of phonon batches.
        upstream: Stream of upstream batches, or None.
        elastic: Stream of elastic batches, or None.
        measured: Stream of batches of measured values, or None.
        upstream_per_phonon: Upstream batches after each phonon batch.
        joint: One step holds a batch of each.
        position: Tells how many batches training has consumed; asked whenever an
            epoch starts.
    """

    def __init__(
        self,
        phonon: BatchStream,
        upstream: BatchStream | None,
        elastic: BatchStream | None = None,
        measured: BatchStream | None = None,
        *,
        upstream_per_phonon: int,
        joint: bool = False,
        position: Callable[[], int] = lambda: 0,
    ) -> None:
        self._phonon = phonon
        self._joint = joint
        # Streams beside the phonons, and how many batches of each follow one of these.
        others = [(keys.UPSTREAM, upstream, upstream_per_phonon)]
        others += [(keys.ELASTIC, elastic, 1), (keys.MEASURED, measured, 1)]
        self._others = [
            (source, stream, 1 if joint else count)
            for source, stream, count in others
            if stream is not None
        ]
        counts = [0 if joint else count for _, _, count in self._others]
        self._period = 1 + sum(counts)
        self._position = position

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        return self._phonon.batches_per_epoch * self._period

    def at(self, position: int) -> list[BatchKey]:
        """Return the batch that a training step consumes."""
        cycle, offset = divmod(position, self._period)
        batch: list[BatchKey] = []
        if offset == 0:
            batch += self._phonon.keys(keys.PHONON, cycle, step=position)
        first = 0 if self._joint else 1  # offset of the first batch of a stream
        for source, stream, count in self._others:
            if first <= offset < first + count:
                batch += stream.keys(source, cycle * count + offset - first)
            first += 0 if self._joint else count
        return batch

    def __iter__(self) -> Iterator[list[BatchKey]]:
        """Yield the remaining batches of the current epoch."""
        start = self._position()
        end = (start // len(self) + 1) * len(self)
        for position in range(start, end):
            yield self.at(position)
