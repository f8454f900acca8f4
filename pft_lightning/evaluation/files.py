"""Tables of an evaluation folder; each is complete or not there."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pft_lightning.files import make_folder, write_atomically


def write_csv(
    path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Write rows under their columns; what is unknown stays empty.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(columns), restval="", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if v is None else v for k, v in row.items()})
    # Names of files that are no UTF-8 are kept as their bytes.
    content = text.getvalue().encode(errors="surrogateescape")
    make_folder(path.parent)
    write_atomically(path, lambda file: file.write(content))
