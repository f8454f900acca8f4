"""Measured values as a training takes them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from torch_geometric.data import Data

from pft_lightning import keys
from pft_lightning.data.entries import Entries, elements_of
from pft_lightning.data.measured.crystals import (
    MeasuredCrystal,
    Relax,
    read_crystals,
)
from pft_lightning.data.measured.items import (
    ItemOptions,
    MeasuredItem,
    Uncertainties,
    density_item,
    items_at_q_points,
    thermal_item,
    uncertainty_in_cells,
)
from pft_lightning.data.measured.reading import read_measured
from pft_lightning.data.measured.rows import MeasuredRows, ThermalValue
from pft_lightning.data.records import to_data
from pft_lightning.data.sources import Spec, skip_lines
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.errors import DataFormatError
from pft_lightning.graphs import build_graph
from pft_lightning.units import FrequencyUnit


class MeasuredValues(Entries[MeasuredItem]):
    """Frequencies, densities of states and thermal properties of some crystals.

    An item is one quantity of a crystal, frequencies at one q-point only, with the cell
    that it is computed in: the smallest one that the q-point fits, or a supercell.

    Args:
        spec: files of values, see ``reading``.
        structures: files of the crystals, whose names the values have.
        cutoff: of the graphs, Å.
        frequency_unit: of tables of frequencies without a column for it.
        max_order: most primitive cells that a q-point may need.
        supercell: of thermal properties and densities of states, of the primitive cell.
        mesh: length of ``mesh_numbers``, Å: q-points of their sums over modes.
        relax: relaxes the crystals first; they stay as they are if left out.

    Attributes:
        names: one per item, unique.
        n_atoms: (n_items,), int64, of the cells.
        elements: for each item, its sorted atomic numbers.
        skipped: (file, remark) for all that was left out.

    Raises:
        DataFormatError: a file, a value or a crystal cannot be used.
    """

    def __init__(
        self,
        spec: Spec,
        structures: Spec,
        cutoff: float,
        *,
        frequency_unit: FrequencyUnit | None = None,
        max_order: int = 8,
        supercell: SupercellOptions,
        mesh: float,
        relax: Relax | None = None,
    ) -> None:
        self.cutoff = float(cutoff)
        self._shown = str(spec)
        rows = read_measured(spec, frequency_unit)
        crystals, self.skipped = read_crystals(structures, rows.structures(), relax)
        options = ItemOptions(max_order, supercell, mesh)
        self._index(list(self._collect(rows, crystals, options)))
        if not self.names:
            lines = "\n".join(skip_lines(self.skipped, most=5)[1:])
            raise DataFormatError(f"{self._shown}: no value is left:\n{lines}")

    def __repr__(self) -> str:
        """Say where the values come from and how many items there are."""
        return f"MeasuredValues({self._shown}, {len(self)} items)"

    @property
    def quantities(self) -> list[str]:
        """What was measured, sorted."""
        return sorted({item.quantity for item in self._entries})

    def item(self, index: int) -> MeasuredItem:
        """Give one item."""
        return self._entries[index]

    def data(self, index: int) -> Data:
        """Give one item as a graph in the neutral schema, float64."""
        item = self._entries[index]
        record = item.record
        graph = build_graph(record.positions, record.cell, record.pbc, self.cutoff)
        data = to_data(record, graph)
        data[keys.MEASURED_VALUES] = item.measured
        data[keys.QUANTITY] = item.quantity
        return data

    def only(self, quantities: Collection[str]) -> MeasuredValues:
        """Keep some quantities."""
        items = enumerate(self._entries)
        return self.subset([i for i, item in items if item.quantity in quantities])

    def summary(self) -> str:
        """Say how many items there are, and what was left out."""
        return "\n".join([f"{len(self)} items", *skip_lines(self.skipped)])

    def _describe(self, entry: MeasuredItem) -> tuple[str, tuple[int, ...], int]:
        record = entry.record
        return record.name, elements_of(record.atomic_numbers), record.n_atoms

    def _collect(
        self,
        rows: MeasuredRows,
        crystals: dict[str, MeasuredCrystal],
        options: ItemOptions,
    ) -> Iterator[MeasuredItem]:
        known = Uncertainties.of([row.uncertainty for row in rows.frequencies])
        thermal = _uncertainties(rows.thermal, crystals)
        for name, crystal in sorted(crystals.items()):
            own = rows.of(name)
            items, remarks = items_at_q_points(
                own.frequencies, own.modes, crystal, options, known
            )
            self.skipped += remarks
            yield from items
            for quantity, uncertainties in thermal.items():
                some = [row for row in own.thermal if row.quantity == quantity]
                if some:
                    yield thermal_item(some, crystal, options, uncertainties)
            if own.densities:
                yield density_item(own.densities, crystal, options)


def _uncertainties(
    rows: Sequence[ThermalValue], crystals: dict[str, MeasuredCrystal]
) -> dict[str, Uncertainties]:
    """By quantity."""
    found: dict[str, list[float | None]] = {}
    for row in rows:
        own = uncertainty_in_cells(row, crystals[row.structure])
        found.setdefault(row.quantity, []).append(own)
    return {name: Uncertainties.of(values) for name, values in sorted(found.items())}
