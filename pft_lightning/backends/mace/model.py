"""MACE as a backend: one MACE network as one differentiable energy."""

from __future__ import annotations

import contextlib
import urllib.error
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers as numbers_by_symbol
from ase.data import chemical_symbols
from torch._functorch.eager_transforms import enable_inplace_requires_grad
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
from pft_lightning.backends.mace import check as mace_check
from pft_lightning.backends.mace import files as mace_files
from pft_lightning.backends.mace import heads as mace_heads
from pft_lightning.backends.mace import portable as mace_portable
from pft_lightning.backends.mace import stored as mace_stored
from pft_lightning.backends.mace import usage as mace_usage
from pft_lightning.backends.mace.state import keep_global_state
from pft_lightning.backends.parametrized import plain
from pft_lightning.backends.reading.content import is_safetensors
from pft_lightning.backends.replaced import derived_by_forms
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.files import write_atomically
from pft_lightning.kernels.edges import group_edges
from pft_lightning.physics.exact import contains_torchscript, exact_torchscript


@dataclass(frozen=True, slots=True)
class MACEArrangement(Arrangement):
    """How batches are arranged for a MACE network.

    Attributes:
        heads: names of its output heads.
        groups_edges: for the compiled messages.
    """

    heads: tuple[str, ...]
    groups_edges: bool

    def complete(self, batch: Batch) -> None:
        """See ``Arrangement.complete``.

        Raises:
            ConfigError: a structure belongs to a head that the model lacks.
        """
        if len(self.heads) > 1 and keys.HEAD in batch:
            batch[keys.HEAD_INDEX] = torch.tensor(self._head_indices(batch))
        if self.groups_edges:
            senders, receivers = batch[keys.EDGE_INDEX]  # as MACE calls them
            batch[keys.SORTED_EDGES] = group_edges(receivers, senders, batch.num_nodes)

    def _head_indices(self, batch: Batch) -> list[int]:
        """Places of the heads that the structures name; -1 where they name none."""
        for i, name in enumerate(batch[keys.HEAD]):
            if name and name not in self.heads:
                raise ConfigError(
                    f"{batch[keys.NAME][i]} belongs to the head {name!r}; "
                    f"the model has the heads {', '.join(self.heads)}."
                )
        return [self.heads.index(x) if x else -1 for x in batch[keys.HEAD]]


class MACEModel(EnergyModel):
    """A MACE network, rebuilt without TorchScript (see ``mace_files``).

    Args:
        network: from ``mace_files.build``.
        head: output head; may be left out where the network has one.

    Raises:
        ConfigError: the head does not exist, or none was named and there are several.
    """

    name = "mace"
    title = "MACE"
    radial_networks = ("*.conv_tp_weights.*", "*.density_fn.*")
    _element_index: torch.Tensor

    def __init__(self, network: Any, head: str | None = None) -> None:
        numbers = [int(z) for z in network.atomic_numbers]
        super().__init__(
            cutoff=float(network.r_max),
            atomic_numbers=tuple(numbers),
            head=_choose_head(_head_names(network), head),
        )
        self.network = network
        self._scripted = contains_torchscript(network)
        self.register_buffer("_element_index", element_table(numbers), persistent=False)

    @property
    def file_suffix(self) -> str:
        """See ``EnergyModel.file_suffix``."""
        return ".model"

    @property
    def export_suffixes(self) -> tuple[str, ...]:
        """See ``EnergyModel.export_suffixes``."""
        return (".model", mace_portable.SUFFIX)

    def describe_usage(self, name: str) -> str:
        """See ``EnergyModel.describe_usage``."""
        return mace_usage.describe(name, self.heads, self.head)

    def remark_on(self, path: Path) -> str | None:
        """See ``EnergyModel.remark_on``: other e3nn cannot open what one pickles."""
        return mace_usage.remark(path)

    def arrangement(self) -> MACEArrangement:
        """See ``EnergyModel.arrangement``."""
        return MACEArrangement(
            self.name,
            self.cutoff,
            self.atomic_numbers,
            heads=self.heads,
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
        modules = [block.conv_tp for block in self.network.interactions]
        return find_products(modules, self.dtype, self.device)

    def energy(
        self, batch: Batch, positions: torch.Tensor, strain: torch.Tensor
    ) -> torch.Tensor:
        """See ``EnergyModel.energy``."""
        moved, cell = apply_strain(batch, positions, strain)
        edge_index, structure = batch[keys.EDGE_INDEX], batch[keys.STRUCTURE_INDEX]
        unit_shifts = batch[keys.EDGE_SHIFTS].to(positions.dtype)
        per_edge = cell[structure[edge_index[0]]]
        elements = self._element_index[batch[keys.ATOMIC_NUMBERS]]
        n_elements, n_structures = len(self.atomic_numbers), strain.shape[0]
        data = {
            "positions": moved,
            "cell": cell,
            "unit_shifts": unit_shifts,
            "shifts": torch.einsum("ea,eab->eb", unit_shifts, per_edge),
            "edge_index": edge_index,
            "batch": structure,
            # MACE reads the number of structures from the length of ptr only.
            "ptr": torch.arange(n_structures + 1, device=positions.device),
            "node_attrs": torch.nn.functional.one_hot(elements, n_elements).to(
                positions.dtype
            ),
            # Without this entry MACE would silently take its first head.
            "head": self._head_indices(batch, n_structures),
        }
        with (
            enable_inplace_requires_grad(True),
            exact_torchscript(self._scripted),
            derived_by_forms(self.network),
            _compiled_messages(self.network, batch.get(keys.CONVOLUTIONS)),
        ):
            output = self.network(data, compute_force=False)
        energies: torch.Tensor = output["energy"]
        return energies

    def parts(self) -> dict[str, tuple[str, ...]]:
        """See ``EnergyModel.parts``."""
        embeddings = [n for n, _ in self.network.named_children() if "embedding" in n]
        parts = {
            "embedding": tuple(
                f"network.{n}.*" for n in embeddings if "readout" not in n
            ),
            "readout": ("network.readouts.*", "network.embedding_readout.*"),
        }
        for part in ("interaction", "product"):
            for i in range(len(getattr(self.network, f"{part}s"))):
                parts[f"{part}_{i}"] = (f"network.{part}s.{i}.*",)
        return parts

    @property
    def heads(self) -> tuple[str, ...]:
        """See ``EnergyModel.heads``."""
        return tuple(_head_names(self.network))

    def add_head(
        self, head: str, source: str, atomic_energies: Mapping[str, float]
    ) -> None:
        """See ``EnergyModel.add_head``."""
        energies = {numbers_by_symbol.get(s, 0): e for s, e in atomic_energies.items()}
        unknown = [
            symbol
            for symbol in atomic_energies
            if numbers_by_symbol.get(symbol) not in self.atomic_numbers
        ]
        if unknown:
            raise ConfigError(
                f"atomic_energies names {', '.join(unknown)}; the model knows "
                f"{', '.join(chemical_symbols[z] for z in self.atomic_numbers)}."
            )
        index = self.heads.index(source)
        network = mace_heads.add_head(self.network, head, index, energies)
        self.network = network.to(self.device)
        self.head = head

    def initial_weights(self, seed: int) -> dict[str, torch.Tensor]:
        """See ``EnergyModel.initial_weights``."""
        drawn = mace_files.draw_weights(plain(self.network), seed)
        return {f"network.{name}": value for name, value in drawn.items()}

    def save(self, path: str | Path) -> None:
        """Write a ``.model`` file for MACE's own tools under the same e3nn.

        Args:
            path: file to write; an existing one is replaced. With the ending
                ``.safetensors`` it becomes a portable file (see ``mace_portable``),
                from which a ``.model`` can be written under any other e3nn.

        Raises:
            CheckpointError: the network holds modules that MACE does not build.
        """
        network = plain(self.network)
        weights = {k: v.detach().cpu() for k, v in network.state_dict().items()}
        config = mace_files.extract_config(network)
        kind = type(network).__name__
        stock = mace_files.build(kind, config, weights, scripted=True)
        if Path(path).suffix == mace_portable.SUFFIX:
            mace_portable.write(Path(path), stock, config)
        else:
            write_atomically(path, lambda file: torch.save(stock, file))

    def _head_indices(self, batch: Batch, n_structures: int) -> torch.Tensor:
        """(n_structures,), of the heads that the structures name, else of ``head``."""
        default = torch.full(
            (n_structures,), self._head_index(), device=batch[keys.CELL].device
        )
        named = batch.get(keys.HEAD_INDEX)
        return default if named is None else torch.where(named < 0, default, named)

    def _head_index(self) -> int:
        return self.heads.index(self.head) if self.head in self.heads else 0


@contextlib.contextmanager
def _compiled_messages(
    network: Any, convolutions: Convolutions | None
) -> Iterator[None]:
    """Let interactions call the compiled form as they would a fused CUDA kernel."""
    if convolutions is None:
        yield
        return
    blocks = list(network.interactions)
    with (
        convolutions.stand_in([block.conv_tp for block in blocks]),
        contextlib.ExitStack() as stack,
    ):
        for block in blocks:
            stack.enter_context(exchanged(block, "conv_fusion", True))
        yield


def _head_names(network: Any) -> list[str]:
    return list(getattr(network, "heads", ["default"]))


def load(
    path: Path,
    *,
    dtype: torch.dtype | None,
    device: str | torch.device,
    head: str | None,
    trust: bool = False,
) -> MACEModel:
    """Read a ``.model`` file written under any e3nn, or a portable file.

    Raises:
        CheckpointError: damaged, not an energy model, of a kind that cannot be built
            again, or referring to what no network needs.
        ConfigError: see ``MACEModel``.
    """
    kind, config, weights, stored = _read(path, trust)
    with _named(path):
        network = mace_files.build(kind, config, weights, scripted=False)
        if stored is not None:
            mace_check.check_same(stored, network)
    return MACEModel(network, head).to(device=device, dtype=dtype)


def write_harmless(path: Path, target: Path) -> None:
    """Write the network of a file anew, for MACE itself to open.

    MACE runs whatever code a file holds; this one holds only what MACE generates.

    Args:
        path: ``.model`` or portable file.
        target: ``.model`` file to write.

    Raises:
        CheckpointError: see ``load``.
    """
    kind, config, weights, stored = _read(path, trust=False)
    with _named(path):
        if stored is not None:
            plain_network = mace_files.build(kind, config, weights, scripted=False)
            mace_check.check_same(stored, plain_network)
        network = mace_files.build(kind, config, weights, scripted=True)
    write_atomically(target, lambda file: torch.save(network, file))


def _read(
    path: Path, trust: bool
) -> tuple[str, dict[str, Any], dict[str, torch.Tensor], mace_stored.Stored | None]:
    """Class, description and weights of a network, checked; what a pickle stores."""
    stored = None
    if is_safetensors(path):
        kind, config, weights = mace_portable.read(path)
    else:
        stored = mace_stored.read_module(path, trust=trust)
    with _named(path):
        if stored is not None:
            kind, weights = type(stored).__name__, stored.state_dict()
            config = mace_stored.describe(stored)
        mace_check.check_description(config)
        mace_check.check_weights(config, weights)
    return kind, config, weights, stored


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let errors begin with the file."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def find_foundation_model(name: str) -> Path:
    """Fetch a foundation model with MACE's own downloader, or find it in its cache.

    Raises:
        CheckpointError: no such name, or the download failed.
    """
    with keep_global_state():
        from mace.calculators import foundations_models

    names = sorted(n for n in foundations_models.mace_mp_names if n)
    if name not in names:
        raise CheckpointError(
            f"{name!r} is neither a file nor a MACE foundation model; those are "
            f"{', '.join(names)}."
        )
    try:
        return Path(foundations_models.download_mace_mp_checkpoint(name))
    except (RuntimeError, urllib.error.URLError, OSError) as error:
        raise CheckpointError(
            f"MACE could not download its foundation model {name!r} ({error}). Fetch "
            f"{foundations_models.mace_mp_urls[name]} where there is a network, and "
            "give the path of the file."
        ) from error


def _choose_head(heads: list[str], wanted: str | None) -> str:
    if wanted is None and len(heads) == 1:
        return heads[0]
    if wanted is None:
        raise ConfigError(
            f"the MACE model has several heads, {heads}; say which with head=... "
            "(model.head=... on the command line)."
        )
    if wanted not in heads:
        raise ConfigError(f"head={wanted!r}: the MACE model has {heads}.")
    return wanted
