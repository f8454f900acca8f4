"""Protocols and small result types shared by all layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch


# (positions (n_atoms, 3) Å, strain (n_structures, 3, 3)) -> energies (n_structures,) eV
EnergyFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

Engine = Literal["forward_over_reverse", "reverse_over_reverse"]


@dataclass(frozen=True, slots=True)
class Derivatives:
    """What one pass over a batch yields; fields that were not asked for are None.

    Attributes:
        energy: (n_structures,), eV.
        forces: (n_atoms, 3), eV/Å.
        stress: (n_structures, 3, 3), eV/Å³, ASE's sign (tension positive).
        hvp: (n_atoms, n_probes, 3), Hessian times tangents, eV/Å² times the
            unit of the tangents.
    """

    energy: torch.Tensor
    forces: torch.Tensor | None = None
    stress: torch.Tensor | None = None
    hvp: torch.Tensor | None = None
