"""Units: eV, Å, eV/Å² and eV/Å³ inside; other codes are converted where they enter.

The numbers come from phonopy's own table of calculators, so that a file and the
programme that wrote it agree to the last digit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ase import units as _units
from ase.data import atomic_masses

from pft_lightning.errors import ConfigError


# eV/Å³ -> GPa, CODATA 2018
GPA_PER_EV_PER_CUBIC_ANGSTROM: Final = 160.21766208

# Units of a force that users write instead of the name of a code.
_FORCE_UNIT_ALIASES: Final = {
    "ev/angstrom": "vasp",
    "ev/å": "vasp",
    "ry/au": "qe",
    "ry/bohr": "qe",
    "mry/au": "wien2k",
    "hartree/au": "elk",
    "hartree/bohr": "elk",
}


# Units of a Hessian that sources without lattice may have: eV/Å² per unit, by name.
HessianUnit = Literal[
    "eV/angstrom2",
    "hartree/bohr2",
    "hartree/angstrom2",
    "Ry/bohr2",
    "kcal/mol/angstrom2",
    "kJ/mol/angstrom2",
    "mdyn/angstrom",
]
HESSIAN_UNITS: Final[dict[HessianUnit, float]] = {
    "eV/angstrom2": 1.0,
    "hartree/bohr2": _units.Hartree / _units.Bohr**2,
    "hartree/angstrom2": _units.Hartree,
    "Ry/bohr2": _units.Rydberg / _units.Bohr**2,
    "kcal/mol/angstrom2": _units.kcal / _units.mol,
    "kJ/mol/angstrom2": _units.kJ / _units.mol,
    "mdyn/angstrom": 1e-18 * _units.J,
}


# Units of a frequency, THz per unit, by name: wave numbers are of light in vacuum,
# energies those of a quantum.
FrequencyUnit = Literal["THz", "cm-1", "meV"]
FREQUENCY_UNITS: Final[dict[FrequencyUnit, float]] = {
    "THz": 1.0,
    "cm-1": 1e-10 * _units._c,
    "meV": 1e-15 * _units._e / _units._hplanck,
}


@dataclass(frozen=True, slots=True)
class ThermalUnit:
    """A unit of heat capacities, entropies or free energies.

    Attributes:
        factor: J/K (or kJ, of a free energy) per unit.
        per: what it is of: a mole of primitive cells, of formula units or of atoms, or
            a kilogram.
    """

    factor: float
    per: Literal["cell", "formula", "atom", "kg"]

    def to_cells(self, atomic_numbers: Sequence[int]) -> float:
        """Factor to the same per mole of primitive cells.

        Args:
            atomic_numbers: of the atoms of a primitive cell; masses are the standard
                ones.
        """
        numbers = list(atomic_numbers)
        amounts = {
            "cell": 1.0,
            "formula": float(math.gcd(*Counter(numbers).values())),
            "atom": float(len(numbers)),
            "kg": float(atomic_masses[numbers].sum()) / 1000,
        }
        return self.factor * amounts[self.per]


# By quantity and name; a mole alone could be of anything.
_HEATS: Final = {
    "J/K/mol-cell": ThermalUnit(1.0, "cell"),
    "J/K/mol-formula": ThermalUnit(1.0, "formula"),
    "J/K/mol-atom": ThermalUnit(1.0, "atom"),
    "J/K/kg": ThermalUnit(1.0, "kg"),
    "J/K/g": ThermalUnit(1000.0, "kg"),
}
THERMAL_UNITS: Final = {
    "heat_capacity": _HEATS,
    "entropy": _HEATS,
    "free_energy": {
        "kJ/mol-cell": ThermalUnit(1.0, "cell"),
        "kJ/mol-formula": ThermalUnit(1.0, "formula"),
        "kJ/mol-atom": ThermalUnit(1.0, "atom"),
    },
}


@dataclass(frozen=True, slots=True)
class UnitSystem:
    """Factors that take the numbers of a code to eV and Å.

    Attributes:
        calculator: phonopy's name of the code.
        length: Å per unit of length.
        energy: eV per unit of energy.
        force: eV/Å per unit of force.
        force_constants: eV/Å² per unit of force constants.
        description: the units of the code, in words.
    """

    calculator: str
    length: float
    energy: float
    force: float
    force_constants: float
    description: str


def known_calculators() -> list[str]:
    """Names of the codes that phonopy knows the units of."""
    from phonopy.interface.calculator import calculator_info

    return sorted(calculator_info)


def unit_system(name: str) -> UnitSystem:
    """Look up the units of a code.

    Args:
        name: phonopy's name of a code ("vasp", "qe", "abinit", ...), or the unit of
            its forces ("eV/angstrom", "Ry/au", "mRy/au", "hartree/au").

    Raises:
        ConfigError: phonopy knows no such code.

    Source: ``phonopy.physical_units.get_calculator_physical_units``.
    """
    from phonopy.interface.calculator import get_force_constant_conversion_factor
    from phonopy.physical_units import get_calculator_physical_units

    named = str(name).lower()
    calculator = _FORCE_UNIT_ALIASES.get(named, named)
    if calculator not in known_calculators():
        accepted = ", ".join([*known_calculators(), "eV/angstrom, Ry/au, hartree/au"])
        raise ConfigError(
            f"units={name!r} is neither a code nor a unit of force that is known; "
            f"accepted: {accepted}."
        )
    units = get_calculator_physical_units(calculator)
    return UnitSystem(
        calculator=calculator,
        length=units.distance_to_A,
        energy=units.energy_to_eV,
        force=units.force_to_eVperA,
        force_constants=get_force_constant_conversion_factor(
            units.force_constants_unit, "vasp"
        ),
        description=(
            f"{units.energy_unit}, {units.length_unit}, {units.force_unit}, "
            f"{units.force_constants_unit}"
        ),
    )


def has_unit_names(system: UnitSystem, length: str, force: str) -> bool:
    """Tell whether a length and a force (or force constants) are called like this."""
    from phonopy.physical_units import get_calculator_physical_units

    units = get_calculator_physical_units(system.calculator)
    names = (_plain(units.force_unit), _plain(units.force_constants_unit))
    return _plain(units.length_unit) == _plain(length) and _plain(force) in names


def calculator_from_unit_names(length: str, force: str) -> str | None:
    """Find a code whose length and force (or force constants) carry these names."""
    # vasp first: several codes share its units, and it is the name users expect.
    for calculator in ["vasp", *known_calculators()]:
        if has_unit_names(unit_system(calculator), length, force):
            return calculator
    return None


def calculator_from_frequency_factor(factor: float) -> str | None:
    """Find the code by the factor that takes its frequencies to THz.

    phonopy writes ``frequency_unit_conversion_factor``, the square root of the unit
    of force constants over AMU; it identifies that unit. Only eV/Å², Ry/bohr² and
    hartree/bohr² are told apart by it together with the unit of length; anything
    else returns None.
    """
    from phonopy.physical_units import get_calculator_physical_units

    for calculator in ("vasp", "qe", "wien2k", "elk"):
        if math.isclose(
            get_calculator_physical_units(calculator).factor, factor, rel_tol=1e-4
        ):
            return calculator
    return None


def _plain(name: str) -> str:
    return name.strip().lower().replace("bohr", "au")
