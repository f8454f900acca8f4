"""What was measured of one crystal, as an evaluation compares it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction
from typing import Any, Final, TypedDict, get_args

import numpy as np

from pft_lightning.data.measured.crystals import MeasuredCrystal
from pft_lightning.data.measured.items import (
    ItemOptions,
    MeasuredItem,
    Uncertainties,
    items_at_q_points,
    only_density,
    values_in_cells,
)
from pft_lightning.data.measured.rows import Density, MeasuredRows, ThermalQuantity
from pft_lightning.data.settings import MeasuredReading
from pft_lightning.losses.properties import UNITS, Property
from pft_lightning.physics.measurement import MeasuredFrequencies


# Block of options, for messages.
OPTION: Final = "measured"

FREQUENCIES: Final[Property] = "frequencies"
THERMAL: Final[tuple[ThermalQuantity, ...]] = get_args(ThermalQuantity)


class MeasuredValue(TypedDict):
    """One measured number.

    Attributes:
        quantity: what it is.
        q_point: of a frequency, and a direction if there is one; else empty.
        branch: number of its mode, 1 for the lowest, or a label; may be empty.
        temperature: K, of thermal properties; else None.
        measured: the number, of thermal properties per mole of primitive cells.
        unit: of it.
        uncertainty: in the same unit; None where unknown.
    """

    quantity: str
    q_point: str
    branch: str
    temperature: float | None
    measured: float
    unit: str
    uncertainty: float | None


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredContent:
    """A crystal and what was measured of it.

    Attributes:
        crystal: its primitive cell.
        rows: of this crystal.
        reading: how they are read.
    """

    crystal: MeasuredCrystal
    rows: MeasuredRows
    reading: MeasuredReading

    def items(self, crystal: MeasuredCrystal) -> list[MeasuredItem]:
        """Frequencies, by q-point, each with the cell that it is computed in.

        Args:
            crystal: as it is, or relaxed.

        Raises:
            DataFormatError: a value cannot be one of this crystal.
        """
        return self._at_q_points(crystal)[0]

    def remarks(self) -> list[tuple[str, str]]:
        """(file, remark) where q-points are left out."""
        return self._at_q_points(self.crystal)[1]

    def _at_q_points(
        self, crystal: MeasuredCrystal
    ) -> tuple[list[MeasuredItem], list[tuple[str, str]]]:
        rows = self.rows
        # The mesh is of thermal properties, which phonopy computes here.
        options = ItemOptions(
            self.reading.max_order, self.reading.supercell(), np.nan, OPTION
        )
        every = Uncertainties()
        return items_at_q_points(rows.frequencies, rows.modes, crystal, options, every)

    def thermal(
        self,
    ) -> dict[ThermalQuantity, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """By quantity: temperatures, K, values and uncertainties; ``values_in_cells``.

        Raises:
            DataFormatError: a temperature is there twice.
        """
        return {
            quantity: values_in_cells(some, self.crystal)
            for quantity in THERMAL
            if (some := [row for row in self.rows.thermal if row.quantity == quantity])
        }

    def density(self) -> Density | None:
        """The density of states.

        Raises:
            DataFormatError: there are two.
        """
        return only_density(self.rows.densities) if self.rows.densities else None

    def values(self) -> list[MeasuredValue]:
        """All numbers: frequencies in the order of ``items``, then ``thermal``.

        Raises:
            DataFormatError: a value cannot be one of this crystal.
        """
        found: list[MeasuredValue] = []
        for item in self.items(self.crystal):
            place = item.record.name.removeprefix(f"{self.crystal.name} q=")
            assert isinstance(item.measured, MeasuredFrequencies)
            found += _frequencies(item.measured, place)
        for quantity, (temperatures, values, uncertainties) in self.thermal().items():
            unit = f"{UNITS[quantity]}-cell"  # as in tables
            numbers = zip(temperatures, values, uncertainties, strict=True)
            for temperature, value, uncertainty in numbers:
                found.append(
                    MeasuredValue(
                        quantity=quantity,
                        q_point="",
                        branch="",
                        temperature=float(temperature),
                        measured=float(value),
                        unit=unit,
                        uncertainty=_known(uncertainty),
                    )
                )
        return found


def _frequencies(measured: MeasuredFrequencies, place: str) -> Iterator[MeasuredValue]:
    for index, value in enumerate(measured.values):
        branch = measured.labels[index] if measured.labels else ""
        if measured.branches is not None:
            branch = str(int(measured.branches[index]) + 1)
        uncertain = measured.uncertainties
        yield MeasuredValue(
            quantity=FREQUENCIES,
            q_point=place,
            branch=branch,
            temperature=None,
            measured=float(value),
            unit=UNITS[FREQUENCIES],
            uncertainty=None if uncertain is None else _known(uncertain[index]),
        )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def to_plain(value: Any) -> Any:
    """What rows say, as JSON holds it, without the places that they were read from."""
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.name != "where"]
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(inner) for inner in value]
    return value
