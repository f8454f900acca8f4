"""The interface of a backend: one potential as one differentiable energy."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from ase.data import chemical_symbols
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.arrangement import Arrangement
from pft_lightning.errors import CheckpointError, ConfigError

# Backends of other packages import it from here.
from pft_lightning.graphs import edge_vectors as edge_vectors
from pft_lightning.physics.hvp import compute_derivatives
from pft_lightning.types import Derivatives, Engine


# Å; graphs of a larger one do not fit into any memory.
LARGEST_CUTOFF = 100.0


class EnergyModel(torch.nn.Module, ABC):
    """A potential whose parameters are the parameters of this module.

    A subclass implements ``energy`` and ``save``; all derivatives follow. It must
    not detach positions or strain, nor compute forces inside.

    Attributes:
        name: of the backend, as in the registry.
        title: the same in prose.
        cutoff: Å; a graph must hold every pair within it.
        atomic_numbers: the elements that the model knows, ascending.
        head: output head in use; None where the framework has no heads.
        radial_networks: shell patterns of the parameters of networks that act on
            distances.
    """

    name: str = "base"
    title: str = "base"
    radial_networks: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        cutoff: float,
        atomic_numbers: tuple[int, ...],
        head: str | None = None,
    ) -> None:
        super().__init__()
        self.cutoff = float(cutoff)
        self.atomic_numbers = tuple(sorted(int(z) for z in atomic_numbers))
        self.head = head

    @abstractmethod
    def energy(
        self, batch: Batch, positions: torch.Tensor, strain: torch.Tensor
    ) -> torch.Tensor:
        """Energies of a batch at the given positions and strain.

        Args:
            batch: prepared batch (see ``prepare``); its own positions are not read.
            positions: (n_atoms, 3), Å.
            strain: (n_structures, 3, 3), symmetrised inside and applied to the
                positions and the cell.

        Returns:
            (n_structures,), eV.
        """

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write the model in its framework's own format.

        Args:
            path: file to write; an existing one is replaced.
        """

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    @property
    def input_dtype(self) -> torch.dtype:
        """Floating-point type of positions, and so of energies and derivatives."""
        return self.dtype

    @property
    def file_suffix(self) -> str:
        """How the name of a saved file should end, for the framework's own tools."""
        return ".pt"

    @property
    def export_suffixes(self) -> tuple[str, ...]:
        """Endings of all files that ``save`` can write; it goes by them."""
        return (self.file_suffix,)

    def describe_usage(self, name: str) -> str:
        """How a file of this model is loaded, as Markdown for its model card.

        Args:
            name: of the file.
        """
        return (
            "```python\nimport pft_lightning as pft\n\n"
            f'atoms.calc = pft.Calculator(pft.load_model("{name}"))\n```'
        )

    @property
    def training_data(self) -> tuple[str, ...]:
        """Names of the data that the model was trained on, where its file has them."""
        return ()

    def remark_on(self, path: Path) -> str | None:
        """What one who saves the model must know of the file, if anything."""
        return None

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of all output heads; none where the framework has no heads."""
        return ()

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Named parts of the network: shell patterns of their parameters' names."""
        return {}

    def initial_weights(self, seed: int) -> dict[str, torch.Tensor]:
        """Parameters as the framework draws them before any training.

        Statistics of the training data (atomic energies, scales and shifts of the
        energy) are not among them.

        Args:
            seed: of the draw; global random states are left alone.

        Returns:
            By name, each of the shape of the parameter.

        Raises:
            ConfigError: the backend, or this file of it, cannot tell.
        """
        raise ConfigError(
            f"adaptation=scratch: {self.name} models cannot be initialised anew. Use "
            "another adaptation."
        )

    def add_head(
        self, head: str, source: str, atomic_energies: Mapping[str, float]
    ) -> None:
        """Add an output head with the weights of another, and put it to use.

        Args:
            head: name of the new head.
            source: name of the head to copy.
            atomic_energies: by chemical symbol, eV, of isolated atoms for the new
                head; those of the source for elements that are not named.

        Raises:
            ConfigError: the backend has no heads, or a name is not right.
        """
        raise ConfigError(
            f"adaptation=multihead: {self.name} models have no heads. Use model=mace, "
            "or another adaptation with upstream data."
        )

    def derivatives(
        self,
        batch: Batch,
        *,
        tangents: torch.Tensor | None = None,
        pairs: torch.Tensor | None = None,
        strain_tangents: torch.Tensor | None = None,
        strain_pairs: torch.Tensor | None = None,
        forces: bool = True,
        stress: bool = True,
        engine: Engine | None = None,
    ) -> Derivatives:
        """Energy, forces, stress and higher derivatives of a neutral batch.

        Args:
            batch: neutral batch of any float dtype, on the model's device. Edges
                beyond the cutoff are dropped; missing ones are the loader's fault.
            tangents: (n_atoms, n_probes, 3).
            pairs: (n_atoms, n_pairs, 2, 3), of third derivatives.
            strain_tangents: (n_structures, n_probes, 3, 3), strains of the same
                directions, in ASE's convention (symmetric, applied to positions and
                cell); with them the change of dE/dstrain comes back too.
            strain_pairs: (n_structures, n_pairs, 2, 3, 3), strains of the pairs.
            forces: return forces.
            stress: return the stress (zero for structures that are not periodic).
            engine: see ``pft_lightning.physics.hvp.compute_derivatives``.

        Raises:
            UnknownElementError: a structure holds an element that the model lacks.
        """
        batch = self.prepare(batch)
        return compute_derivatives(
            partial(self.energy, batch),
            batch[keys.POSITIONS],
            structure_volumes(batch),
            tangents=tangents,
            pairs=pairs,
            strain_tangents=strain_tangents,
            strain_pairs=strain_pairs,
            forces=forces,
            stress=stress,
            engine=engine,
        )

    def arrangement(self) -> Arrangement:
        """How batches are arranged for this model, as and where it is now."""
        return Arrangement(self.name, self.cutoff, self.atomic_numbers)

    def prepare(self, batch: Batch) -> Batch:
        """Copy of a batch in the model's dtype, arranged for it.

        The host waits for no GPU where a loader has arranged the batch already.

        Raises:
            UnknownElementError: a structure holds an element that the model lacks.
        """
        arrangement = self.arrangement()
        prepared = copy.copy(batch)
        if batch.get(keys.ARRANGEMENT) != arrangement:
            device = batch[keys.POSITIONS].device
            prepared = arrangement(prepared.to("cpu")).to(device)
        for name in (keys.POSITIONS, keys.CELL):
            prepared[name] = prepared[name].to(self.input_dtype)
        return prepared


def check_elements(path: Path, atomic_numbers: object) -> list[int]:
    """Refuse a file that does not list elements, each once.

    Args:
        path: named in the message.
        atomic_numbers: of the file.

    Returns:
        The same.

    Raises:
        CheckpointError: it lists something else.
    """
    numbers = atomic_numbers if isinstance(atomic_numbers, list) else []
    known = range(1, len(chemical_symbols))
    right = all(isinstance(z, int) and z in known for z in numbers)
    if not right or not numbers or len(set(numbers)) < len(numbers):
        raise CheckpointError(
            f"{path}: atomic_numbers={str(atomic_numbers)[:100]}; expected different "
            f"ones from 1 to {known[-1]}."
        )
    return numbers


def element_table(atomic_numbers: Sequence[int]) -> torch.Tensor:
    """Atomic number to its place in a list; -1 for elements that are not in it."""
    table = torch.full((len(chemical_symbols),), -1, dtype=torch.int64)
    table[list(atomic_numbers)] = torch.arange(len(atomic_numbers))
    return table


def structure_volumes(batch: Batch) -> torch.Tensor:
    """Volumes (n_structures,), Å³; 0 for structures that are not periodic."""
    cell = batch[keys.CELL].reshape(-1, 3, 3)
    periodic = batch[keys.PBC].reshape(-1, 3).any(dim=1)
    # Not torch.linalg.det, which calls a library of its own on a GPU.
    faces = torch.linalg.cross(cell[:, 1], cell[:, 2])
    return torch.where(periodic, (cell[:, 0] * faces).sum(dim=1).abs(), 0.0)


def apply_strain(
    batch: Batch, positions: torch.Tensor, strain: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Strained positions (n_atoms, 3) and cells (n_structures, 3, 3).

    Args:
        batch: neutral batch.
        positions: (n_atoms, 3), Å.
        strain: (n_structures, 3, 3); its symmetric part acts.
    """
    symmetric = (strain + strain.transpose(-1, -2)) / 2
    cell = batch[keys.CELL].reshape(-1, 3, 3)
    per_atom = symmetric[batch[keys.STRUCTURE_INDEX]]
    moved = positions + torch.einsum("na,nab->nb", positions, per_atom)
    return moved, cell + cell @ symmetric


def check_model(model: object) -> None:
    """Refuse what is no potential of a backend.

    Raises:
        ConfigError: says what it is.
    """
    if not isinstance(model, EnergyModel):
        raise ConfigError(
            f"model is a {type(model).__name__}; expected one from pft.load_model."
        )
