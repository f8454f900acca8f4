"""The table of all measured values beside those of the models."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pft_lightning.evaluation.folder import NAME, Record
from pft_lightning.evaluation.measured.columns import COMPUTED, MEASURED
from pft_lightning.files import make_folder, write_atomically


# A measured value; then two columns of each model.
VALUE_COLUMNS: Final = (
    *(NAME, "quantity", "q_point", "branch", "temperature"),
    *("measured", "unit", "uncertainty"),
)


def computed_of(label: str) -> str:
    """Column with the value of a model."""
    return f"computed_{label}"


def difference_of(label: str) -> str:
    """Column with the value of a model less the measured one."""
    return f"difference_{label}"


def table_rows(
    records: Iterable[Record], labels: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """All values, one row each; what a model has not is missing.

    Args:
        records: of the crystals.
        labels: of the models.
    """
    for record in records:
        content: dict[str, Any] = dict(record)
        for index, value in enumerate(content.get(MEASURED) or ()):
            row = {NAME: record["name"], **value}
            for label in labels:
                computed = record["models"].get(label, {}).get(COMPUTED)
                if computed is not None:
                    row[computed_of(label)] = computed[index]
                    row[difference_of(label)] = computed[index] - value["measured"]
            yield row


def write_values(path: Path, records: Iterable[Record], labels: Sequence[str]) -> None:
    """Write the table.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    columns = [*VALUE_COLUMNS]
    columns += [f(label) for label in labels for f in (computed_of, difference_of)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(table_rows(records, labels))
    content = text.getvalue().encode(errors="surrogateescape")
    make_folder(path.parent)
    write_atomically(path, lambda file: file.write(content))
