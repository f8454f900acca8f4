"""Relaxation of a crystal before its conductivity, in one stage or two."""

from __future__ import annotations

from dataclasses import dataclass

import ase
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.calculator import Calculator
from pft_lightning.evaluation.conductivity.cells import space_group
from pft_lightning.evaluation.conductivity.protocol import ConductivityProtocol
from pft_lightning.evaluation.force_constants import Potential
from pft_lightning.evaluation.minimisation import relaxation_problem, run_optimiser


@dataclass(frozen=True, slots=True, eq=False)
class RelaxedCrystal:
    """A relaxed crystal, and how that went.

    Attributes:
        atoms: the crystal, without a calculator.
        n_steps: of all stages.
        converged: whether forces are below the protocol's in the end.
        space_groups: numbers before and after.
        volume_ratio: to the crystal that was given.
    """

    atoms: ase.Atoms
    n_steps: int
    converged: bool
    space_groups: tuple[int, int]
    volume_ratio: float


def relax_crystal(
    model: Potential, atoms: ase.Atoms, protocol: ConductivityProtocol
) -> RelaxedCrystal:
    """Relax a crystal as a protocol says; it comes back as it is where it says so.

    Args:
        model: from ``load_model``, or an ASE calculator.
        atoms: the crystal; left as it is.
        protocol: gives stages, limits and tolerances.

    Raises:
        RelaxationError: forces or volume ran away.
        ConfigError: the model lacks an element.
    """
    before = space_group(atoms, protocol.symprec)
    if not protocol.relax:
        return RelaxedCrystal(atoms.copy(), 0, True, (before, before), 1.0)
    moved = atoms.copy()
    moved.set_constraint()
    moved.calc = Calculator(model) if isinstance(model, EnergyModel) else model
    moved.set_constraint(FixSymmetry(moved, symprec=protocol.relax_symprec))
    cell_filter = FrechetCellFilter(moved, mask=list(protocol.cell_mask))
    problem = relaxation_problem(moved, protocol.volume_limits)
    n_steps = 0

    def run() -> bool:
        nonlocal n_steps
        optimiser = FIRE(cell_filter, logfile=None)
        converged = run_optimiser(optimiser, protocol.fmax, protocol.max_steps, problem)
        n_steps += int(optimiser.nsteps)
        return converged

    converged = run()
    moved.set_constraint()
    if protocol.n_stages == 2:
        first, kept = moved.copy(), space_group(moved, protocol.symprec)
        first_converged = converged
        converged = run()
        if space_group(moved, protocol.symprec) != kept:
            moved, converged = first, first_converged
    moved.calc = None
    return RelaxedCrystal(
        atoms=moved,
        n_steps=n_steps,
        converged=converged,
        space_groups=(before, space_group(moved, protocol.symprec)),
        volume_ratio=float(moved.get_volume() / atoms.get_volume()),
    )
