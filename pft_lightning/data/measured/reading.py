"""Files of measured values, together."""

from __future__ import annotations

from pathlib import Path

from pft_lightning.data.measured.phonopy_results import read_results
from pft_lightning.data.measured.rows import MeasuredRows
from pft_lightning.data.measured.tables import read_table
from pft_lightning.data.sources import CSV_SUFFIXES, Spec, find_sources
from pft_lightning.errors import DataFormatError
from pft_lightning.units import FrequencyUnit


def read_measured(
    spec: Spec,
    frequency_unit: FrequencyUnit | None = None,
    option: str = "data.measured",
) -> MeasuredRows:
    """Read all measured values of files, folders, globs or a list of them.

    A fault in one of them is an error: such files are made by hand, value by value, and
    what is left out would be missed in a result.

    Args:
        spec: tables (``tables``) and results of phonopy (``phonopy_results``).
        frequency_unit: of tables of frequencies without a column for it.
        option: block of options, for messages.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    found = find_sources(spec, kind="measured")
    for _, reason in found.skipped:
        raise DataFormatError(reason)
    parts = [_read(path, frequency_unit, option) for path in found.paths]
    return MeasuredRows(
        frequencies=[row for part in parts for row in part.frequencies],
        thermal=[row for part in parts for row in part.thermal],
        modes=[row for part in parts for row in part.modes],
        densities=[row for part in parts for row in part.densities],
    )


def _read(
    path: Path, frequency_unit: FrequencyUnit | None, option: str
) -> MeasuredRows:
    if path.name.endswith(CSV_SUFFIXES):
        return read_table(path, frequency_unit, option)
    return read_results(path)
