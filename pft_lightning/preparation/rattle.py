"""Structures around given crystals, to be labelled by DFT or by a base model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import ase
import numpy as np
from ase.calculators.calculator import Calculator
from ase.geometry import get_distances
from ase.optimize import FIRE
from pydantic import Field

from pft_lightning.errors import ConfigError
from pft_lightning.option_types import (
    As,
    AtLeastZero,
    NAtoms,
    Natural,
    Positive,
    Seed,
    Words,
)


# Attempts at a rattled structure whose atoms keep their distance.
_ATTEMPTS = 20
# Å; steps of a relaxation, small enough to leave structures on the way.
_MAX_STEP = 0.05


_Displacement = Annotated[
    list[AtLeastZero],
    Field(min_length=2, max_length=2),
    Words("[smallest, largest] in Å"),
]
_Volume = Annotated[
    list[Positive], Field(min_length=2, max_length=2), Words("[smallest, largest]")
]


@dataclass(frozen=True, slots=True)
class RattleOptions:
    """How structures are made.

    Attributes:
        n_rattled: structures per crystal with random displacements and volumes.
        displacement: (smallest, largest) standard deviation of a displacement per
            Cartesian component, Å; the structures cover the range evenly.
        volume: (smallest, largest) volume relative to the crystal.
        shear: standard deviation of each component of a random symmetric strain
            without trace.
        n_path: structures per crystal on a relaxation path, which starts at one of
            the rattled structures; needs a model.
        min_distance: least distance of two atoms relative to the shortest one of the
            crystal.
        min_atoms: crystals are repeated until they have at least as many atoms.
        seed: seed of all draws.
    """

    n_rattled: Natural = 10
    displacement: Annotated[tuple[float, float], As(_Displacement)] = (0.01, 0.1)
    volume: Annotated[tuple[float, float], As(_Volume)] = (0.94, 1.06)
    shear: AtLeastZero = 0.01
    n_path: Natural = 0
    min_distance: AtLeastZero = 0.7
    min_atoms: NAtoms = 1
    seed: Seed = 0

    def __post_init__(self) -> None:
        for name in ("displacement", "volume"):
            low, high = getattr(self, name)
            if not 0 <= low <= high or (name == "volume" and low == 0):
                raise ConfigError(f"rattle.{name} is [{low}, {high}]; smallest first.")
        for name in ("n_rattled", "n_path", "shear", "min_distance"):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"rattle.{name} is {value}; at least 0.")
        if self.min_atoms < 1:
            raise ConfigError(f"rattle.min_atoms is {self.min_atoms}; at least 1.")
        if self.n_rattled + self.n_path == 0:
            raise ConfigError("rattle.n_rattled and rattle.n_path are both 0.")


def rattle(
    crystal: ase.Atoms,
    options: RattleOptions,
    *,
    index: int = 0,
    calculator: Calculator | None = None,
) -> list[ase.Atoms]:
    """Make structures around a crystal.

    Args:
        crystal: periodic structure at or near its minimum.
        options: see ``RattleOptions``.
        index: of the crystal among several, so that each has draws of its own.
        calculator: of the model whose relaxation path is followed.

    Returns:
        Rattled structures, then those on the path from higher to lower energy. Each
        says in ``info["origin"]`` how it was made.

    Raises:
        ConfigError: a path was asked for without a calculator, or the limits cannot
            be kept.
    """
    if options.n_path and calculator is None:
        raise ConfigError(
            "rattle.n_path needs a model that relaxes the structures: give "
            "model.checkpoint=..., or n_path=0."
        )
    rng = np.random.default_rng([options.seed, index])
    base = _repeat(crystal, options.min_atoms)
    shortest = _shortest_distance(base)
    widths = np.linspace(*options.displacement, options.n_rattled)
    structures = [_draw(base, width, shortest, options, rng) for width in widths]
    if options.n_path:
        assert calculator is not None
        start = _draw(base, options.displacement[1], shortest, options, rng)
        structures += _relaxation_path(start, calculator, options.n_path)
    name = crystal.get_chemical_formula()
    for structure in structures:
        structure.info["origin"] = f"{name} {structure.info['origin']}"
    return structures


def _repeat(crystal: ase.Atoms, min_atoms: int) -> ase.Atoms:
    """Repeat along the shortest lattice vectors; drop all that is not geometry."""
    atoms = ase.Atoms(
        crystal.symbols, crystal.positions, cell=crystal.cell, pbc=crystal.pbc
    )
    while len(atoms) < min_atoms and atoms.pbc.any():
        lengths = np.where(atoms.pbc, atoms.cell.lengths(), np.inf)
        repeats = np.ones(3, dtype=int)
        repeats[int(np.argmin(lengths))] = 2
        atoms = atoms.repeat(repeats)
    return atoms


def _draw(
    base: ase.Atoms,
    width: float,
    shortest: float,
    options: RattleOptions,
    rng: np.random.Generator,
) -> ase.Atoms:
    for _ in range(_ATTEMPTS):
        atoms = base.copy()
        ratio = 1.0
        if atoms.pbc.all():
            ratio = rng.uniform(*options.volume)
            strain = options.shear * rng.standard_normal((3, 3))
            strain = (strain + strain.T) / 2
            strain -= np.eye(3) * np.trace(strain) / 3
            deformation = np.eye(3) + strain
            deformation *= (ratio / np.linalg.det(deformation)) ** (1 / 3)
            atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        atoms.positions += width * rng.standard_normal(atoms.positions.shape)
        if _shortest_distance(atoms) >= options.min_distance * shortest:
            atoms.info["origin"] = f"rattled {width:.3f} A, volume {ratio:.3f}"
            return atoms
    raise ConfigError(
        f"{base.get_chemical_formula()}: displacements of {width:g} Å bring atoms "
        f"nearer than {options.min_distance:g} of their shortest distance "
        f"({shortest:.2f} Å) in {_ATTEMPTS} draws. Lower rattle.displacement or "
        "rattle.min_distance."
    )


def _relaxation_path(
    start: ase.Atoms, calculator: Calculator, n_structures: int
) -> list[ase.Atoms]:
    """Structures at equal steps of the energy between the start and the minimum."""
    atoms = start.copy()
    atoms.calc = calculator
    frames: list[ase.Atoms] = []
    energies: list[float] = []

    def keep() -> None:
        frames.append(atoms.copy())
        energies.append(float(atoms.get_potential_energy()))

    optimizer = FIRE(atoms, logfile=None, maxstep=_MAX_STEP)
    optimizer.attach(keep)
    optimizer.run(fmax=0.01, steps=200)
    wanted = np.linspace(energies[0], min(energies), n_structures, endpoint=False)
    chosen = sorted({int(np.argmin(np.abs(np.array(energies) - e))) for e in wanted})
    for i in chosen:
        height = (energies[i] - min(energies)) / len(atoms)
        frames[i].info["origin"] = f"relaxation, {height:.4f} eV/atom above its end"
    return [frames[i] for i in chosen]


def _shortest_distance(atoms: ase.Atoms) -> float:
    """Å, between two atoms or an atom and its image."""
    _, distances = get_distances(atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    np.fill_diagonal(distances, np.inf)
    images: Sequence[float] = (
        atoms.cell.minkowski_reduce()[0].lengths()[atoms.pbc].tolist()
        if atoms.pbc.all()
        else atoms.cell.lengths()[atoms.pbc].tolist()
    )
    return float(min([distances.min(), *images]))
