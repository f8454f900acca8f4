"""Mode Grüneisen parameters of a potential, from exact strain derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from phonopy import Phonopy
from phonopy.api_gruneisen import PhonopyGruneisen
from phonopy.harmonic.dynamical_matrix import DynamicalMatrix
from phonopy.physical_units import get_physical_units

from pft_lightning.backends.base import EnergyModel, check_model
from pft_lightning.data.cells import PhononCells
from pft_lightning.evaluation.force_constants import (
    compute_force_constants,
    expand_by_symmetry,
    in_float64,
    inequivalent_displacements,
    supercell_of,
    to_directions,
)
from pft_lightning.evaluation.properties import mesh_numbers, sample_mesh
from pft_lightning.evaluation.third_order import multiply_third
from pft_lightning.graphs import build_crystal_batch
from pft_lightning.physics.elasticity import relax_ions
from pft_lightning.physics.force_constants import (
    ForceConstants,
    from_array,
    symmetrise,
)
from pft_lightning.physics.gruneisen import mode_derivatives, mode_heat_capacity
from pft_lightning.types import Engine
from pft_lightning.units import unit_system


# Of one unit of ln V with fixed ratios of the axes.
_ISOTROPIC: Final = np.eye(3) / 3

# THz; a mode nearer to zero has no Grüneisen parameter.
_CUTOFF_FREQUENCY: Final = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class VolumeDerivative:
    """Force constants of a crystal, and how they change with its volume.

    Attributes:
        force_constants: (n_primitive, n_atoms, 3, 3), eV/Å², symmetrised.
        derivative: the same by ln V, of a cell that grows with fixed ratios of its
            axes and fixed angles, with ions that relax.
        ions: (n_primitive, 3), Å, how ions move by ln V beside following the cell.
        max_force: largest force on an atom, eV/Å; near zero in a relaxed crystal.
        lowest_internal: lowest eigenvalue of the Γ Hessian without translations,
            eV/Å²; where it is not positive the ions are at no minimum, and their
            response has no meaning. inf for one atom.
    """

    force_constants: np.ndarray
    derivative: np.ndarray
    ions: np.ndarray
    max_force: float
    lowest_internal: float


@dataclass(frozen=True, slots=True, eq=False)
class ModeGruneisen:
    """Mode Grüneisen parameters on a mesh of q-points.

    Attributes:
        q_points: (n_q, 3), of the primitive cell's reciprocal lattice.
        weights: (n_q,), sum 1.
        frequencies: (n_q, n_bands), THz, imaginary ones negative.
        gruneisen: (n_q, n_bands), γ; NaN where the frequency is zero, as of the
            acoustic modes at Γ.
    """

    q_points: np.ndarray
    weights: np.ndarray
    frequencies: np.ndarray
    gruneisen: np.ndarray

    def mean(self) -> float:
        """Mean over all modes of positive frequency."""
        return self._average(np.ones_like(self.frequencies))

    def thermodynamic(self, temperature: float) -> float:
        """Mean weighted by the heat capacities of the modes: γ(T) = α_V B V / C_V.

        Args:
            temperature: K, positive.
        """
        positive = np.where(self.frequencies > 0, self.frequencies, 1.0)
        return self._average(mode_heat_capacity(positive, temperature))

    def _average(self, share: np.ndarray) -> float:
        counted = np.isfinite(self.gruneisen) & (self.frequencies > 0)
        shares = np.where(counted, share * self.weights[:, None], 0.0)
        return float((shares * np.where(counted, self.gruneisen, 0.0)).sum()) / float(
            shares.sum()
        )


@dataclass(frozen=True, slots=True, eq=False)
class GruneisenParameters(ModeGruneisen):
    """Mode Grüneisen parameters of a potential.

    Attributes:
        volume: what they were computed from.
    """

    volume: VolumeDerivative


def gruneisen_of_volumes(
    volumes: Sequence[Phonopy], mesh: float | tuple[int, int, int] = 100.0
) -> ModeGruneisen:
    """Mode Grüneisen parameters of force constants at three volumes, by phonopy.

    ``γ = -<e| D(V₊) - D(V₋) |e> V / (2 ω² (V₊ - V₋))`` in the modes of the middle one.
    Born charges do not count, as in ``gruneisen_parameters``.

    Args:
        volumes: with force constants, in eV and Å, of ascending volume.
        mesh: of q-points, as of ``Protocol``.

    Source: ``phonopy.api_gruneisen.PhonopyGruneisen``.
    """
    smaller, middle, larger = (
        PhononCells.of(phonon, unit_system("vasp")).to_phonopy(phonon.force_constants)
        for phonon in volumes
    )
    found = PhonopyGruneisen(middle, larger, smaller)
    with np.errstate(divide="ignore", invalid="ignore"):  # translations at Γ
        found.set_mesh(mesh_numbers(middle, mesh), is_gamma_center=True)
    sampled = found.get_mesh()
    assert sampled is not None
    q_points, weights, frequencies, _, gruneisen = sampled
    known = np.where(np.abs(frequencies) > _CUTOFF_FREQUENCY, gruneisen, np.nan)
    return ModeGruneisen(q_points, weights / weights.sum(), frequencies, known)


def gruneisen_parameters(
    model: EnergyModel,
    phonon: Phonopy,
    *,
    mesh: float | tuple[int, int, int] = 100.0,
    relax: bool = True,
    max_atoms: int = 256,
    engine: Engine | None = None,
    progress: bool = False,
) -> GruneisenParameters:
    """Compute mode Grüneisen parameters of a crystal, without any change of volume.

    ``γ = -<e| dD/dlnV |e> / (2 ω²)``, where dD comes from exact third derivatives of
    the energy: one direction is a displacement, the other a strain of the cell with
    the displacements by which the ions give way to it. Displacements are reduced by
    symmetry as those of ``force_constants``. The volume changes with fixed ratios of
    the axes, which in a cubic crystal is all there is. All arithmetic is float64.

    Args:
        model: from ``load_model``.
        phonon: in eV and Å; relaxed with the model, it is taken as it is. Born charges
            do not count: how they change with the volume is unknown.
        mesh: of q-points, as of ``Protocol``.
        relax: let the ions give way; False has them follow the cell.
        max_atoms: atoms of a pass, counted once per direction; what bounds memory.
        engine: see ``pft_lightning.physics.hvp.compute_derivatives``.
        progress: show progress bars.

    Raises:
        ConfigError: the model is none of ours, lacks an element, or ``phonon`` is in
            other units.
    """
    found = volume_derivative(
        model,
        phonon,
        relax=relax,
        max_atoms=max_atoms,
        engine=engine,
        progress=progress,
    )
    cells = PhononCells.of(phonon, unit_system("vasp"))
    q_points, weights = sample_mesh(cells.to_phonopy(found.force_constants), mesh)
    frequencies, gruneisen = mode_gruneisen(phonon, found, q_points)
    return GruneisenParameters(q_points, weights, frequencies, gruneisen, found)


def volume_derivative(
    model: EnergyModel,
    phonon: Phonopy,
    *,
    relax: bool = True,
    max_atoms: int = 256,
    engine: Engine | None = None,
    progress: bool = False,
) -> VolumeDerivative:
    """Differentiate force constants by the volume; see ``gruneisen_parameters``.

    In a strained crystal the energy is a function of the positions before the strain:
    ``d2E/dr dr = (1 + ε)^T Φ (1 + ε)``. Its derivative along the strain, which third
    derivatives give, thus holds ``2/3 Φ`` beside ``dΦ/dlnV``.

    Raises:
        ConfigError: see ``gruneisen_parameters``.
    """
    check_model(model)
    model = in_float64(model)
    constants = compute_force_constants(
        model, phonon, max_atoms=max_atoms, engine=engine, progress=progress
    ).compact
    maps, _ = from_array(constants, phonon.primitive, phonon.symmetry.get_map_atoms())
    coupling, max_force = _volume_coupling(model, phonon, engine)
    ions, lowest = relax_ions(coupling[maps.representatives()], _at_gamma(maps))
    ions = ions[:, 0] if relax else np.zeros_like(ions[:, 0])
    displacements = inequivalent_displacements(phonon, 1.0, opposite=False)
    directions = to_directions(displacements, len(phonon.supercell))
    response = np.broadcast_to(ions[maps.primitive_index], directions.shape)
    third = multiply_third(
        model,
        supercell_of(phonon),
        np.stack([directions, response], axis=2),
        max_atoms,
        engine,
        progress,
        strain=_ISOTROPIC,
    )
    array = expand_by_symmetry(phonon, displacements, list(-third))
    raw, _ = from_array(array, phonon.primitive, phonon.symmetry.get_map_atoms())
    derivative = symmetrise(raw).compact - 2 / 3 * constants
    return VolumeDerivative(constants, derivative, ions, max_force, lowest)


def mode_gruneisen(
    phonon: Phonopy,
    volume: VolumeDerivative,
    q_points: np.ndarray,
    cutoff_frequency: float = _CUTOFF_FREQUENCY,
) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies and Grüneisen parameters at q-points.

    Args:
        phonon: the cells.
        volume: of the same.
        q_points: (n_q, 3), of the primitive cell's reciprocal lattice.
        cutoff_frequency: THz; nearer to zero there is no Grüneisen parameter.

    Returns:
        Both (n_q, n_bands): THz, imaginary ones negative, and γ, NaN where there is
        none.
    """
    matrices = [
        DynamicalMatrix(phonon.supercell, phonon.primitive, array)
        for array in (volume.force_constants, volume.derivative)
    ]
    values, changes = [], []
    for q_point in q_points:
        for matrix in matrices:
            matrix.run(q_point)
        found = mode_derivatives(*(m.dynamical_matrix for m in matrices))  # type: ignore[arg-type]
        values.append(found[0])
        changes.append(found[1])
    eigenvalues = np.array(values)
    factor = get_physical_units().DefaultToTHz
    frequencies = np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues)) * factor
    modes = np.abs(frequencies) > cutoff_frequency
    gruneisen = -np.array(changes) / (2 * np.where(modes, eigenvalues, np.nan))
    return frequencies, gruneisen


def _volume_coupling(
    model: EnergyModel, phonon: Phonopy, engine: Engine | None
) -> tuple[np.ndarray, float]:
    """How forces change with ln V (n_atoms, 1, 3), eV/Å, and the largest force."""
    batch = build_crystal_batch([supercell_of(phonon)], model.cutoff, model.device)
    strain = torch.from_numpy(_ISOTROPIC).to(model.device)
    with torch.no_grad():
        found = model.derivatives(
            batch, strain_tangents=strain[None, None], engine=engine
        )
    assert found.hvp is not None
    assert found.forces is not None
    force = float(found.forces.norm(dim=1).max())
    return found.hvp.cpu().numpy(), force


def _at_gamma(constants: ForceConstants) -> np.ndarray:
    """Hessian (3 n_primitive, 3 n_primitive) at Γ, eV/Å²."""
    n = constants.n_primitive
    summed = np.zeros((n, n, 3, 3))
    for atom, row in enumerate(constants.primitive_index):
        summed[:, row] += constants.compact[:, atom]
    return summed.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)
