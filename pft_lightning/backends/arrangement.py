"""What a batch needs before a model computes with it, without the model's weights.

Whether elements are known, which edges are long, what is next to what: all of that is
for the host to know, which would wait for a GPU each time that it asks one. So the
processes that load the data do it (``data.loading.Collate``), for the model that they
were told about, and leave its arrangement in the batch. ``EnergyModel.prepare`` does
the same where a batch has none, or one for another model.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from ase.data import chemical_symbols
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.errors import UnknownElementError
from pft_lightning.graphs import edge_vectors


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How batches are arranged for a model; pickled into the processes of a loader.

    Two are equal where they make the same of a batch. A backend whose ``energy`` needs
    more than its base adds fields and extends ``keeps`` and ``complete``.

    Attributes:
        backend: name of the model's backend.
        cutoff: Å; edges from there on are left out.
        atomic_numbers: that the model knows.
    """

    backend: str
    cutoff: float
    atomic_numbers: tuple[int, ...]

    def __call__(self, batch: Batch) -> Batch:
        """Arrange a copy of a batch, checked, without longer edges.

        Graphs may be cached with a larger cutoff than the model's. Its envelope would
        zero those edges, but they would cost time and memory.

        Args:
            batch: neutral batch, on the CPU.

        Raises:
            UnknownElementError: a structure holds an element that the model lacks.
        """
        return self.finish(self.trim(batch))

    def trim(self, batch: Batch) -> Batch:
        """Copy of a batch, checked, without longer edges; see ``__call__``."""
        self.check_elements(batch[keys.ATOMIC_NUMBERS], batch)
        return drop_edges(batch, self.keeps(batch, edge_lengths(batch)))

    def finish(self, batch: Batch) -> Batch:
        """The same batch with all that the model needs, where ``trim`` made it."""
        self.complete(batch)
        batch[keys.ARRANGEMENT] = self
        return batch

    def keeps(self, batch: Batch, lengths: torch.Tensor) -> torch.Tensor:
        """(n_edges,), bool: which edges the model needs.

        Args:
            batch: on the CPU.
            lengths: (n_edges,), Å.
        """
        return lengths < self.cutoff

    def complete(self, batch: Batch) -> None:
        """Add what ``energy`` needs beside the neutral fields.

        Args:
            batch: on the CPU, with the edges that are kept. What is added is moved with
                it: tensors, tuples of them, and what has ``to`` and ``pin_memory``.
        """

    def check_elements(
        self, atomic_numbers: torch.Tensor, batch: Batch | None = None
    ) -> None:
        """Raise unless the model knows every element.

        Args:
            atomic_numbers: (n_atoms,), on the CPU.
            batch: where they come from, to name the structures in the message.

        Raises:
            UnknownElementError: naming the elements, and the structures if known.
        """
        known = torch.tensor(self.atomic_numbers)
        accepted = torch.isin(atomic_numbers, known)
        if bool(accepted.all()):
            return
        missing = sorted(set(atomic_numbers[~accepted].tolist()))
        symbols = ", ".join(_symbol(z) for z in missing)
        where = ""
        if batch is not None and keys.NAME in batch:
            structures = batch[keys.STRUCTURE_INDEX][~accepted]
            names = [batch[keys.NAME][i] for i in sorted(set(structures.tolist()))]
            where = f" (structures: {', '.join(map(str, names[:5]))}"
            where += ", …)" if len(names) > 5 else ")"
        raise UnknownElementError(
            f"the {self.backend} model has no parameters for {symbols}{where}. It "
            f"knows {', '.join(_symbol(z) for z in self.atomic_numbers)}. Leave these "
            "structures out, or start from a model that covers them."
        )


@torch.no_grad()
def edge_lengths(batch: Batch) -> torch.Tensor:
    """Lengths (n_edges,), Å, at the positions and cells of the batch itself."""
    cell = batch[keys.CELL].reshape(-1, 3, 3)
    return edge_vectors(batch, batch[keys.POSITIONS], cell).norm(dim=1)


def drop_edges(batch: Batch, keep: torch.Tensor) -> Batch:
    """Shallow copy of a batch with some of its edges.

    Args:
        batch: neutral batch, on the CPU.
        keep: (n_edges,), bool.
    """
    batch = copy.copy(batch)
    if bool(keep.all()):
        return batch
    batch[keys.EDGE_INDEX] = batch[keys.EDGE_INDEX][:, keep]
    batch[keys.EDGE_SHIFTS] = batch[keys.EDGE_SHIFTS][keep]
    if hasattr(batch, "_slice_dict"):
        # By these the structures of the batch are told apart again.
        kept = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
        batch._slice_dict = {
            **batch._slice_dict,
            **{
                name: kept[batch._slice_dict[name]]
                for name in (keys.EDGE_INDEX, keys.EDGE_SHIFTS)
            },
        }
    return batch


def _symbol(atomic_number: int) -> str:
    if 0 < atomic_number < len(chemical_symbols):
        return chemical_symbols[atomic_number]
    return f"Z={atomic_number}"
