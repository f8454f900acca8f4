"""NequIP (and its extensions) as a backend: one differentiable energy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from ase.data import atomic_numbers as numbers_by_symbol
from e3nn.o3 import spherical_harmonics
from nequip.data import AtomicDataDict
from nequip.nn.embedding.utils import cutoff_str_to_fulldict
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.arrangement import Arrangement
from pft_lightning.backends.base import (
    EnergyModel,
    apply_strain,
    element_table,
)
from pft_lightning.backends.convolutions import (
    Convolutions,
    FusedProduct,
    exchanged,
    find_products,
)
from pft_lightning.backends.copying import deep_copy
from pft_lightning.backends.nequip import files as nequip_files
from pft_lightning.backends.parametrized import plain
from pft_lightning.backends.replaced import derived_by_forms
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.graphs import count_atoms
from pft_lightning.kernels.edges import group_edges
from pft_lightning.physics.exact import (
    contains_torchscript,
    exact_torchscript,
    replace_layer_norms,
)


_LAYER = re.compile(r"\b(?:layer(\d+)_convnet|allegro\.latents\.(\d+))$")
_ALLEGRO_EMBEDDING = (
    *("*.scalar_embed_mlp.*", "*.tensor_embed.*"),
    "*.first_layer_env_embed_projection.*",
)
_INPUTS = (
    AtomicDataDict.POSITIONS_KEY,
    AtomicDataDict.EDGE_INDEX_KEY,
    AtomicDataDict.EDGE_TRANSPOSE_PERM_KEY,
    AtomicDataDict.EDGE_CELL_SHIFT_KEY,
    AtomicDataDict.EDGE_VECTORS_KEY,
    AtomicDataDict.CELL_KEY,
    AtomicDataDict.BATCH_KEY,
    AtomicDataDict.NUM_NODES_KEY,
    AtomicDataDict.ATOM_TYPE_KEY,
    AtomicDataDict.LMP_MLIAP_DATA_KEY,
    AtomicDataDict.NUM_LOCAL_GHOST_NODES_KEY,
)


@dataclass(frozen=True, slots=True)
class NequIPArrangement(Arrangement):
    """How batches are arranged for a NequIP network.

    Attributes:
        types: atomic numbers of its types, in order.
        type_cutoffs: Å, of edges from a type to another; None where all are alike.
        groups_edges: for the compiled messages.
    """

    types: tuple[int, ...]
    type_cutoffs: tuple[tuple[float, ...], ...] | None
    groups_edges: bool

    def keeps(self, batch: Batch, lengths: torch.Tensor) -> torch.Tensor:
        """See ``Arrangement.keeps``; cutoffs may depend on the pair of elements."""
        keep = lengths < self.cutoff
        if self.type_cutoffs is None:
            return keep
        types = element_table(self.types)[batch[keys.ATOMIC_NUMBERS]]
        table = torch.tensor(self.type_cutoffs, dtype=torch.float64)
        return keep & (lengths < table[tuple(types[batch[keys.EDGE_INDEX]])])

    def complete(self, batch: Batch) -> None:
        """See ``Arrangement.complete``."""
        if self.groups_edges:
            centre, neighbour = batch[keys.EDGE_INDEX]
            batch[keys.SORTED_EDGES] = group_edges(centre, neighbour, batch.num_nodes)


class NequIPModel(EnergyModel):
    """The energy part of a NequIP ``GraphModel``.

    Positions, energies and all derivatives are float64, as in NequIP itself, even
    where the network computes in float32.

    Args:
        network: ``GraphModel``, built eagerly.
        origin: what ``save`` needs to write the file: the header of a checkpoint, or
            the path of a package.

    Raises:
        ConfigError: its types are not elements, or it needs other inputs.
    """

    name = "nequip"
    title = "NequIP"
    # The second is Allegro's.
    radial_networks = ("*.edge_mlp.*", "*.scalar_embed_mlp.*")
    network: Any
    _type_index: torch.Tensor

    def __init__(self, network: Any, origin: nequip_files.Origin | None = None) -> None:
        metadata = network.metadata
        symbols = metadata["type_names"].split(" ")
        unknown = [s for s in symbols if s not in numbers_by_symbol]
        if unknown:
            raise ConfigError(
                f"the NequIP model names its atom types {unknown}, which are not "
                "chemical symbols; only models of elements are supported."
            )
        extra = sorted(set(network.model_input_fields) - set(_INPUTS))
        if extra:
            raise ConfigError(
                f"the NequIP model needs the inputs {extra} besides the structure; "
                "such models are not supported."
            )
        numbers = [numbers_by_symbol[s] for s in symbols]
        super().__init__(cutoff=float(metadata["r_max"]), atomic_numbers=tuple(numbers))
        self.network = network
        self.origin = origin
        replace_layer_norms(network)
        self._scripted = contains_torchscript(network)
        self._accelerated = [
            module
            for module in network.modules()
            if getattr(module, "_nequip_custom_ops_libs", ())
        ]
        self.register_buffer("_type_index", element_table(numbers), persistent=False)
        self._types = tuple(numbers)
        self._type_cutoffs: tuple[tuple[float, ...], ...] | None = None
        if (cutoffs := metadata.get("per_edge_type_cutoff")) is not None:
            table = cutoff_str_to_fulldict(cutoffs, symbols)
            self._type_cutoffs = tuple(
                tuple(float(table[a][b]) for b in symbols) for a in symbols
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> NequIPModel:
        return deep_copy(self, memo)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type in which the network computes."""
        dtype: torch.dtype = self.network.model_dtype
        return dtype

    @property
    def input_dtype(self) -> torch.dtype:
        """See ``EnergyModel.input_dtype``."""
        return nequip_files.GEOMETRY_DTYPE

    @property
    def file_suffix(self) -> str:
        """See ``EnergyModel.file_suffix``."""
        return nequip_files.PACKAGE_SUFFIX if isinstance(self.origin, Path) else ".ckpt"

    @property
    def export_suffixes(self) -> tuple[str, ...]:
        """See ``EnergyModel.export_suffixes``; a package cannot become a checkpoint."""
        return tuple(dict.fromkeys((self.file_suffix, nequip_files.PACKAGE_SUFFIX)))

    def arrangement(self) -> NequIPArrangement:
        """See ``EnergyModel.arrangement``."""
        return NequIPArrangement(
            self.name,
            self.cutoff,
            self.atomic_numbers,
            types=self._types,
            type_cutoffs=self._type_cutoffs,
            groups_edges=self._products() is not None,
        )

    def prepare(self, batch: Batch) -> Batch:
        """See ``EnergyModel.prepare``."""
        batch = super().prepare(batch)
        products = self._products()
        batch[keys.CONVOLUTIONS] = products and Convolutions(
            batch[keys.SORTED_EDGES], products
        )
        return batch

    def _products(self) -> tuple[FusedProduct, ...] | None:
        """What stands in for the tensor products of the network, in their order."""
        modules = [module.tp for module in _scattered_products(self.network)]
        return find_products(modules, self.dtype, self.device)

    def energy(
        self, batch: Batch, positions: torch.Tensor, strain: torch.Tensor
    ) -> torch.Tensor:
        """See ``EnergyModel.energy``."""
        moved, cell = apply_strain(batch, positions, strain)
        structure = batch[keys.STRUCTURE_INDEX]
        n_structures = strain.shape[0]
        data = {
            AtomicDataDict.POSITIONS_KEY: moved,
            AtomicDataDict.CELL_KEY: cell,
            AtomicDataDict.EDGE_INDEX_KEY: batch[keys.EDGE_INDEX],
            AtomicDataDict.EDGE_CELL_SHIFT_KEY: batch[keys.EDGE_SHIFTS].to(cell.dtype),
            AtomicDataDict.ATOM_TYPE_KEY: self._type_index[batch[keys.ATOMIC_NUMBERS]],
            AtomicDataDict.BATCH_KEY: structure,
            AtomicDataDict.NUM_NODES_KEY: count_atoms(structure, n_structures),
        }
        convolutions = batch.get(keys.CONVOLUTIONS)
        with (
            exact_torchscript(self._scripted),
            derived_by_forms(self.network, spherical_harmonics),
            _without_kernels(self._accelerated),
            contextlib.nullcontext()
            if convolutions is None
            else convolutions.stand_in(_scattered_products(self.network)),
        ):
            output = _energy_module(self.network)(data)
        energies: torch.Tensor = output[AtomicDataDict.TOTAL_ENERGY_KEY]
        return energies.reshape(n_structures)

    def parts(self) -> dict[str, tuple[str, ...]]:
        """See ``EnergyModel.parts``."""
        parts = {
            "embedding": (
                *("*.type_embed.*", "*.edge_norm.*", "*.bessel_encode.*"),
                *_ALLEGRO_EMBEDDING,
            ),
            "readout": ("*_readout.*", "*.output_hidden_to_scalar.*"),
            "scale_shift": ("*.per_type_energy_scale_shift.*",),
        }
        names = [name for name, _ in self.network.named_modules()]
        layers = {m[1] or m[2] for n in names if (m := _LAYER.search(n))}
        for i in sorted(layers, key=int):
            parts[f"interaction_{i}"] = (
                f"*.layer{i}_convnet.*",
                f"*.allegro.latents.{i}.*",
                f"*.allegro.tps.{i}.*",
            )
        return parts

    def initial_weights(self, seed: int) -> dict[str, torch.Tensor]:
        """See ``EnergyModel.initial_weights``; needs a checkpoint, not a package."""
        drawn = nequip_files.draw_weights(self.origin, seed, self.dtype)
        return {f"network.{name}": value for name, value in drawn.items()}

    def describe_usage(self, name: str) -> str:
        """See ``EnergyModel.describe_usage``: compiled, then in ASE."""
        return (
            f"```\nnequip-compile {name} potential.nequip.pt2 --mode aotinductor "
            "--device cpu --target ase\n```\n\n"
            "```python\nfrom nequip.integrations.ase import NequIPCalculator\n\n"
            "atoms.calc = NequIPCalculator.from_compiled_model("
            '"potential.nequip.pt2", device="cpu")\n```'
        )

    def save(self, path: str | Path) -> None:
        """Write a checkpoint, or a package.

        A package is written where the model came from one, or where the name asks for
        it; the latter with ``nequip-package``, which needs the training data that the
        original checkpoint names.

        The checkpoint names only classes of NequIP and holds one set of weights, so
        that NequIP's own loaders, ``nequip-package`` and ``nequip-compile`` take these
        weights whether or not the original kept an average. Its record of how the
        original was trained stays; its optimiser states do not.

        Args:
            path: file to write; NequIP opens packages only with the ending
                ``.nequip.zip`` (see ``file_suffix``).

        Raises:
            CheckpointError: the model came from nowhere, its package is gone, or
                ``nequip-package`` failed.
        """
        network = plain(self.network)
        weights = {k: v.detach().cpu() for k, v in network.state_dict().items()}
        if self.origin is None:
            raise CheckpointError(
                f"{path}: this NequIP model was not loaded from a file, so its "
                "architecture is not known. Load it with load_model() first."
            )
        nequip_files.write(Path(path), self.origin, weights, self.dtype)

    def _apply(self, *args: Any, **kwargs: Any) -> NequIPModel:
        """Follow a change of dtype, e.g. ``double()`` or a precision plugin."""
        super()._apply(*args, **kwargs)
        dtype = nequip_files.parameter_dtype(self.network)
        if dtype != self.dtype:
            nequip_files.convert(self.network, dtype)
        return self


def load(
    path: Path,
    *,
    dtype: torch.dtype | None,
    device: str | torch.device,
    head: str | None,
    trust: bool = False,
) -> NequIPModel:
    """Read a NequIP checkpoint (its averaged weights, if it has them) or package.

    A package is code, which runs whether or not it is trusted.

    Raises:
        CheckpointError: see ``nequip_files.read``.
        ConfigError: a head was asked for; see also ``NequIPModel``.
    """
    if head is not None:
        raise ConfigError(f"head={head!r}: NequIP models have no heads; leave it out.")
    return NequIPModel(*nequip_files.read(path, dtype, trust=trust)).to(device=device)


def _scattered_products(network: torch.nn.Module) -> list[Any]:
    """Tensor products with a sum over neighbours; by name, see ``_energy_module``."""
    return [
        module
        for module in network.modules()
        if any(kind.__name__ == "TensorProductScatter" for kind in type(module).__mro__)
    ]


@contextlib.contextmanager
def _without_kernels(accelerated: list[torch.nn.Module]) -> Iterator[None]:
    """Let e3nn compute what OpenEquivariance or CuEquivariance would.

    ``nequip-train`` may run its frames with kernels that cannot be differentiated three
    times, or not by torch.func. Each such module extends the one that it stands for and
    keeps its e3nn product.
    """
    with contextlib.ExitStack() as stack:
        for module in accelerated:
            plain_forward = super(type(module), module).forward  # type: ignore[misc]
            stack.enter_context(exchanged(module, "forward", plain_forward))
        yield


def _energy_module(network: torch.nn.Module) -> torch.nn.Module:
    """The part below the module that computes forces.

    A package brings classes of its own, so that only names can be compared.
    """
    for module in network.modules():
        if type(module).__name__ == "ForceStressOutput":
            return cast("torch.nn.Module", module.func)
    return network
