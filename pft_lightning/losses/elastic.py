"""The loss terms on elastic constants and moduli."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.errors import ConfigError
from pft_lightning.losses.terms import (
    LossKind,
    TermSum,
    check_kind,
    compute_term,
)
from pft_lightning.physics.elasticity import (
    stiffness_under_stress,
    voigt_strains,
)
from pft_lightning.units import GPA_PER_EV_PER_CUBIC_ANGSTROM


CONSTANTS: Final = "constants"
MODULI: Final = "moduli"

# Errors of some ten GPa weigh as much as those of forces in the published recipe.
ELASTIC_WEIGHTS: Final = MappingProxyType({CONSTANTS: 0.1, MODULI: 0.1})

# Lowest eigenvalue, as a share of the highest, of a stiffness that has a compliance.
_STABLE = 1e-3


@dataclass(frozen=True, slots=True)
class ElasticTarget:
    """How errors of elastic constants and moduli count.

    Attributes:
        weights: of ``CONSTANTS`` and ``MODULI`` in the total loss, per GPa.
        kind: of the loss.
        huber_delta: where the Huber loss turns linear, GPa.

    Raises:
        ConfigError: a weight or the kind cannot be used.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: dict(ELASTIC_WEIGHTS))
    kind: LossKind = "mae"
    huber_delta: float = 0.01

    def __post_init__(self) -> None:
        check_kind(self.kind, name="loss.kind.elastic")
        unknown = set(self.weights) - {CONSTANTS, MODULI}
        if unknown or not all(0 <= value < math.inf for value in self.weights.values()):
            raise ConfigError(
                f"loss.elastic is {dict(self.weights)}; expected {CONSTANTS} and "
                f"{MODULI}, numbers of at least 0."
            )

    @property
    def active(self) -> list[str]:
        """Terms that are not weighted with zero."""
        return [name for name, weight in self.weights.items() if weight > 0]

    def terms(self, stiffness: torch.Tensor, batch: Batch) -> dict[str, TermSum]:
        """Sum the residuals over the local batch.

        Args:
            stiffness: (n_structures, 6, 6), of the model, GPa.
            batch: neutral batch of crystals.
        """
        errors = elastic_errors(stiffness, batch)
        return {
            name: compute_term(
                errors[name][0],
                errors[name][1],
                kind=self.kind,
                huber_delta=self.huber_delta,
            )
            for name in self.active
        }

    def counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Give the counts of ``terms``, which depend on no prediction."""
        return {name: _mask(batch, name).sum() for name in self.active}


def elastic_errors(
    stiffness: torch.Tensor, batch: Batch
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Errors of constants and moduli, and of which structures they are known.

    Args:
        stiffness: (n_structures, 6, 6), of the model, GPa.
        batch: neutral batch of crystals.

    Returns:
        ``CONSTANTS``: (n_structures, 6, 6), GPa; ``MODULI``: (n_structures, 2), of bulk
        and shear modulus (Hill's), GPa; each with (n_structures,), bool.
    """
    references = {CONSTANTS: keys.ELASTIC_CONSTANTS, MODULI: keys.MODULI}
    found = {CONSTANTS: stiffness, MODULI: hill_moduli(stiffness)}
    return {
        name: (
            values - batch[references[name]].to(values),
            _mask(batch, name),
        )
        for name, values in found.items()
    }


def _mask(batch: Batch, name: str) -> torch.Tensor:
    field = {CONSTANTS: keys.CONSTANTS_MASK, MODULI: keys.MODULI_MASK}[name]
    counted: torch.Tensor = batch[keys.COUNTED]
    return counted & batch[field]


def to_stiffness(
    strain_hvp: torch.Tensor,
    mixed: torch.Tensor,
    stress: torch.Tensor,
    volumes: torch.Tensor,
) -> torch.Tensor:
    """Elastic constants of second derivatives, with what stress adds to them.

    Args:
        strain_hvp: (n_structures, 6, 3, 3), change of dE/dstrain along the six strains,
            eV.
        mixed: (n_structures, 6, 6), of ions that move, eV.
        stress: (n_structures, 3, 3), eV/Å³.
        volumes: (n_structures,), Å³.

    Returns:
        (n_structures, 6, 6), GPa; the correction is ``stiffness_under_stress``.
    """
    weights = torch.from_numpy(voigt_strains()).to(strain_hvp)
    second = torch.einsum("nsij,tij->nst", strain_hvp, weights) + mixed
    second = (second + second.transpose(1, 2)) / 2 / volumes.to(second)[:, None, None]
    map_ = torch.from_numpy(_of_stress()).to(second)
    added = torch.einsum("abij,nij->nab", map_, stress.to(second))
    return (second + added) * GPA_PER_EV_PER_CUBIC_ANGSTROM


@cache
def _of_stress() -> np.ndarray:
    """(6, 6, 3, 3): the correction for stress, which is linear in it."""
    units = np.eye(9).reshape(9, 3, 3)
    zero = np.zeros((6, 6))
    columns = [stiffness_under_stress(zero, (unit + unit.T) / 2) for unit in units]
    return np.stack(columns, axis=-1).reshape(6, 6, 3, 3)


def hill_moduli(stiffness: torch.Tensor) -> torch.Tensor:
    """Bulk and shear modulus of a polycrystal, as ``average_moduli`` takes them.

    Where a strain costs next to nothing or gains energy there is no compliance: Voigt's
    averages, of uniform strain, stand for both.

    Args:
        stiffness: (n_structures, 6, 6), GPa; the symmetric part counts.

    Returns:
        (n_structures, 2), GPa, with a gradient that is finite everywhere.
    """
    c = (stiffness + stiffness.transpose(1, 2)) / 2
    with torch.no_grad():
        values = torch.linalg.eigvalsh(c.double())
        stable = values[:, 0] > _STABLE * values.abs().amax(dim=1)
    # Nothing is inverted that has no inverse, not even where the result is not used.
    identity = torch.eye(6).to(c).expand_as(c)
    s = torch.linalg.inv(torch.where(stable[:, None, None], c, identity))
    voigt = _uniform(c)
    axial = 6 * _trace(s[:, :3, :3]) - 2 * s[:, :3, :3].sum(dim=(1, 2))
    reuss = torch.stack(
        [
            1 / s[:, :3, :3].sum(dim=(1, 2)),
            15 / (axial + 3 * _trace(s[:, 3:, 3:])),
        ],
        dim=1,
    )
    return (voigt + torch.where(stable[:, None], reuss, voigt)) / 2


def _uniform(c: torch.Tensor) -> torch.Tensor:
    """Voigt's averages (n_structures, 2), of bulk and shear modulus."""
    total, trace = c[:, :3, :3].sum(dim=(1, 2)), _trace(c[:, :3, :3])
    shear = (1.5 * trace - total / 2) / 15 + _trace(c[:, 3:, 3:]) / 5
    return torch.stack([total / 9, shear], dim=1)


def _trace(blocks: torch.Tensor) -> torch.Tensor:
    return blocks.diagonal(dim1=1, dim2=2).sum(dim=1)
