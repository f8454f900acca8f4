"""Protocols: what exactly is computed before two sets of force constants compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from ase.optimize.optimize import Optimizer
from phonopy import Phonopy
from pydantic import Field

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.calculator import Calculator
from pft_lightning.data.cells import PhononCells
from pft_lightning.errors import ConfigError, RelaxationError
from pft_lightning.evaluation.force_constants import (
    Method,
    Potential,
    compute_force_constants,
    in_float64,
)
from pft_lightning.evaluation.minimisation import relaxation_problem, run_optimiser
from pft_lightning.option_types import (
    Angstrom,
    As,
    AtLeastZero,
    Count,
    EVPerAngstrom,
    Kelvin,
    Positive,
    Terahertz,
    Text,
    Unit,
    Words,
)
from pft_lightning.types import Engine
from pft_lightning.units import unit_system


VolumeLimits = Annotated[
    list[Positive],
    Field(min_length=2, max_length=2),
    Words("two numbers above 0, the smaller one first"),
]
Mesh = Annotated[
    # Beyond these, the points of the mesh fill the memory of any machine.
    Annotated[float, Field(gt=0, le=1000)]
    | Annotated[
        list[Annotated[int, Field(ge=1, le=500)]], Field(min_length=3, max_length=3)
    ],
    Words("a length in Å of at most 1000, or three whole numbers up to 500 in a list"),
]
Relaxed = Annotated[
    bool | Literal["atoms"], Words("true (atoms and lattice), atoms or false")
]
_Temperatures = Annotated[
    list[AtLeastZero],
    Field(min_length=3, max_length=3),
    Words("[first, last, step] in K"),
]


@dataclass(frozen=True, slots=True)
class Protocol:
    """All choices that decide the numbers of an evaluation.

    Force constants of reference and model go through the same steps: the acoustic sum
    rule and permutation symmetry are imposed, then phonopy computes frequencies.

    Attributes:
        name: name of the protocol.
        relax: relax the unit cell with the model first (``FrechetCellFilter`` and
            ``FIRE`` of ASE, symmetry kept by ``FixSymmetry``): true for atoms and
            lattice, ``atoms`` in the reference's lattice; otherwise the reference's
            cell is taken as it is.
        method: how force constants are computed: ``hvp`` (analytic),
            ``finite_displacement`` or ``full``.
        displacement: length of finite displacements, Å.
        fmax: largest force of a relaxation that has converged, eV/Å.
        max_steps: steps of a relaxation; one that needs more has failed.
        keep_unconverged: go on with what ``max_steps`` have made of the cell instead.
        volume_limits: a relaxation whose volume leaves this range, relative to the
            reference, has exploded.
        mesh: the dense mesh of q-points: a length in Å, n_i = l |a*_i| as in VASP, or
            three numbers. It is set by the reference's cell.
        is_gamma_center: whether Γ is a point of the mesh where its numbers are even;
            False shifts it by half a step along these axes, as phonopy does with
            three numbers unless it is told otherwise. The published evaluation
            (arXiv:2412.16551) takes phonopy's mesh of a length of 100, which is
            Γ-centred.
        temperatures: first, last and step of the temperature range, K.
        temperature: where S, F and C_V are compared as single values, K.
        cutoff_frequency: modes at or below it, so imaginary ones and the acoustic
            ones at Γ, do not enter S, F and C_V (phonopy's convention), on either
            side; THz.
        dos_pitch: distance of the frequencies at which the density of states is
            given, THz.
        dos_smearing: standard deviation of its Gaussian smearing, THz.
        band_points: q-points of a path segment of average length; 0 computes no band
            structure.
        instability_threshold: a material is unstable if a frequency of the dense mesh
            (of the band structure, in scores along it) is below minus this; THz.
        non_analytical: put the non-analytical correction into the frequencies of both
            sides where the reference has Born charges.
    """

    name: Text = "dft_cell"
    relax: Annotated[bool | Literal["atoms"], As(Relaxed)] = False
    method: Method = "hvp"
    displacement: Angstrom = 0.01
    fmax: EVPerAngstrom = 0.005
    max_steps: Count = 1000
    keep_unconverged: bool = False
    volume_limits: Annotated[tuple[float, float], As(VolumeLimits)] = (0.5, 2.0)
    mesh: Annotated[float | tuple[int, int, int], As(Mesh)] = 100.0
    is_gamma_center: bool = True
    temperatures: Annotated[tuple[float, float, float], As(_Temperatures)] = (
        0.0,
        1000.0,
        10.0,
    )
    temperature: Kelvin = 300.0
    cutoff_frequency: Terahertz = 1e-3
    dos_pitch: Annotated[float, Field(ge=1e-4, le=100), Unit("THz")] = 0.05
    dos_smearing: Annotated[float, Field(gt=0, le=100), Unit("THz")] = 0.1
    band_points: Annotated[int, Field(ge=0, le=100_000)] = 51
    instability_threshold: Terahertz = 0.3
    non_analytical: bool = False

    def __post_init__(self) -> None:
        """Check the values, and take lists from configuration files.

        Raises:
            ConfigError: a value makes no sense.
        """
        for field in ("volume_limits", "temperatures"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if not isinstance(self.mesh, (int, float)):
            object.__setattr__(self, "mesh", tuple(self.mesh))
        positive = ("displacement", "fmax", "max_steps", "dos_pitch", "dos_smearing")
        for field in (*positive, "temperature"):
            if not getattr(self, field) > 0:
                raise ConfigError(
                    f"protocol.{field}={getattr(self, field)}; a positive number is "
                    "needed."
                )
        first, last, step = self.temperatures
        if not (0 <= first <= last and step > 0):
            raise ConfigError(
                f"protocol.temperatures={list(self.temperatures)}; expected [first, "
                "last, step] in K."
            )
        if min(np.atleast_1d(self.mesh)) <= 0 or np.size(self.mesh) not in (1, 3):
            raise ConfigError(
                f"protocol.mesh={self.mesh}; expected a length in Å or three numbers."
            )
        if self.instability_threshold < 0 or self.cutoff_frequency < 0:
            raise ConfigError(
                "protocol.instability_threshold and cutoff_frequency are positive "
                "numbers of THz."
            )


# What potentials are ranked by on ML-PEG 0.7 (``calc_phonons.py``): lattices of DFT,
# phonopy's mesh as it comes, 300 K among its temperatures, frequencies along the path.
ML_PEG = Protocol(
    name="ml_peg",
    relax="atoms",
    method="finite_displacement",
    keep_unconverged=True,
    mesh=(20, 20, 20),
    is_gamma_center=False,
    temperatures=(0.0, 600.0, 75.0),
    cutoff_frequency=0.0,
    band_points=101,
    instability_threshold=0.05,
)

_MDR = Protocol(name="mdr", relax=True, method="finite_displacement", mesh=(20, 20, 20))

PROTOCOLS: dict[str, Protocol] = {
    "dft_cell": Protocol(),
    "mdr": _MDR,
    "mdr_analytic": dataclasses.replace(_MDR, name="mdr_analytic", method="hvp"),
    "ml_peg": ML_PEG,
}


def get_protocol(protocol: str | Protocol) -> Protocol:
    """Give a protocol by name; one that is made already comes back as it is.

    Raises:
        ConfigError: unknown name.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"protocol={protocol!r}; expected one of {', '.join(PROTOCOLS)}."
        )
    return PROTOCOLS[protocol]


@dataclass(frozen=True, slots=True, eq=False)
class ModelPhonons:
    """Phonons of a model, as a protocol makes them.

    Attributes:
        phonon: with the force constants of the model.
        volume_ratio: of the relaxed cell to the reference's; 1 without relaxation.
        relax_steps: 0 without relaxation.
        n_products: Hessian-vector products or force calculations.
    """

    phonon: Phonopy
    volume_ratio: float
    relax_steps: int
    n_products: int


def compute_phonons(
    model: Potential,
    reference: Phonopy,
    protocol: Protocol,
    *,
    max_atoms: int = 256,
    engine: Engine | None = None,
    progress: bool = False,
) -> ModelPhonons:
    """Compute the phonons of a model in the supercell of a reference.

    Raises:
        RelaxationError: the relaxation exploded or did not converge.
        ConfigError: the model lacks an element.
        NotDifferentiableError: analytic force constants of an ASE calculator.
    """
    cells = PhononCells.of(reference, unit_system("vasp"))
    steps, ratio = 0, 1.0
    if isinstance(model, EnergyModel):
        model = in_float64(model)
    if protocol.relax:
        relaxed, steps = relax(model, reference, protocol)
        ratio = float(relaxed.get_volume() / reference.unitcell.volume)
        phonon = cells.to_phonopy(
            cell=np.array(relaxed.cell),
            scaled_positions=relaxed.get_scaled_positions(wrap=False),
        )
    else:
        phonon = cells.to_phonopy()
    found = compute_force_constants(
        model,
        phonon,
        method=protocol.method,
        displacement=protocol.displacement,
        max_atoms=max_atoms,
        engine=engine,
        progress=progress,
    )
    phonon.force_constants = found.compact
    return ModelPhonons(phonon, ratio, steps, found.n_products)


def relax(
    model: Potential,
    reference: Phonopy,
    protocol: Protocol,
    *,
    fixed_volume: bool = False,
) -> tuple[Atoms, int]:
    """Relax atoms and lattice of the reference's unit cell, keeping its symmetry.

    Args:
        model: in float64, or an ASE calculator.
        reference: gives the unit cell.
        protocol: how far, and whether the lattice stays.
        fixed_volume: whether only the shape of the lattice changes.

    Returns:
        The relaxed unit cell and the number of steps.

    Raises:
        RelaxationError: forces or volume ran away, or it did not converge in time.
    """
    unitcell = reference.unitcell
    calculator: BaseCalculator = (
        Calculator(model) if isinstance(model, EnergyModel) else model
    )
    atoms = Atoms(
        numbers=unitcell.numbers,
        cell=unitcell.cell,
        scaled_positions=unitcell.scaled_positions,
        pbc=True,
    )
    atoms.calc = calculator
    atoms.set_constraint(FixSymmetry(atoms, symprec=reference.symmetry.tolerance))
    problem = relaxation_problem(atoms, protocol.volume_limits)
    free = (
        atoms
        if protocol.relax == "atoms"
        else FrechetCellFilter(atoms, constant_volume=fixed_volume)
    )
    optimiser = FIRE(free, logfile=None)
    return atoms, minimise(optimiser, protocol, problem)


def minimise(
    optimiser: Optimizer, protocol: Protocol, problem: Callable[[], str | None]
) -> int:
    """Run an optimiser until forces are below the protocol's ``fmax``.

    Args:
        optimiser: of ASE.
        protocol: gives ``fmax`` and ``max_steps``.
        problem: says after each step what has run away; None where nothing has.

    Returns:
        The number of steps.

    Raises:
        RelaxationError: something ran away, or it did not converge in time and the
            protocol does not keep that.
    """
    converged = run_optimiser(optimiser, protocol.fmax, protocol.max_steps, problem)
    if converged or protocol.keep_unconverged:
        return int(optimiser.nsteps)
    raise RelaxationError(
        f"the relaxation did not converge to fmax={protocol.fmax} eV/Å in "
        f"{protocol.max_steps} steps."
    )
