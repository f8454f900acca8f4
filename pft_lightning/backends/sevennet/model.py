"""SevenNet as a backend: one network as one differentiable energy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sevenn._keys as names
import torch
from e3nn.o3 import spherical_harmonics
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.arrangement import Arrangement
from pft_lightning.backends.base import (
    EnergyModel,
    apply_strain,
    edge_vectors,
    element_table,
)
from pft_lightning.backends.convolutions import (
    Convolutions,
    FusedProduct,
    exchanged_forwards,
    find_products,
)
from pft_lightning.backends.copying import deep_copy
from pft_lightning.backends.parametrized import plain
from pft_lightning.backends.replaced import derived_by_forms
from pft_lightning.backends.sevennet import files as sevennet_files
from pft_lightning.backends.sevennet.files import (
    find_foundation_model as find_foundation_model,
)
from pft_lightning.errors import ConfigError
from pft_lightning.kernels.edges import MOST_ATOMS, Edges, pair_edges
from pft_lightning.physics.exact import contains_torchscript, exact_torchscript


_LAYER = re.compile(r"^(\d+)_convolution$")
# Modules that make inputs of the network, which ``energy`` gives it.
_INPUTS = ("onehot_idx_to_onehot", "one_hot_modality")


@dataclass(frozen=True, slots=True)
class SevenNetArrangement(Arrangement):
    """How batches are arranged for a SevenNet network.

    Attributes:
        pairs_edges: for the compiled messages, where there are not too many atoms.
    """

    pairs_edges: bool

    def complete(self, batch: Batch) -> None:
        """See ``Arrangement.complete``."""
        if self.pairs_edges and batch.num_nodes <= MOST_ATOMS:
            batch[keys.SORTED_EDGES] = pair_edges(
                batch[keys.EDGE_INDEX], batch[keys.EDGE_SHIFTS], batch.num_nodes
            )


class SevenNetModel(EnergyModel):
    """The energy part of a SevenNet network.

    Args:
        network: ``AtomGraphSequential``, from ``sevennet_files.read``.
        config: of its file.
        head: modality; needed where the network has several.

    Raises:
        ConfigError: unknown modality, or none given where there are several.
    """

    name = "sevennet"
    title = "SevenNet"
    radial_networks = ("*.weight_nn.*",)
    network: Any
    _element_index: torch.Tensor

    def __init__(
        self, network: torch.nn.Module, config: Mapping[str, Any], head: str | None
    ) -> None:
        places: dict[int, int] = config[names.TYPE_MAP]
        several = config.get(names.USE_MODALITY, False)
        self._modalities: dict[str, int] = config[names.MODAL_MAP] if several else {}
        super().__init__(
            cutoff=config[names.CUTOFF],
            atomic_numbers=tuple(places),
            head=_choose(head, tuple(self._modalities)),
        )
        self.network = network
        self.config = dict(config)
        self._scripted = contains_torchscript(network)
        in_order = sorted(places, key=places.__getitem__)
        self.register_buffer(
            "_element_index", element_table(in_order), persistent=False
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> SevenNetModel:
        return deep_copy(self, memo)

    @property
    def file_suffix(self) -> str:
        """See ``EnergyModel.file_suffix``."""
        return sevennet_files.SUFFIX

    @property
    def heads(self) -> tuple[str, ...]:
        """See ``EnergyModel.heads``: the modalities."""
        return tuple(self._modalities)

    def arrangement(self) -> SevenNetArrangement:
        """See ``EnergyModel.arrangement``."""
        return SevenNetArrangement(
            self.name,
            self.cutoff,
            self.atomic_numbers,
            pairs_edges=self._products() is not None,
        )

    def prepare(self, batch: Batch) -> Batch:
        """See ``EnergyModel.prepare``."""
        batch = super().prepare(batch)
        products = self._products()
        edges = batch.get(keys.SORTED_EDGES)
        if products is not None and edges is not None:
            batch[keys.CONVOLUTIONS] = Convolutions(edges, products)
        return batch

    def _convolutions(self) -> list[Any]:
        return [m for name, m in self.network.named_children() if _LAYER.match(name)]

    def _products(self) -> tuple[FusedProduct, ...] | None:
        """What stands in for the tensor products of the network, in their order."""
        modules = [module.convolution for module in self._convolutions()]
        return find_products(modules, self.dtype, self.device)

    def energy(
        self, batch: Batch, positions: torch.Tensor, strain: torch.Tensor
    ) -> torch.Tensor:
        """See ``EnergyModel.energy``."""
        moved, cell = apply_strain(batch, positions, strain)
        vectors = edge_vectors(batch, moved, cell)
        convolutions = batch.get(keys.CONVOLUTIONS)
        if convolutions is not None:
            vectors = vectors[convolutions.edges.order]
        structure, n_structures = batch[keys.STRUCTURE_INDEX], strain.shape[0]
        species = self._element_index[batch[keys.ATOMIC_NUMBERS]]
        one_hot = torch.nn.functional.one_hot(species, len(self.atomic_numbers))
        data = {
            names.EDGE_VEC: vectors,
            names.EDGE_IDX: batch[keys.EDGE_INDEX],
            names.ATOM_TYPE: species,
            names.NODE_FEATURE: one_hot.to(vectors.dtype),
            names.NODE_ATTR: one_hot.to(vectors.dtype),
            names.BATCH: structure,
            **self._modality(n_structures, vectors),
        }
        with (
            exact_torchscript(self._scripted),
            derived_by_forms(self.network, spherical_harmonics),
            contextlib.nullcontext()
            if convolutions is None
            else self._fused(convolutions),
        ):
            for name, module in self.network.named_children():
                if name not in _INPUTS:
                    data = module(data)
        energies: torch.Tensor = data[names.ATOMIC_ENERGY].squeeze(-1)
        return energies.new_zeros(n_structures).index_add(0, structure, energies)

    def _modality(
        self, n_structures: int, like: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Inputs that say which modality each structure is of."""
        if self.head is None:
            return {}
        place = self._modalities[self.head]
        chosen = like.new_zeros(n_structures, len(self._modalities))
        chosen[:, place] = 1
        kinds = torch.full((n_structures,), place, device=like.device)
        return {names.MODAL_TYPE: kinds, names.MODAL_ATTR: chosen}

    @contextlib.contextmanager
    def _fused(self, convolutions: Convolutions) -> Iterator[None]:
        """Let the compiled form sum messages, with one radial weight for a pair."""
        modules = self._convolutions()
        forwards = [
            (module, _forward(module, convolutions.edges)) for module in modules
        ]
        products = [module.convolution for module in modules]
        with convolutions.stand_in(products), exchanged_forwards(forwards):
            yield

    def parts(self) -> dict[str, tuple[str, ...]]:
        """See ``EnergyModel.parts``."""
        parts: dict[str, tuple[str, ...]] = {
            "embedding": ("*.edge_embedding.*", "*.onehot_to_feature_x.*"),
            "readout": ("*.reduce_*", "*.readout_FCN.*"),
            "scale_shift": ("*.rescale_atomic_energy.*", "*.denominator"),
        }
        for name, _ in self.network.named_children():
            if match := _LAYER.match(name):
                parts[f"interaction_{match[1]}"] = (f"*.{match[1]}_*",)
        return parts

    def initial_weights(self, seed: int) -> dict[str, torch.Tensor]:
        """See ``EnergyModel.initial_weights``."""
        drawn = sevennet_files.draw_weights(self.config, seed)
        return {f"network.{name}": value for name, value in drawn.items()}

    def add_head(
        self, head: str, source: str, atomic_energies: Mapping[str, float]
    ) -> None:
        """See ``EnergyModel.add_head``; SevenNet adds modalities itself."""
        raise ConfigError(
            "adaptation=multihead: a modality is added to a SevenNet model by its own "
            "sevenn_cp --append_modal_yaml; choose it then with model.head=... and "
            "another adaptation."
        )

    def describe_usage(self, name: str) -> str:
        """See ``EnergyModel.describe_usage``."""
        modal = "" if self.head is None else f', modal="{self.head}"'
        return (
            "```python\nfrom sevenn.calculator import SevenNetCalculator\n\n"
            f'atoms.calc = SevenNetCalculator("{name}"{modal})\n```\n\n'
            f"For LAMMPS: `sevenn get_model {name}`."
        )

    def save(self, path: str | Path) -> None:
        """Write a checkpoint for SevenNet's calculator, tools and training.

        It holds all modalities; SevenNet computes it in float32.

        Args:
            path: file to write; an existing one is replaced.
        """
        sevennet_files.write(Path(path), self.config, plain(self.network))


def load(
    path: Path,
    *,
    dtype: torch.dtype | None,
    device: str | torch.device,
    head: str | None,
    trust: bool = False,
) -> SevenNetModel:
    """Read a SevenNet checkpoint.

    Raises:
        CheckpointError: see ``sevennet_files.read``.
        ConfigError: see ``SevenNetModel``.
    """
    network, config = sevennet_files.read(path, trust=trust)
    try:
        model = SevenNetModel(network, config, head)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return model.to(device=device, dtype=dtype)


def _choose(head: str | None, modalities: tuple[str, ...]) -> str | None:
    if not modalities and head is not None:
        raise ConfigError(
            f"head={head!r}: this SevenNet model has no modalities; leave it out."
        )
    if modalities and head not in modalities:
        raise ConfigError(
            f"head={head!r}: this SevenNet model has the modalities "
            f"{', '.join(modalities)}. Choose one of them with head=... "
            "(model.head=... on the command line)."
        )
    return head


def _forward(module: Any, edges: Edges) -> Callable[[Any], Any]:
    """``IrrepsConvolution.forward`` with the sum over neighbours in the product."""

    def forward(data: Any) -> Any:
        # Both directions of a pair have one length, and so one row of weights.
        radial = data[module.key_weight_input][edges.first_of_pair]
        received = module.convolution(
            data[module.key_x], data[module.key_filter], module.weight_nn(radial)
        )
        data[module.key_x] = received / module.denominator
        return data

    return forward
