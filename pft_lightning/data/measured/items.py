"""Measured values of one crystal, checked and grouped by what is computed together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np

from pft_lightning.data.measured.crystals import MeasuredCrystal
from pft_lightning.data.measured.representations import blocks_of
from pft_lightning.data.measured.rows import (
    Density,
    Frequency,
    Modes,
    ThermalValue,
    to_fraction,
)
from pft_lightning.data.records import StructureRecord
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.errors import DataFormatError
from pft_lightning.physics.measurement import (
    MeasuredCurve,
    MeasuredDensity,
    MeasuredFrequencies,
    Measurement,
)


# Digits that phonopy writes of a q-point.
_WRITTEN = 2e-7

# q-point, and direction at Γ.
_Place = tuple[tuple[Fraction, ...], tuple[int, ...] | None]

# How far lattice vectors of a band structure may be from those of the crystal, as a
# share: it may have been calculated at another lattice constant.
_OTHER_LATTICE = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredItem:
    """One quantity of a crystal, frequencies at one q-point only, in its own cell.

    Attributes:
        record: the cell, with a layout of force constants.
        quantity: a property.
        measured: its values.
    """

    record: StructureRecord
    quantity: str
    measured: Measurement


@dataclass(frozen=True, slots=True)
class ItemOptions:
    """How values become items.

    Attributes:
        max_order: most primitive cells that a q-point may need.
        supercell: of thermal properties and densities of states.
        mesh: length of ``mesh_numbers``, Å.
        option: block of options, for messages.
    """

    max_order: int
    supercell: SupercellOptions
    mesh: float
    option: str = "data.measured"


@dataclass(frozen=True, slots=True)
class Uncertainties:
    """Uncertainties of all values of one quantity, which weigh its errors.

    Attributes:
        typical: that of a value which has none: the median.
        unit_weight: uncertainty that has the weight 1: the harmonic mean.
    """

    typical: float = 1.0
    unit_weight: float = 1.0

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Uncertainties:
        """Take those of all values; None where one has none."""
        known = [value for value in values if value is not None]
        if not known:
            return cls()
        typical = float(np.median(known))
        filled = np.array([typical if value is None else value for value in values])
        return cls(typical, 1 / float(np.mean(1 / filled)))

    def weights(self, values: Sequence[float | None]) -> np.ndarray:
        """(n,), inverse uncertainties, on average 1 over all values of the quantity."""
        filled = [self.typical if value is None else value for value in values]
        return self.unit_weight / np.array(filled, dtype=np.float64)


def uncertainty_in_cells(row: ThermalValue, crystal: MeasuredCrystal) -> float | None:
    """Uncertainty of a value per mole of primitive cells."""
    if row.uncertainty is None:
        return None
    return row.uncertainty * row.unit.to_cells(crystal.atomic_numbers.tolist())


def frequency_items(
    rows: Sequence[Frequency],
    crystal: MeasuredCrystal,
    options: ItemOptions,
    uncertainties: Uncertainties,
) -> Iterator[MeasuredItem]:
    """Group lines of a table by q-point and direction; q and -q are the same.

    Raises:
        DataFormatError: a q-point needs too large a cell, or has more modes than there
            are, or the same one twice; or a crystal with a direction has no charges.
    """
    groups: dict[_Place, list[Frequency]] = {}
    for row in rows:
        opposite = tuple(-component % 1 for component in row.q_point)
        place = (min(row.q_point, opposite), row.direction)
        groups.setdefault(place, []).append(row)
    for (q_point, direction), group in groups.items():
        order = order_of(q_point)
        if order > options.max_order:
            raise DataFormatError(
                f"{group[0].where}: the q-point {shown(q_point)} needs a cell of "
                f"{order} primitive cells; at most {options.max_order} are accepted. "
                f"Raise {options.option}.max_order, or take it out."
            )
        name = f"{crystal.name} q={shown(q_point)}"
        if direction is not None:
            name += f" along {','.join(map(str, direction))}"
        _check_modes(group, name, crystal)
        numbered = group[0].branch is not None
        measured = MeasuredFrequencies(
            values=np.array([row.value for row in group]),
            degeneracies=np.array([row.degeneracy for row in group]),
            branches=np.array([row.branch for row in group]) if numbered else None,
            weights=uncertainties.weights([row.uncertainty for row in group]),
            labels=tuple(row.label for row in group),
            uncertainties=_known([row.uncertainty for row in group]),
            added=None
            if direction is None
            else crystal.long_range_matrix(direction, group[0].where),
            **blocks_of(group, name, crystal),
        )
        yield MeasuredItem(crystal.at_q_point(q_point, name), "frequencies", measured)


def _known(values: Sequence[float | None]) -> np.ndarray:
    """(n,), NaN where nothing is known."""
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def items_at_q_points(
    frequencies: Sequence[Frequency],
    modes: Sequence[Modes],
    crystal: MeasuredCrystal,
    options: ItemOptions,
    uncertainties: Uncertainties,
) -> tuple[list[MeasuredItem], list[tuple[str, str]]]:
    """Take all frequencies of a crystal.

    Args:
        frequencies: of tables.
        modes: of band structures and meshes; of two files with the same q-point the
            first one counts, and tables count before them.
        crystal: that they are of.
        options: how they become items.
        uncertainties: of all frequencies.

    Returns:
        The items, and (file, remark) where q-points are left out.

    Raises:
        DataFormatError: a value cannot be one of this crystal.
    """
    items = list(frequency_items(frequencies, crystal, options, uncertainties))
    remarks = []
    for one in modes:
        found, remark = mode_items(one, crystal, options)
        if remark is not None:
            remarks.append((one.where, remark))
        seen = {item.record.name for item in items}
        items += [item for item in found if item.record.name not in seen]
    return items, remarks


def _check_modes(
    group: Sequence[Frequency], what: str, crystal: MeasuredCrystal
) -> None:
    first = 0 if any(group[0].q_point) else 3  # translations at Γ
    n_modes = 3 * crystal.n_atoms
    where = group[-1].where
    if sum(row.degeneracy for row in group) > n_modes - first:
        raise DataFormatError(
            f"{where}: {what} has {sum(row.degeneracy for row in group)} modes with "
            f"this line; {crystal.n_atoms} atoms have {n_modes - first} there, without "
            "translations. Correct the degeneracies, or take lines out."
        )
    numbered = [row for row in group if row.branch is not None]
    if numbered and len(numbered) < len(group):
        other = next(row for row in group if row.branch is None)
        raise DataFormatError(
            f"{other.where}: has no number of a branch, and other lines of {what} have "
            "one. Number all or none."
        )
    taken: set[int] = set()
    for row in numbered:
        assert row.branch is not None
        modes = set(range(row.branch, row.branch + row.degeneracy))
        if min(modes) < first or max(modes) >= n_modes:
            raise DataFormatError(
                f"{row.where}: branch is {row.branch + 1} with a degeneracy of "
                f"{row.degeneracy}; {what} has the modes {first + 1} to {n_modes}, 1 "
                "being the lowest and translations counted. Correct the number."
            )
        if modes & taken:
            raise DataFormatError(
                f"{row.where}: the branch {min(modes & taken) + 1} of {what} is there "
                "twice. Take one out, or write their mean."
            )
        taken |= modes


def mode_items(
    modes: Modes, crystal: MeasuredCrystal, options: ItemOptions
) -> tuple[list[MeasuredItem], str | None]:
    """Take the q-points of a band structure or mesh that small cells hold.

    Returns:
        The items, and a remark where q-points are left out.

    Raises:
        DataFormatError: the file is of another crystal.
    """
    to_own = _to_primitive(modes, crystal)
    items: dict[tuple[Fraction, ...], MeasuredItem] = {}
    left_out, is_split = 0, False
    n_modes = 3 * crystal.n_atoms
    for values, frequencies in zip(modes.q_points, modes.frequencies, strict=True):
        fractions = [to_fraction(value, _WRITTEN) for value in to_own @ values]
        q_point = tuple(part % 1 for part in fractions if part is not None)
        if len(q_point) < 3 or order_of(q_point) > options.max_order:
            left_out += 1
            continue
        q_point = min(q_point, tuple(-part % 1 for part in q_point))
        first = 0 if any(q_point) else 3
        if q_point in items or first == n_modes:
            continue
        if first and crystal.born is not None and not modes.on_mesh:
            is_split = True
            continue
        nearest = np.argsort(np.abs(frequencies), kind="stable")
        kept = np.sort(frequencies[nearest[first:]])
        measured = MeasuredFrequencies(
            values=kept,
            degeneracies=np.ones(len(kept), dtype=np.int64),
            branches=np.arange(first, n_modes),
            weights=np.ones(len(kept)),
            labels=("",) * len(kept),
        )
        record = crystal.at_q_point(q_point, f"{crystal.name} q={shown(q_point)}")
        items[q_point] = MeasuredItem(record, "frequencies", measured)
    remarks = []
    if left_out:
        remarks.append(
            f"{left_out} of {len(modes.q_points)} q-points need more than "
            f"{options.max_order} primitive cells ({options.option}.max_order)"
        )
    if is_split:
        remarks.append("Γ may have longitudinal modes: write it into a table (BORN)")
    remark = f"{modes.where}: {'; '.join(remarks)}; left out." if remarks else None
    return list(items.values()), remark


def _to_primitive(modes: Modes, crystal: MeasuredCrystal) -> np.ndarray:
    """(3, 3): fractions of the crystal's reciprocal vectors of those of the file."""
    turned = crystal.cell @ np.linalg.inv(modes.lattice)
    whole = np.rint(turned)
    fits = np.abs(turned - whole).max() < _OTHER_LATTICE and (
        abs(round(np.linalg.det(whole))) == 1
    )
    if not fits or modes.n_atoms != crystal.n_atoms:
        raise DataFormatError(
            f"{modes.where}: is of {modes.n_atoms} atoms with lattice vectors "
            f"{np.round(modes.lattice, 3).tolist()} Å; {crystal.where} has "
            f"{crystal.n_atoms} atoms with {np.round(crystal.cell, 3).tolist()} Å in "
            "its primitive cell. Give the crystal that it was calculated of, in the "
            "same orientation."
        )
    return whole


def thermal_item(
    rows: Sequence[ThermalValue],
    crystal: MeasuredCrystal,
    options: ItemOptions,
    uncertainties: Uncertainties,
) -> MeasuredItem:
    """Take the values of one quantity at all temperatures.

    Raises:
        DataFormatError: a temperature is there twice.
    """
    quantity = rows[0].quantity
    temperatures, values, _ = values_in_cells(rows, crystal)
    record, mesh = crystal.in_supercell(
        options.supercell, options.mesh, f"{crystal.name} {quantity}"
    )
    measured = MeasuredCurve(
        temperatures=temperatures,
        values=values,
        weights=uncertainties.weights(
            [uncertainty_in_cells(row, crystal) for row in rows]
        ),
        mesh=mesh,
    )
    return MeasuredItem(record, quantity, measured)


def values_in_cells(
    rows: Sequence[ThermalValue], crystal: MeasuredCrystal
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of one quantity of a crystal, per mole of primitive cells.

    Args:
        rows: all of this quantity.
        crystal: that they are of.

    Returns:
        Temperatures (n,), K, values (n,) and uncertainties (n,), NaN where unknown,
        J/K/mol or kJ/mol.

    Raises:
        DataFormatError: a temperature is there twice.
    """
    seen: set[float] = set()
    for row in rows:
        if row.temperature in seen:
            raise DataFormatError(
                f"{row.where}: {row.quantity} of {crystal.name} at {row.temperature:g} "
                "K is there twice. Take one out, or write their mean."
            )
        seen.add(row.temperature)
    numbers = crystal.atomic_numbers.tolist()
    return (
        np.array([row.temperature for row in rows]),
        np.array([row.value * row.unit.to_cells(numbers) for row in rows]),
        _known([uncertainty_in_cells(row, crystal) for row in rows]),
    )


def density_item(
    densities: Sequence[Density], crystal: MeasuredCrystal, options: ItemOptions
) -> MeasuredItem:
    """Take a density of states.

    Raises:
        DataFormatError: there are two.
    """
    density = only_density(densities)
    record, mesh = crystal.in_supercell(
        options.supercell, options.mesh, f"{crystal.name} dos"
    )
    return MeasuredItem(
        record, "dos", MeasuredDensity(density.points, density.values, mesh)
    )


def only_density(densities: Sequence[Density]) -> Density:
    """The density of states of a crystal.

    Raises:
        DataFormatError: there are two.
    """
    if len(densities) > 1:
        first, second = densities[:2]
        raise DataFormatError(
            f"{second.where}: is a second density of states of {second.structure}, "
            f"beside {first.where}. Take one out."
        )
    return densities[0]


def order_of(q_point: Sequence[Fraction]) -> int:
    """Number of primitive cells that a q-point needs."""
    return lcm(*(component.denominator for component in q_point))


def shown(q_point: Sequence[Fraction]) -> str:
    """Write a q-point: 1/2,1/2,0."""
    return ",".join(str(component) for component in q_point)
