"""Nequix as a backend: one network as one differentiable energy, without JAX."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.arrangement import Arrangement
from pft_lightning.backends.base import (
    EnergyModel,
    apply_strain,
    edge_vectors,
    element_table,
)
from pft_lightning.backends.nequix import files as nequix_files
from pft_lightning.backends.nequix.groups import group_neighbours
from pft_lightning.backends.nequix.network import NequixNetwork
from pft_lightning.backends.parametrized import plain
from pft_lightning.errors import ConfigError
from pft_lightning.kernels.edges import MOST_ATOMS, pair_edges
from pft_lightning.kernels.messages import can_fuse


@dataclass(frozen=True, slots=True)
class NequixArrangement(Arrangement):
    """How batches are arranged for a Nequix network.

    Attributes:
        sorts_edges: for the compiled messages, where there are not too many atoms.
    """

    sorts_edges: bool

    def complete(self, batch: Batch) -> None:
        """See ``Arrangement.complete``."""
        (centre, neighbour), n_atoms = batch[keys.EDGE_INDEX], batch.num_nodes
        if self.sorts_edges and n_atoms <= MOST_ATOMS:
            batch[keys.SORTED_EDGES] = pair_edges(
                batch[keys.EDGE_INDEX], batch[keys.EDGE_SHIFTS], n_atoms
            )
        else:
            batch[keys.NEIGHBOUR_GROUPS] = group_neighbours(centre, neighbour, n_atoms)


class NequixModel(EnergyModel):
    """A Nequix network (see ``nequix_network``).

    Args:
        network: from ``nequix_files.read``.
        config: of its file.
        file_suffix: form in which it is kept, ``.pt`` or ``.nqx``.
    """

    name = "nequix"
    title = "Nequix"
    radial_networks = ("*.radial_mlp.*",)
    _element_index: torch.Tensor

    def __init__(
        self,
        network: NequixNetwork,
        config: dict[str, Any],
        file_suffix: str = nequix_files.TORCH_SUFFIX,
    ) -> None:
        numbers = sorted(int(z) for z in config["atomic_numbers"])
        super().__init__(cutoff=network.cutoff, atomic_numbers=tuple(numbers))
        self.network = network
        self.config = copy.deepcopy(config)
        self._file_suffix = file_suffix
        self.register_buffer("_element_index", element_table(numbers), persistent=False)

    @property
    def file_suffix(self) -> str:
        """See ``EnergyModel.file_suffix``; that of the file that was loaded."""
        return self._file_suffix

    @property
    def export_suffixes(self) -> tuple[str, ...]:
        """See ``EnergyModel.export_suffixes``."""
        return (nequix_files.TORCH_SUFFIX, nequix_files.JAX_SUFFIX)

    def arrangement(self) -> NequixArrangement:
        """See ``EnergyModel.arrangement``."""
        return NequixArrangement(
            self.name,
            self.cutoff,
            self.atomic_numbers,
            sorts_edges=can_fuse(self.dtype, self.device, self.network.lmax),
        )

    def energy(
        self, batch: Batch, positions: torch.Tensor, strain: torch.Tensor
    ) -> torch.Tensor:
        """See ``EnergyModel.energy``."""
        moved, cell = apply_strain(batch, positions, strain)
        species = self._element_index[batch[keys.ATOMIC_NUMBERS]]
        vectors = edge_vectors(batch, moved, cell)
        if (edges := batch.get(keys.SORTED_EDGES)) is not None:
            energies = self.network(species, vectors[edges.order], edges)
        else:
            groups = batch[keys.NEIGHBOUR_GROUPS].arrange(vectors, self.cutoff)
            energies = self.network(species, groups.vectors, groups)
        total = energies.new_zeros(strain.shape[0])
        return total.index_add(0, batch[keys.STRUCTURE_INDEX], energies)

    def parts(self) -> dict[str, tuple[str, ...]]:
        """See ``EnergyModel.parts``."""
        parts: dict[str, tuple[str, ...]] = {"readout": ("*.readout.*",)}
        for i in range(len(self.network.layers)):
            parts[f"interaction_{i}"] = (f"*.layers.{i}.*",)
        return parts

    def initial_weights(self, seed: int) -> dict[str, torch.Tensor]:
        """See ``EnergyModel.initial_weights``; drawn as Nequix's torch form does."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = nequix_files.build(self.config, Path("config"))
        drawn = dict(network.named_parameters())
        return {f"network.{name}": value.detach() for name, value in drawn.items()}

    def describe_usage(self, name: str) -> str:
        """See ``EnergyModel.describe_usage``."""
        backend = "torch" if name.endswith(nequix_files.TORCH_SUFFIX) else "jax"
        return (
            "```python\nfrom nequix.calculator import NequixCalculator\n\n"
            f'atoms.calc = NequixCalculator(model_path="{name}", backend="{backend}")\n'
            "```"
        )

    @property
    def training_data(self) -> tuple[str, ...]:
        """See ``EnergyModel.training_data``; without folders of other machines."""
        told = self.config.get("train_path") or ()
        paths = [told] if isinstance(told, str) else told
        return tuple(
            dict.fromkeys("/".join(Path(str(path)).parts[-2:]) for path in paths)
        )

    def save(self, path: str | Path) -> None:
        """Write a file for Nequix's own loaders, which go by its ending.

        Args:
            path: file to write; ``.nqx`` makes the JAX form (float32), any other
                ending the torch form.
        """
        nequix_files.write(Path(path), self.config, plain(self.network))


def load(
    path: Path,
    *,
    dtype: torch.dtype | None,
    device: str | torch.device,
    head: str | None,
    trust: bool = False,
) -> NequixModel:
    """Read either form of a Nequix file.

    Raises:
        CheckpointError: see ``nequix_files.read``.
        ConfigError: a head was asked for.
    """
    if head is not None:
        raise ConfigError(f"head={head!r}: Nequix models have no heads; leave it out.")
    config, network, suffix = nequix_files.read(path)
    return NequixModel(network, config, suffix).to(device=device, dtype=dtype)
