"""Tables of measured values: CSV with a line of column names, and # before comments.

Frequencies have the columns ``structure``, ``q1``, ``q2``, ``q3`` (fractions of the
reciprocal vectors of the primitive cell, as 1/2 or 0.5) and ``frequency``, and may have
``branch`` (number of the mode, 1 for the lowest, or a label), ``degeneracy``,
``uncertainty``, ``unit`` and, at Γ, ``direction`` (of waves that split polar modes, as
``1 0 0``, in the same fractions) or ``irrep`` (as ``T2g``). Thermal properties have
``structure``, ``temperature`` (K), ``unit`` and one of ``heat_capacity`` (at constant
volume), ``entropy`` and ``free_energy``, and may have ``uncertainty``. Columns
``source`` and ``note`` are for their reader.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final, TypeVar, get_args

from pft_lightning.data.measured.rows import (
    MAX_FREQUENCY,
    MAX_ORDER,
    Frequency,
    MeasuredRows,
    ThermalQuantity,
    ThermalValue,
    to_fraction,
)
from pft_lightning.errors import DataFormatError
from pft_lightning.files import read_data
from pft_lightning.physics.irreps import irrep_dimension
from pft_lightning.units import FREQUENCY_UNITS, THERMAL_UNITS, FrequencyUnit


_QUANTITIES: Final[tuple[ThermalQuantity, ...]] = get_args(ThermalQuantity)
_Q_POINT: Final = ("q1", "q2", "q3")
_FREQUENCY: Final = ("structure", *_Q_POINT, "frequency")
_THERMAL: Final = ("structure", "temperature", "unit")
_REMARKS: Final = ("source", "note")
_MAY_HAVE_FREQUENCY: Final = (
    "branch",
    "degeneracy",
    "direction",
    "irrep",
    "uncertainty",
    "unit",
    *_REMARKS,
)
_MAY_HAVE_THERMAL: Final = ("uncertainty", *_REMARKS)

# Digits of 0.333 and 0.667 are enough to tell thirds from other fractions.
_ROUNDED: Final = 4e-4

# Components of a direction, and their longest text.
_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+|\d+/\d*[1-9]\d*)")
_LONGEST: Final = 12

# Largest size of a component of a q-point, of temperatures (K) and of other values.
_FAR: Final = 100.0
_HOT: Final = 1e5
_HUGE: Final = 1e7

# Largest tables that anybody measures; more is no such table.
_MAX_BYTES: Final = 1 << 26

_Row = TypeVar("_Row")


def read_table(
    path: Path, frequency_unit: FrequencyUnit | None, option: str = "data.measured"
) -> MeasuredRows:
    """Read a table of frequencies or of thermal properties.

    Args:
        path: plain or compressed.
        frequency_unit: of frequencies without a column for it.
        option: block of options, for messages.

    Raises:
        DataFormatError: names the file, the line, the value and what to do.
    """
    lines = _lines(path)
    columns = next(lines, None)
    if columns is None:
        raise DataFormatError(
            f"{path}: has no line; expected column names, and values below them."
        )
    names = [name.strip().lower() for name in columns.cells]
    if "frequency" in names:
        _check_columns(path, names, _FREQUENCY, _MAY_HAVE_FREQUENCY)
        if "unit" not in names and frequency_unit is None:
            raise DataFormatError(
                f"{path}: has no column unit; add one with {_listed(FREQUENCY_UNITS)}, "
                f"or give {option}.frequency_unit."
            )
        found = _read(path, lines, names, lambda c: _frequency(c, frequency_unit))
        return MeasuredRows(frequencies=found)
    quantity = _quantity(path, names)
    _check_columns(path, names, (*_THERMAL, quantity), _MAY_HAVE_THERMAL)
    return MeasuredRows(
        thermal=_read(path, lines, names, lambda c: _thermal(c, quantity))
    )


@dataclass(frozen=True, slots=True)
class _Line:
    where: str
    cells: list[str]


@dataclass(frozen=True, slots=True)
class _Cells:
    """One line of values, by column."""

    where: str
    by_name: Mapping[str, str]

    def text(self, name: str) -> str:
        return self.by_name.get(name, "")

    def fail(self, name: str, expected: str) -> DataFormatError:
        return DataFormatError(
            f"{self.where}: {name} is {self.text(name)!r}; expected {expected}. "
            "Correct the line, or take it out."
        )

    def name_of_structure(self) -> str:
        if not self.text("structure"):
            raise self.fail("structure", "the name of a crystal")
        return self.text("structure")

    def number(self, name: str, expected: str, low: float, high: float) -> float:
        """A number above ``low``, at most ``high``."""
        try:
            # Python would take 1_5 for 15.
            value = math.nan if "_" in self.text(name) else float(self.text(name))
        except ValueError as error:
            raise self.fail(name, expected) from error
        if not low < value <= high:  # nor does NaN pass
            raise self.fail(name, expected)
        return value

    def uncertainty(self, factor: float = 1.0) -> float | None:
        if not self.text("uncertainty"):
            return None
        expected = "a number above 0, or nothing where it is not known"
        return factor * self.number("uncertainty", expected, 0.0, _HUGE)

    def count(self, name: str) -> int:
        expected = "a whole number of at least 1"
        value = self.number(name, expected, 0.0, 1e6)
        if value != int(value):
            raise self.fail(name, expected)
        return int(value)


def _lines(path: Path) -> Iterator[_Line]:
    """Give the cells of all lines but comments and empty ones.

    Raises:
        DataFormatError: the file does not exist, is no text, or a quote is not closed.
    """
    try:
        text = read_data(path, max_bytes=_MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataFormatError(
            f"{path}: is no text in UTF-8 ({error.reason}); save it as CSV."
        ) from error
    except OSError as error:
        raise DataFormatError(
            f"{path}: cannot be read ({error.strerror or error}). Check the path."
        ) from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}, line {number}"
        try:
            (cells,) = csv.reader([line], strict=True, skipinitialspace=True)
        except (csv.Error, ValueError) as error:
            raise DataFormatError(
                f"{where}: is no line of CSV ({error}). Write the line again."
            ) from error
        yield _Line(where, cells)


def _read(
    path: Path,
    lines: Iterator[_Line],
    names: list[str],
    convert: Callable[[_Cells], _Row],
) -> list[_Row]:
    found = []
    for line in lines:
        if len(line.cells) != len(names):
            raise DataFormatError(
                f"{line.where}: has {len(line.cells)} cells; expected {len(names)}, "
                f"one for each of {', '.join(names)}. Was it cut off?"
            )
        cells = [cell.strip() for cell in line.cells]
        found.append(convert(_Cells(line.where, dict(zip(names, cells, strict=True)))))
    if not found:
        raise DataFormatError(f"{path}: has column names and no value. Add lines.")
    return found


def _check_columns(
    path: Path, names: list[str], needed: tuple[str, ...], allowed: tuple[str, ...]
) -> None:
    for name in needed:
        if name not in names:
            raise DataFormatError(
                f"{path}: has no column {name}; expected {', '.join(needed)}, and "
                f"maybe {', '.join(allowed)}. Add it."
            )
    for name in names:
        # A misspelt uncertainty would go unnoticed.
        if name not in (*needed, *allowed) or names.count(name) > 1:
            known = name in (*needed, *allowed)
            what = "twice the column" if known else "the column"
            raise DataFormatError(
                f"{path}: has {what} {name!r}; expected each of "
                f"{', '.join((*needed, *allowed))} at most once. Rename or remove it."
            )


def _quantity(path: Path, names: list[str]) -> ThermalQuantity:
    found = [quantity for quantity in _QUANTITIES if quantity in names]
    if len(found) != 1:
        raise DataFormatError(
            f"{path}: has the columns {', '.join(names)[:200]}; expected one of "
            f"frequency, {', '.join(_QUANTITIES)} among them. Name the column of the "
            "values so; one table has one quantity."
        )
    return found[0]


def _frequency(cells: _Cells, frequency_unit: FrequencyUnit | None) -> Frequency:
    unit = cells.text("unit") or frequency_unit
    if unit not in FREQUENCY_UNITS:
        raise cells.fail("unit", _listed(FREQUENCY_UNITS))
    factor = FREQUENCY_UNITS[unit]  # type: ignore[index]
    expected = (
        f"a frequency above 0 and of at most {MAX_FREQUENCY / factor:.4g} {unit} "
        "(the translations at Γ are left out)"
    )
    value = factor * cells.number("frequency", expected, 0.0, MAX_FREQUENCY / factor)
    branch = cells.text("branch")
    numbered = branch.lstrip("+-").replace(".", "", 1).isdigit()
    q_point = tuple(_component(cells, name) for name in _Q_POINT)
    irrep = _irrep(cells, q_point, numbered=numbered) if cells.text("irrep") else ""
    dimension = irrep_dimension(irrep) or 1
    degeneracy = cells.count("degeneracy") if cells.text("degeneracy") else dimension
    if irrep and degeneracy != dimension:
        raise cells.fail("degeneracy", f"{dimension} of {irrep}, or nothing")
    return Frequency(
        structure=cells.name_of_structure(),
        q_point=q_point,
        direction=_direction(cells, q_point) if cells.text("direction") else None,
        value=value,
        uncertainty=cells.uncertainty(factor),
        branch=cells.count("branch") - 1 if numbered else None,
        label="" if numbered else branch or irrep,
        irrep=irrep,
        degeneracy=degeneracy,
        where=cells.where,
    )


def _component(cells: _Cells, name: str) -> Fraction:
    """A component of a q-point, from 0 to 1: others are the same up to whole ones."""
    expected = (
        "a fraction of a reciprocal vector, as 1/2 or 0.5, of a denominator of at most "
        f"{MAX_ORDER}"
    )
    above, slash, below = cells.text(name).partition("/")
    if slash:
        if not (above.strip().lstrip("+-").isdecimal() and below.strip().isdecimal()):
            raise cells.fail(name, expected)
        if not 0 < len(above) + len(below) <= 12 or int(below) == 0:
            raise cells.fail(name, expected)
        found: Fraction | None = Fraction(int(above), int(below))
    else:
        found = to_fraction(cells.number(name, expected, -_FAR, _FAR), _ROUNDED)
    if found is None or found.denominator > MAX_ORDER:
        raise cells.fail(name, expected)
    return found % 1


def _direction(cells: _Cells, q_point: tuple[Fraction, ...]) -> tuple[int, ...]:
    """Whole numbers without a common divisor, the first of them positive."""
    if any(q_point):
        raise cells.fail("direction", "nothing, as the q-point is not 0, 0, 0")
    words = cells.text("direction").split()
    fit = [_NUMBER.fullmatch(word) and len(word) <= _LONGEST for word in words]
    parts = [Fraction(word) for word in words] if all(fit) else []
    if len(parts) != 3 or not any(parts):
        raise cells.fail(
            "direction",
            "three numbers with blanks between, not all 0, fractions of the reciprocal "
            "vectors of the primitive cell, as 1 0 0",
        )
    whole = [int(part * math.lcm(*(p.denominator for p in parts))) for part in parts]
    sign = 1 if next(part for part in parts if part) > 0 else -1
    return tuple(sign * part // math.gcd(*whole) for part in whole)


def _irrep(cells: _Cells, q_point: tuple[Fraction, ...], *, numbered: bool) -> str:
    """The name that phonopy has: T2g for F2g."""
    if any(q_point) or cells.text("direction"):
        raise cells.fail("irrep", "nothing at other points than Γ or with a direction")
    if numbered:
        raise cells.fail("irrep", "nothing beside the number of a branch")
    name = cells.text("irrep")
    name = f"T{name[1:]}" if name.startswith("F") else name
    if irrep_dimension(name) is None:
        raise cells.fail("irrep", "an irreducible representation, as A1g, Eu or T2g")
    return name


def _thermal(cells: _Cells, quantity: ThermalQuantity) -> ThermalValue:
    units = THERMAL_UNITS[quantity]
    if cells.text("unit") not in units:
        raise cells.fail("unit", f"{_listed(units)}: per mole of primitive cells, ...")
    low = -_HUGE if quantity == "free_energy" else -math.ulp(0.0)
    expected = "a number" if quantity == "free_energy" else "a number of at least 0"
    return ThermalValue(
        structure=cells.name_of_structure(),
        quantity=quantity,
        temperature=cells.number(
            "temperature", f"a temperature above 0, at most {_HOT:g} K", 0.0, _HOT
        ),
        value=cells.number(quantity, expected, low, _HUGE),
        uncertainty=cells.uncertainty(),
        unit=units[cells.text("unit")],
        where=cells.where,
    )


def _listed(names: Mapping[str, object] | Mapping[FrequencyUnit, object]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"
