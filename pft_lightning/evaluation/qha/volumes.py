"""A crystal at one volume: its energy, phonons and thermal properties."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import ase
import numpy as np
from phonopy import Phonopy

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.calculator import Calculator
from pft_lightning.data.cells import PhononCells
from pft_lightning.errors import DivergenceError, RelaxationError
from pft_lightning.evaluation.force_constants import (
    Potential,
    compute_force_constants,
)
from pft_lightning.evaluation.properties import compute_properties
from pft_lightning.evaluation.protocols import Protocol, relax
from pft_lightning.types import Engine
from pft_lightning.units import unit_system


_CURVES: Final = ("temperatures", "free_energy", "entropy", "heat_capacity")


@dataclass(frozen=True, slots=True, eq=False)
class VolumePoint:
    """What is known of a crystal at one volume, per primitive cell.

    Attributes:
        ratio: volume, relative to the crystal's.
        volume: Å³; 0 where it could not be relaxed.
        energy: eV, without phonons.
        lowest_frequency: THz, on the mesh.
        relax_steps: that ions and shape took.
        problem: why the volume is left out; empty where it counts.
        temperatures: (n_t,), K; empty where the volume is left out, as the others.
        free_energy: (n_t,), kJ/mol.
        entropy: (n_t,), J/K/mol.
        heat_capacity: (n_t,), J/K/mol, at constant volume.
    """

    ratio: float
    volume: float
    energy: float
    lowest_frequency: float
    relax_steps: int
    problem: str
    temperatures: np.ndarray
    free_energy: np.ndarray
    entropy: np.ndarray
    heat_capacity: np.ndarray

    def to_plain(self) -> dict[str, Any]:
        """As a JSON file has it."""
        return {field.name: getattr(self, field.name) for field in _FIELDS}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> VolumePoint | None:
        """Take what ``to_plain`` gave; None where it is something else."""
        try:
            found = {field.name: values[field.name] for field in _FIELDS}
            found |= {name: np.array(found[name], dtype=float) for name in _CURVES}
            if len({found[name].shape for name in _CURVES}) > 1:
                return None
            return cls(**found)
        except (KeyError, TypeError, ValueError):
            return None


_FIELDS: Final = dataclasses.fields(VolumePoint)


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """How every volume is computed.

    Attributes:
        model: in float64, or an ASE calculator.
        protocol: whether ions and shape relax, how force constants are computed, and
            temperatures, see ``with_margins``.
        mesh: numbers of q-points, the same for all volumes.
        max_atoms: of a pass.
        engine: of Hessian-vector products.
    """

    model: Potential
    protocol: Protocol
    mesh: list[int]
    max_atoms: int
    engine: Engine | None


def with_margins(protocol: Protocol) -> Protocol:
    """The protocol with a temperature more on each side, for differences between them.

    Below the first there is none at 0 K, where all that is a difference is 0. Bands
    and densities of states are nobody's business here.
    """
    first, last, step = protocol.temperatures
    last = max(last, protocol.temperature) + step
    return dataclasses.replace(
        protocol, temperatures=(max(0.0, first - step), last, step), band_points=0
    )


def compute_volume(
    setting: Setting, crystal: Phonopy, ratio: float
) -> tuple[VolumePoint, Phonopy | None]:
    """Scale a crystal, let ions and shape relax at that volume, and take its phonons.

    Args:
        setting: how.
        crystal: at the volume that ``ratio`` is relative to.
        ratio: of the volume.

    Returns:
        What is known, and the phonons; None where it cannot be relaxed.

    Raises:
        PFTError: the model cannot compute this crystal at any volume.
    """
    cells = PhononCells.of(crystal, unit_system("vasp"))
    scaled = cells.to_phonopy(cell=cells.cell * ratio ** (1 / 3))
    try:
        atoms, steps = _relaxed(setting, scaled)
        energy = float(atoms.get_potential_energy())
        if not np.isfinite(energy):
            raise DivergenceError(f"the energy is {energy}")
    except (RelaxationError, DivergenceError) as error:
        return _left_out(ratio, str(error).rstrip(".")), None
    phonon = cells.to_phonopy(
        cell=np.array(atoms.cell),
        scaled_positions=atoms.get_scaled_positions(wrap=False),
    )
    phonon.force_constants = compute_force_constants(
        setting.model,
        phonon,
        method=setting.protocol.method,
        displacement=setting.protocol.displacement,
        max_atoms=setting.max_atoms,
        engine=setting.engine,
    ).compact
    found = compute_properties(phonon, setting.protocol, mesh=setting.mesh)
    lowest = float(found.mesh_frequencies.min())
    threshold = setting.protocol.instability_threshold
    problem = ""
    if lowest < -threshold:
        problem = f"imaginary modes, the lowest at {lowest:.3g} THz"
    point = VolumePoint(
        ratio=ratio,
        volume=float(phonon.primitive.volume),
        energy=energy * len(phonon.primitive) / len(phonon.unitcell),
        lowest_frequency=lowest,
        relax_steps=steps,
        problem=problem,
        **{name: getattr(found, name) for name in _CURVES},
    )
    return point, phonon


def _relaxed(setting: Setting, scaled: Phonopy) -> tuple[ase.Atoms, int]:
    if setting.protocol.relax:
        return relax(setting.model, scaled, setting.protocol, fixed_volume=True)
    cell, model = scaled.unitcell, setting.model
    atoms = ase.Atoms(
        numbers=cell.numbers, cell=cell.cell, positions=cell.positions, pbc=True
    )
    atoms.calc = Calculator(model) if isinstance(model, EnergyModel) else model
    return atoms, 0


def _left_out(ratio: float, problem: str) -> VolumePoint:
    nothing = {name: np.empty(0) for name in _CURVES}
    return VolumePoint(ratio, 0.0, 0.0, 0.0, 0, problem, **nothing)
