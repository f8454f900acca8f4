"""What tables of measured values and phonopy's results say, in the units of the house.

Frequencies are in THz; thermal properties keep the unit that they were written in until
the crystal is known whose atoms a mole or a kilogram counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

import numpy as np

from pft_lightning.units import ThermalUnit


ThermalQuantity = Literal["heat_capacity", "entropy", "free_energy"]

# Frequencies that a crystal can have, THz: that of hydrogen molecules is 130.
MAX_FREQUENCY: Final = 200.0

# Most primitive cells that a q-point may need, which is its common denominator.
MAX_ORDER: Final = 24


@dataclass(frozen=True, slots=True)
class Frequency:
    """A line of a table of frequencies.

    Attributes:
        structure: name of the crystal.
        q_point: fractions of the reciprocal vectors of its primitive cell.
        direction: along which Γ is approached, where long-range dipoles split modes, in
            these fractions, whole numbers without a common divisor and of the sign that
            makes the first positive; None where they do not.
        value: THz.
        uncertainty: THz; None where it is not known.
        branch: number of the mode, counted from 0 at the lowest, the translations at Γ
            included; None where it is not known.
        label: of the mode, as TA or T2g; empty without one.
        irrep: irreducible representation that it is the mode of, in phonopy's name, as
            T2g; empty where none is told.
        degeneracy: modes of this frequency, those that follow ``branch``.
        where: file and line, for messages.
    """

    structure: str
    q_point: tuple[Fraction, ...]
    direction: tuple[int, ...] | None
    value: float
    uncertainty: float | None
    branch: int | None
    label: str
    irrep: str
    degeneracy: int
    where: str


@dataclass(frozen=True, slots=True)
class ThermalValue:
    """A line of a table of heat capacities, entropies or free energies.

    Attributes:
        structure: name of the crystal.
        quantity: which of these.
        temperature: K.
        value: in ``unit``.
        uncertainty: in ``unit``; None where it is not known.
        unit: of both.
        where: file and line, for messages.
    """

    structure: str
    quantity: ThermalQuantity
    temperature: float
    value: float
    uncertainty: float | None
    unit: ThermalUnit
    where: str


@dataclass(frozen=True, slots=True, eq=False)
class Modes:
    """All frequencies of a crystal at some q-points, as phonopy writes them.

    Attributes:
        structure: name of the crystal.
        lattice: (3, 3), Å, primitive lattice vectors as rows, whose reciprocal vectors
            the q-points are fractions of.
        n_atoms: of the primitive cell.
        q_points: (n_q, 3).
        frequencies: (n_q, 3 n_atoms), THz, ascending, imaginary ones negative.
        where: file, for messages.
        on_mesh: of a mesh; else of a path, whose Γ may be approached along it, so that
            dipoles split its modes.
    """

    structure: str
    lattice: np.ndarray
    n_atoms: int
    q_points: np.ndarray
    frequencies: np.ndarray
    where: str
    on_mesh: bool


@dataclass(frozen=True, slots=True, eq=False)
class Density:
    """A density of states of a crystal.

    Attributes:
        structure: name of the crystal.
        points: (n,), THz, ascending.
        values: (n,), at least 0, in any unit.
        where: file, for messages.
    """

    structure: str
    points: np.ndarray
    values: np.ndarray
    where: str


@dataclass(frozen=True, slots=True)
class MeasuredRows:
    """All that some files say.

    Attributes:
        frequencies: of tables.
        thermal: of tables and of phonopy's thermal properties.
        modes: of phonopy's band structures and meshes.
        densities: of states.
    """

    frequencies: Sequence[Frequency] = ()
    thermal: Sequence[ThermalValue] = ()
    modes: Sequence[Modes] = ()
    densities: Sequence[Density] = ()

    def structures(self) -> set[str]:
        """Names of the crystals."""
        parts = (self.frequencies, self.thermal, self.modes, self.densities)
        return {row.structure for part in parts for row in part}

    def of(self, structure: str) -> MeasuredRows:
        """What they say of one crystal."""
        return MeasuredRows(
            frequencies=[row for row in self.frequencies if row.structure == structure],
            thermal=[row for row in self.thermal if row.structure == structure],
            modes=[row for row in self.modes if row.structure == structure],
            densities=[row for row in self.densities if row.structure == structure],
        )


def to_fraction(value: float, tolerance: float) -> Fraction | None:
    """The fraction of a denominator of at most ``MAX_ORDER`` that a number stands for.

    Args:
        value: as 0.3333.
        tolerance: of its digits.

    Returns:
        None where there is none.

    >>> to_fraction(0.3333, 4e-4), to_fraction(0.31, 4e-4)
    (Fraction(1, 3), None)
    """
    nearest = Fraction(value).limit_denominator(MAX_ORDER)
    return nearest if abs(float(nearest) - value) <= tolerance else None
