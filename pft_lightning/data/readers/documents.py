"""Reader of JSON files: what they hold is told by their content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pft_lightning.data.readers.molecules.record import build_molecule
from pft_lightning.data.readers.molecules.vibrations import KIND, MARK, read_vibrations
from pft_lightning.data.readers.options import PhononReadOptions, reading
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import DataFormatError
from pft_lightning.files import read_data
from pft_lightning.json_files import parse_json


def list_documents(path: Path) -> list[int | None]:
    """List the documents of a file: [None] where it is a single one.

    Raises:
        DataFormatError: it is no JSON.
    """
    return [None]


def document_name(path: Path, entry: int | None) -> str:
    """Name a document by its file."""
    return path.name.split(".")[0]


def read_document(
    path: Path, entry: int | None, options: PhononReadOptions
) -> StructureRecord:
    """Read one document.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    with reading(path):
        text = read_data(path)
        content = _parse(text, path)
        if isinstance(content, dict) and content.get(MARK) == KIND:
            return build_molecule(read_vibrations(path, text), str(path), options)
        raise DataFormatError(
            f"{path}: is JSON of no kind that is known; VibrationsData of ASE is read."
        )


def _parse(text: bytes, path: Path) -> Any:
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        raise DataFormatError(
            f"{path}: is no JSON that can be read ({error}). It was cut off "
            "or changed: write or download it again."
        ) from error
