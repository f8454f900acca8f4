"""Protocols and small result types shared by all layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
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
            unit of the tangents. With strain tangents, whose unit is 1, what strain
            does to the gradient is in it (eV/Å, the internal-strain coupling).
        third: (n_atoms, n_pairs, 3), third derivatives along pairs of directions,
            eV/Å³ times the unit of both.
        strain_hvp: (n_structures, n_probes, 3, 3), change of dE/dstrain along the
            directions of hvp, symmetric: eV per strain, eV/Å per displacement; zero
            where nothing is periodic.
    """

    energy: torch.Tensor
    forces: torch.Tensor | None = None
    stress: torch.Tensor | None = None
    hvp: torch.Tensor | None = None
    third: torch.Tensor | None = None
    strain_hvp: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class BandStructure:
    """Frequencies along the high-symmetry path of a primitive cell.

    Attributes:
        distances: per segment (n_q,), Å⁻¹ as phonopy gives them, continued over
            segments.
        frequencies: per segment (n_q, n_bands), THz, imaginary ones negative.
        labels: per segment the labels of its two ends, as matplotlib text.
    """

    distances: list[np.ndarray]
    frequencies: list[np.ndarray]
    labels: list[tuple[str, str]]


@dataclass(frozen=True, slots=True, eq=False)
class PhononProperties:
    """What force constants say about one material, per mole of primitive cells.

    Attributes:
        commensurate_frequencies: (n_q, n_bands), THz, at the q-points that fit the
            supercell.
        commensurate_weights: (n_q,), sum 1.
        mesh_frequencies: (n_q, n_bands), THz, on the dense mesh (irreducible
            q-points).
        mesh_weights: (n_q,), sum 1.
        dos_frequencies: (n,), THz.
        dos: (n,), states per THz and primitive cell.
        temperatures: (n_t,), K.
        free_energy: (n_t,), kJ/mol.
        entropy: (n_t,), J/K/mol.
        heat_capacity: (n_t,), J/K/mol.
        bands: along the path; None where not asked for.
        force_constants: compact (n_primitive, n_supercell, 3, 3), eV/Å², for parity
            plots; None after reading a slim file.
        non_analytical: the correction for Born charges is in the frequencies.
    """

    commensurate_frequencies: np.ndarray
    commensurate_weights: np.ndarray
    mesh_frequencies: np.ndarray
    mesh_weights: np.ndarray
    dos_frequencies: np.ndarray
    dos: np.ndarray
    temperatures: np.ndarray
    free_energy: np.ndarray
    entropy: np.ndarray
    heat_capacity: np.ndarray
    bands: BandStructure | None
    force_constants: np.ndarray | None
    non_analytical: bool

    @property
    def max_frequency(self) -> float:
        """Highest frequency on the dense mesh, THz."""
        return float(self.mesh_frequencies.max())
