"""A Morse pair potential: the smallest complete backend, without any library.

It serves as the reference of how to write a backend and as the potential of the
tests that must run where neither MACE nor NequIP is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.base import (
    LARGEST_CUTOFF,
    EnergyModel,
    apply_strain,
    check_elements,
    edge_vectors,
    element_table,
)
from pft_lightning.backends.parametrized import plain
from pft_lightning.backends.reading.unpickling import read_saved
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.files import write_atomically


FORMAT = "pft_lightning.pair_potential"
_VERSION = 1


class PairPotential(EnergyModel):
    """Morse potential with learnable depth, range, radius and shift per element.

    Args:
        cutoff: Å; the energy goes to zero there with three derivatives.
        atomic_numbers: elements that the model covers.
        dtype: of the parameters.
    """

    name = "pair"
    title = "pair"
    _element_index: torch.Tensor

    def __init__(
        self,
        cutoff: float = 5.0,
        atomic_numbers: Sequence[int] = tuple(range(1, 95)),
        *,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__(cutoff=cutoff, atomic_numbers=tuple(atomic_numbers))
        n_elements = len(self.atomic_numbers)
        # Differ a little by element, so that permuting elements is not a no-op.
        spread = torch.linspace(0, 1, n_elements, dtype=dtype)
        self.depth = torch.nn.Parameter(0.4 + 0.2 * spread)
        self.stiffness = torch.nn.Parameter(1.2 + 0.3 * spread)
        self.radius = torch.nn.Parameter(1.2 + 0.2 * spread)
        self.shift = torch.nn.Parameter(-1.0 - spread)
        table = element_table(self.atomic_numbers)
        self.register_buffer("_element_index", table, persistent=False)

    def energy(
        self, batch: Batch, positions: torch.Tensor, strain: torch.Tensor
    ) -> torch.Tensor:
        """See ``EnergyModel.energy``."""
        structure = batch[keys.STRUCTURE_INDEX]
        element = self._element_index[batch[keys.ATOMIC_NUMBERS]]
        moved, cell = apply_strain(batch, positions, strain)
        distance = edge_vectors(batch, moved, cell).norm(dim=1)
        centre, neighbour = batch[keys.EDGE_INDEX]
        i, j = element[centre], element[neighbour]
        decay = torch.exp(
            -(self.stiffness[i] + self.stiffness[j])
            / 2
            * (distance - self.radius[i] - self.radius[j])
        )
        depth = (self.depth[i] + self.depth[j]) / 2
        envelope = (1 - (distance / self.cutoff) ** 2).clamp(min=0) ** 4
        # Each pair appears as two edges, hence the half.
        bonds = 0.5 * depth * envelope * (decay * decay - 2 * decay)
        energies = bonds.new_zeros(strain.shape[0])
        energies = energies.index_add(0, structure[centre], bonds)
        return energies.index_add(0, structure, self.shift[element])

    def parts(self) -> dict[str, tuple[str, ...]]:
        """See ``EnergyModel.parts``."""
        return {"bonds": ("depth", "stiffness", "radius"), "atoms": ("shift",)}

    def initial_weights(self, seed: int) -> dict[str, torch.Tensor]:
        """See ``EnergyModel.initial_weights``; nothing is random here."""
        del seed
        fresh = PairPotential(self.cutoff, self.atomic_numbers, dtype=self.dtype)
        return {n: p for n, p in fresh.named_parameters() if n != "shift"}

    def save(self, path: str | Path) -> None:
        """Write tensors and plain values only, so that loading runs no code."""
        content = {
            "format": FORMAT,
            "version": _VERSION,
            "cutoff": self.cutoff,
            "atomic_numbers": list(self.atomic_numbers),
            "state_dict": {k: v.cpu() for k, v in plain(self).state_dict().items()},
        }
        write_atomically(path, lambda file: torch.save(content, file))


def load(
    path: Path,
    *,
    dtype: torch.dtype | None,
    device: str | torch.device,
    head: str | None,
    trust: bool = False,
) -> PairPotential:
    """Read a file written by ``PairPotential.save``.

    Raises:
        ConfigError: a head was asked for.
        CheckpointError: damaged, or written by a newer version of the package.
    """
    if head is not None:
        raise ConfigError(
            f"head={head!r}: a pair potential has no heads; leave it out."
        )
    content = read_saved(path)
    version = content.get("version") if isinstance(content, dict) else None
    if type(version) is not int or version < 1:
        raise CheckpointError(
            f"{path}: format version {version!r}; expected a number up to {_VERSION}. "
            "The file is damaged: copy it again."
        )
    if version > _VERSION:
        raise CheckpointError(
            f"{path}: format version {version}, this package reads up to "
            f"{_VERSION}. Upgrade pft_lightning."
        )
    model = _build(path, content)
    return model.to(device=device, dtype=dtype or model.dtype)


def _build(path: Path, content: dict[str, Any]) -> PairPotential:
    cutoff, numbers = (
        content.get("cutoff"),
        check_elements(path, content.get("atomic_numbers")),
    )
    if not isinstance(cutoff, (int, float)) or not 0 < cutoff <= LARGEST_CUTOFF:
        raise CheckpointError(
            f"{path}: cutoff={str(cutoff)[:100]}; expected a distance up to "
            f"{LARGEST_CUTOFF:g} Å."
        )
    weights: Any = content.get("state_dict")
    try:
        dtype = weights["depth"].dtype
        if not dtype.is_floating_point:
            raise TypeError(f"they are {dtype}")
        model = PairPotential(cutoff, numbers, dtype=dtype)
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{path}: its weights do not fit a pair potential of "
            f"{len(numbers)} elements ({error}). Copy it again."
        ) from error
    return model
