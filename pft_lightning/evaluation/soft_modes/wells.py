"""Double wells: the energy along soft modes, in the smallest cells that they fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ase
import numpy as np
import torch
from scipy.optimize import minimize_scalar

from pft_lightning.backends.base import EnergyModel
from pft_lightning.errors import DivergenceError
from pft_lightning.evaluation.force_constants import (
    Potential,
    all_passes,
    displaced_forces,
    multiply_hessian,
)
from pft_lightning.evaluation.soft_modes.directions import Direction
from pft_lightning.evaluation.soft_modes.modes import SupercellWaves
from pft_lightning.graphs import build_crystal_batch
from pft_lightning.types import Engine


# Where the energy still falls at the end of a path, it is followed so many times
# farther; where it has risen at the first point already, the path is halved so often.
_MAX_EXTENSIONS = 3
_MAX_HALVINGS = 6

# Ends of the points that are kept, in amplitudes of the minimum; a well of second and
# fourth order has risen to zero again at √2.
_SHOWN = 1.5

# Å, largest displacement of finite differences, for ASE calculators.
_STEP = 0.005


@dataclass(frozen=True, slots=True, eq=False)
class PatternCell:
    """The smallest cell that a direction of a soft mode fits.

    Attributes:
        atoms: of the undistorted crystal.
        pattern: (n_atoms, 3), Å/(Å AMU^(1/2)), displacements at unit amplitude.
        n_cells: number of primitive cells in it.
    """

    atoms: ase.Atoms
    pattern: np.ndarray
    n_cells: int

    @property
    def largest(self) -> float:
        """Displacement of the atom that moves most at unit amplitude."""
        return float(np.linalg.norm(self.pattern, axis=1).max())

    def at(self, amplitude: float) -> ase.Atoms:
        """The distorted crystal at an amplitude, Å AMU^(1/2)."""
        atoms = self.atoms.copy()
        atoms.positions += amplitude * self.pattern
        return atoms


def pattern_cell(waves: SupercellWaves, direction: Direction) -> PatternCell:
    """Find the smallest cell of a direction, and its atoms.

    Args:
        waves: of the crystal.
        direction: of one of its soft modes.
    """
    permutations = waves.force_constants.permutations
    pattern = direction.pattern
    moved = np.linalg.norm(pattern[permutations] - pattern, axis=2).max(axis=1)
    # What is no translation of the pattern turns at least one atom's displacement by
    # 2π / n_cells.
    kept = moved < 1e-3 * np.linalg.norm(pattern, axis=1).max()
    vectors = waves.lattice.sublattice(waves.lattice.translations[kept])
    # Of atoms that the cell's own translations send to each other, the first.
    chosen = np.unique(permutations[kept].min(axis=0))
    supercell = waves.phonon.supercell
    atoms = ase.Atoms(
        numbers=supercell.numbers[chosen],
        positions=supercell.positions[chosen],
        masses=waves.masses[chosen],
        cell=vectors,
        pbc=True,
    )
    return PatternCell(atoms, pattern[chosen], waves.n_cells // int(kept.sum()))


@dataclass(frozen=True, slots=True, eq=False)
class Well:
    """The energy of a potential along a direction of a soft mode.

    Attributes:
        direction: it is along.
        cell: where it was computed.
        amplitudes: (n,), Å AMU^(1/2), ascending, with 0.
        energies: (n,), eV per primitive cell, relative to amplitude 0.
        curvature: second derivative at 0, eV/Å²/AMU, by the potential in this cell.
        minimum: amplitude of the lowest point.
        depth: energy there, eV per primitive cell; 0 where no point is lower than 0.
        is_closed: whether the energy rises again on both sides.
    """

    direction: Direction
    cell: PatternCell
    amplitudes: np.ndarray
    energies: np.ndarray
    curvature: float
    minimum: float
    depth: float
    is_closed: bool


def compute_well(
    model: Potential,
    waves: SupercellWaves,
    direction: Direction,
    *,
    reach: float,
    points: int,
    max_atoms: int,
    engine: Engine | None = None,
) -> Well:
    """Compute the energy along +A and -A, and its lowest point.

    The well is searched for first: where the energy still falls at the end of a side,
    that side is made up to four times as long; where it has risen on both sides at
    their first points, though the curvature is negative, both are halved. The points
    that are kept then reach as far as the well.

    Args:
        model: in float64, or an ASE calculator.
        waves: of the crystal as the model has it.
        direction: of one of its soft modes.
        reach: Å, where the search begins: displacement of the atom that moves most.
        points: of each side.
        max_atoms: of a pass.
        engine: of the second derivative.

    Raises:
        DivergenceError: the energy at no displacement is NaN or infinite.
    """
    cell = pattern_cell(waves, direction)

    def energies_at(amplitudes: np.ndarray) -> np.ndarray:
        moved = cell.atoms.positions + amplitudes[:, None, None] * cell.pattern
        return potential_energies(model, cell.atoms, moved, max_atoms) / cell.n_cells

    (origin,) = energies_at(np.zeros(1))
    if not np.isfinite(origin):
        raise DivergenceError(
            f"the energy of {cell.atoms.get_chemical_formula()} is {origin}."
        )
    curvature = compute_curvature(model, cell, max_atoms, engine)
    step = reach / points / cell.largest
    amplitudes, energies, minimum, depth, is_closed = _profile(
        lambda a: energies_at(a) - origin, step, points, is_soft=curvature < 0
    )
    return Well(
        direction=direction,
        cell=cell,
        amplitudes=amplitudes,
        energies=energies,
        curvature=curvature,
        minimum=minimum,
        depth=depth,
        is_closed=is_closed,
    )


def compute_curvature(
    model: Potential, cell: PatternCell, max_atoms: int, engine: Engine | None = None
) -> float:
    """Second derivative of the energy per primitive cell by the amplitude, eV/Å²/AMU.

    Exact for our models; of ASE calculators a central difference of forces.
    """
    if isinstance(model, EnergyModel):
        products = multiply_hessian(
            model, cell.atoms, cell.pattern[None], max_atoms, engine
        )
        return float((products[0] * cell.pattern).sum() / cell.n_cells)
    amplitude = _STEP / cell.largest
    moved = amplitude * np.array([1, -1])[:, None, None] * cell.pattern
    plus, minus = displaced_forces(
        model, cell.atoms, cell.atoms.positions + moved, max_atoms
    )
    slope = ((minus - plus) * cell.pattern).sum()
    return float(slope / (2 * amplitude) / cell.n_cells)


def potential_energies(
    model: Potential, atoms: ase.Atoms, displaced: np.ndarray, max_atoms: int
) -> np.ndarray:
    """Energies (n,), eV, at each of several positions (n, n_atoms, 3)."""
    if not isinstance(model, EnergyModel):
        calculated = atoms.copy()
        calculated.calc = model
        found = []
        for positions in displaced:
            calculated.positions = positions
            found.append(float(calculated.get_potential_energy()))
        return np.array(found)

    def energies_of(some: np.ndarray) -> np.ndarray:
        moved = []
        for positions in some:
            moved.append(atoms.copy())
            moved[-1].positions = positions
        batch = build_crystal_batch(moved, model.cutoff).to(model.device)
        with torch.no_grad():
            result = model.derivatives(batch, forces=False, stress=False)
        return np.asarray(result.energy.cpu().numpy())

    per_pass = max(1, max_atoms // len(atoms))
    return np.concatenate(all_passes(energies_of, displaced, per_pass, "", False))


def _profile(
    energies_at: Callable[[np.ndarray], np.ndarray],
    step: float,
    points: int,
    *,
    is_soft: bool,
) -> tuple[np.ndarray, np.ndarray, float, float, bool]:
    """Amplitudes, energies, lowest point and its energy, and whether both ends rise."""
    amplitudes, energies, is_closed = _scan(energies_at, step, points, is_soft=is_soft)
    minimum, depth = _lowest(energies_at, amplitudes, energies)
    if is_closed and minimum:
        amplitudes = np.linspace(-1, 1, 2 * points + 1) * _SHOWN * abs(minimum)
        energies = energies_at(amplitudes)
        energies[points] = 0.0  # by definition, whatever rounding a larger batch has
    return amplitudes, energies, minimum, depth, is_closed


def _scan(
    energies_at: Callable[[np.ndarray], np.ndarray],
    step: float,
    points: int,
    *,
    is_soft: bool,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Amplitudes and energies of both sides, and whether both rise at their ends."""
    for _ in range(_MAX_HALVINGS if is_soft else 0):
        if energies_at(np.array([-step, step])).min() < 0:
            break
        step /= 2
    (left, low), (right, high) = (
        _follow(energies_at, sign * step, points) for sign in (-1, 1)
    )
    is_closed = all(e[-1] > min(e.min(), 0.0) for e in (low, high))
    return (
        np.concatenate([left[::-1], [0.0], right]),
        np.concatenate([low[::-1], [0.0], high]),
        is_closed,
    )


def _follow(
    energies_at: Callable[[np.ndarray], np.ndarray], step: float, points: int
) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes and energies of one side, as long as the energy falls."""
    amplitudes = step * np.arange(1, points + 1)
    energies = energies_at(amplitudes)
    for _ in range(_MAX_EXTENSIONS):
        if not energies[-1] <= min(energies.min(), 0):
            break
        farther = amplitudes[-1] + step * np.arange(1, points + 1)
        amplitudes = np.concatenate([amplitudes, farther])
        energies = np.concatenate([energies, energies_at(farther)])
    return amplitudes, energies


def _lowest(
    energies_at: Callable[[np.ndarray], np.ndarray],
    amplitudes: np.ndarray,
    energies: np.ndarray,
) -> tuple[float, float]:
    """Amplitude and energy of the lowest point, between those that were computed."""
    place = int(np.nanargmin(energies))
    if amplitudes[place] == 0:
        return 0.0, 0.0
    if place in (0, len(amplitudes) - 1):
        return float(amplitudes[place]), float(energies[place])
    found = minimize_scalar(
        lambda a: float(energies_at(np.array([a]))[0]),
        bounds=(amplitudes[place - 1], amplitudes[place + 1]),
        method="bounded",
        options={"xatol": 1e-3 * float(amplitudes[place + 1] - amplitudes[place])},
    )
    if found.fun > energies[place]:
        return float(amplitudes[place]), float(energies[place])
    return float(found.x), float(found.fun)
