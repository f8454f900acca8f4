"""Stores of format version 2, which kept their records in an LMDB file.

The bytes of a record are the same. LMDB keeps each in one piece, so that its place in
the file is all that is needed; checksums there were none.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from pft_lightning.data.readers.lmdb_check import find_values
from pft_lightning.data.store.file import PLACE, BlockReader
from pft_lightning.data.store.report import PrepareReport
from pft_lightning.errors import DataFormatError
from pft_lightning.json_files import read_json


VERSION = 2
_RECORD = "r/"  # before the keys of records in the LMDB file


def open_earlier(
    store: Path, index_file: str
) -> tuple[list[dict[str, Any]], PrepareReport, BlockReader]:
    """Open a finished store of version 2.

    Returns:
        Entries, report, and the open data file.

    Raises:
        DataFormatError: it is unfinished, damaged or truncated.
    """
    remedy = f"Build it again: pft-prepare phonons=... out={store}"
    try:
        index = read_json(store / index_file, remedy=remedy)
        path = store / str(index["records_file"])
        values = find_values(path)
        entries = [
            {**entry, PLACE: [*values[f"{_RECORD}{entry['key']}".encode()], None]}
            for entry in index["entries"]
        ]
        report = PrepareReport.from_dict(index["report"])
        reader = BlockReader(path)
    except (DataFormatError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataFormatError(
            f"{store}: a store of format version {VERSION} that cannot be read "
            f"({error}). {remedy}"
        ) from error
    warnings.warn(
        f"{store}: a store of format version {VERSION}, which has no checksums: damage "
        f"inside of a structure is not noticed. {remedy}",
        stacklevel=4,
    )
    return entries, report, reader
