"""Where soft modes end: relaxed from the minima of their wells, and followed on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Final

import ase
import numpy as np
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from phonopy import Phonopy

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.calculator import Calculator
from pft_lightning.data.supercells import SupercellOptions, build_supercell
from pft_lightning.errors import DataFormatError, DivergenceError, RelaxationError
from pft_lightning.evaluation.force_constants import Potential, compute_force_constants
from pft_lightning.evaluation.minimisation import relaxation_problem
from pft_lightning.evaluation.protocols import Protocol, minimise
from pft_lightning.evaluation.soft_modes.directions import Direction, find_directions
from pft_lightning.evaluation.soft_modes.modes import (
    SoftMode,
    SupercellWaves,
    find_soft_modes,
)
from pft_lightning.evaluation.soft_modes.options import SoftModeOptions
from pft_lightning.evaluation.soft_modes.symmetry import is_subgroup, space_group
from pft_lightning.evaluation.soft_modes.wells import (
    Well,
    compute_well,
    pattern_cell,
    potential_energies,
)
from pft_lightning.types import Engine


# Å, of symmetry that comes of how a structure was made.
_EXACT: Final = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """How a potential follows soft modes.

    Attributes:
        model: in float64, or an ASE calculator.
        protocol: of relaxations and force constants.
        options: which modes, and how far.
        max_atoms: of a pass.
        engine: of Hessian-vector products; None chooses by device.
    """

    model: Potential
    protocol: Protocol
    options: SoftModeOptions
    max_atoms: int
    engine: Engine | None


@dataclass(frozen=True, slots=True, eq=False)
class End:
    """Where a relaxation from the minimum of a well ended.

    Attributes:
        well: it started from.
        atoms: relaxed; the cell of the well, lattice vectors and atoms in its order.
        energy: eV/atom, relative to the parent.
        positions_energy: eV/atom, likewise, before the cell relaxed.
        steps: of both relaxations.
        is_subgroup: whether its symmetry operations are all the parent's.
        error: why there is no such end; empty where there is one.
    """

    well: Well
    atoms: ase.Atoms
    energy: float
    positions_energy: float
    steps: int
    is_subgroup: bool
    error: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """A crystal, its soft modes, and where they lead.

    Attributes:
        waves: phonons of the crystal, by the potential.
        atoms: its unit cell.
        energy: eV/atom, absolute.
        modes: soft ones, the lowest first.
        wells: along directions of the lowest modes.
        left_out: directions that need too large a cell.
        ends: of the deepest wells, the lowest first, failed ones last.
        error: why the lowest end was not looked at further; empty where it was.
    """

    waves: SupercellWaves
    atoms: ase.Atoms
    energy: float
    modes: list[SoftMode]
    wells: list[Well]
    left_out: int
    ends: list[End]
    error: str = ""

    @property
    def end(self) -> End | None:
        """The lowest end; None where there is none."""
        return self.ends[0] if self.ends and not self.ends[0].error else None


def follow_soft_modes(phonon: Phonopy, setting: Setting) -> list[Generation]:
    """Follow soft modes of a crystal to where the potential has none.

    Args:
        phonon: with the force constants of the potential, at its minimum.
        setting: of the potential.

    Returns:
        The crystal, then what its soft modes lead to, one after the other. The last
        one has soft modes only where ``generations`` are used up, no well of them
        has a minimum that relaxes, or an ``error`` says what else went wrong.

    Raises:
        PFTError: the potential cannot compute the crystal.
    """
    found = [_generation(phonon, setting, setting.options.generations > 0)]
    largest = len(phonon.supercell)
    for left in reversed(range(setting.options.generations)):
        if (end := found[-1].end) is None:
            break
        try:
            phonon = _phonons_of(end.atoms, largest, setting)
            found.append(_generation(phonon, setting, left > 0))
        except (DataFormatError, DivergenceError) as error:
            # What was found up to here is kept.
            found[-1] = replace(found[-1], error=str(error))
            break
    return found


def _generation(phonon: Phonopy, setting: Setting, follow: bool) -> Generation:
    """Soft modes of a crystal; their wells and ends where they are followed."""
    options, waves = setting.options, SupercellWaves.of(phonon)
    atoms = _to_ase(phonon)
    modes = find_soft_modes(waves, options.threshold)
    energy = _energy(setting.model, atoms)
    wells: list[Well] = []
    left_out = 0
    for mode in modes[: options.max_modes] if follow else ():
        chosen, too_large = _directions(waves, mode, options)
        left_out += too_large
        wells.extend(
            compute_well(
                setting.model,
                waves,
                direction,
                reach=options.reach,
                points=options.points,
                max_atoms=setting.max_atoms,
                engine=setting.engine,
            )
            for direction in chosen
        )
    deep = sorted((one for one in wells if one.depth < 0), key=lambda one: one.depth)
    # Per atom: wells of all modes of one crystal have the same primitive cell.
    ends = [_relax(well, energy, setting) for well in deep[: options.candidates]]
    ends.sort(key=lambda end: (bool(end.error), end.energy))
    return Generation(waves, atoms, energy, modes, wells, left_out, ends)


def _directions(
    waves: SupercellWaves, mode: SoftMode, options: SoftModeOptions
) -> tuple[list[Direction], int]:
    """Directions of a mode whose wells are computed, and how many are too large."""
    found = find_directions(waves, mode)
    small = [
        one
        for one in found
        if len(pattern_cell(waves, one).atoms) <= options.max_cell_atoms
    ]
    return small[: options.max_directions], len(found) - len(small)


def _relax(well: Well, parent_energy: float, setting: Setting) -> End:
    """Relax positions and then the cell from the minimum of a well."""
    start, protocol = well.cell.at(well.minimum), setting.protocol
    atoms = start.copy()
    atoms.calc = _calculator(setting.model)
    steps, fixed = 0, np.nan
    if not space_group(start, _EXACT)[1]:
        reason = "spglib finds no symmetry at the minimum: do atoms overlap?"
        return End(well, start, np.inf, fixed, steps, False, reason)
    try:
        # Forces keep the symmetry of the start but for their rounding.
        atoms.set_constraint(FixSymmetry(atoms, symprec=_EXACT))
        problem = relaxation_problem(atoms, protocol.volume_limits)
        steps += minimise(FIRE(atoms, logfile=None), protocol, problem)
        fixed = atoms.get_potential_energy() / len(atoms) - parent_energy
        cell = FrechetCellFilter(atoms)
        steps += minimise(FIRE(cell, logfile=None), protocol, problem)
        energy = atoms.get_potential_energy() / len(atoms) - parent_energy
    except RelaxationError as error:
        return End(well, start, np.inf, fixed, steps, False, str(error))
    atoms.calc = None
    atoms.set_constraint()
    within = is_subgroup(atoms, well.cell.atoms, setting.options.symprec)
    return End(well, atoms, float(energy), float(fixed), steps, within)


def _phonons_of(atoms: ase.Atoms, at_least: int, setting: Setting) -> Phonopy:
    """Phonons of an end, in a supercell that is no smaller than its parent's.

    Raises:
        DataFormatError: it has no symmetry that spglib finds.
    """
    size = SupercellOptions(max_atoms=max(at_least, 2 * len(atoms), 120))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Point group symmetries", UserWarning)
        phonon = build_supercell(
            atoms, size, atoms.get_chemical_formula(), setting.options.symprec
        )
    found = compute_force_constants(
        setting.model,
        phonon,
        method=setting.protocol.method,
        displacement=setting.protocol.displacement,
        max_atoms=setting.max_atoms,
        engine=setting.engine,
    )
    phonon.force_constants = found.compact
    return phonon


def _to_ase(phonon: Phonopy) -> ase.Atoms:
    cell = phonon.unitcell
    return ase.Atoms(
        numbers=cell.numbers,
        cell=cell.cell,
        positions=cell.positions,
        masses=cell.masses,
        pbc=True,
    )


def _energy(model: Potential, atoms: ase.Atoms) -> float:
    """EV/atom."""
    (energy,) = potential_energies(model, atoms, atoms.positions[None], len(atoms))
    return float(energy / len(atoms))


def _calculator(model: Potential) -> Calculator | Potential:
    return Calculator(model) if isinstance(model, EnergyModel) else model
