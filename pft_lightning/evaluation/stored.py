"""Results of an earlier evaluation in a folder, and which of them still hold."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation.properties_io import load_properties
from pft_lightning.evaluation.reference import Material
from pft_lightning.json_files import find_json
from pft_lightning.types import PhononProperties


_STATUS = ("ok", "failed")


def record_file(folder: Path, material: Material) -> Path:
    """File with the rows of a material; it says that the material is done."""
    return folder / "materials" / f"{material.name}.json"


def arrays_file(folder: Path, material: Material) -> Path:
    """File with the properties of a material."""
    return folder / "materials" / f"{material.name}.npz"


def find_finished(
    folder: Path | None,
    materials: Iterable[Material],
    keys_of: Callable[[Material], Mapping[str, str]],
) -> dict[str, dict[str, Any]]:
    """Read the records of materials that were done before, with the same settings.

    Args:
        folder: of the evaluation; None has no results.
        materials: to look for.
        keys_of: gives what the results of each model on a material depend on.

    Returns:
        Records by the name of the material.
    """
    found: dict[str, dict[str, Any]] = {}
    for material in [] if folder is None else materials:
        assert folder is not None
        record = _read_record(record_file(folder, material))
        if record is None:
            continue
        done = keys_of(material).items() <= record["keys"].items()
        arrays = arrays_file(folder, material)
        if done and (record["status"] == "failed" or zipfile.is_zipfile(arrays)):
            found[material.name] = record
    return found


def find_kept(
    folder: Path | None, material: Material, keys: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, PhononProperties]]:
    """Results of models that were evaluated on this material before.

    Args:
        folder: of the evaluation; None has no results.
        material: that is evaluated.
        keys: of each model, what its results depend on.

    Returns:
        Rows and properties by the label of the model.
    """
    record = None if folder is None else _read_record(record_file(folder, material))
    if folder is None or record is None or record["status"] != "ok":
        return {}, {}
    rows = {
        label: record["models"][label]
        for label, key in keys.items()
        if record["keys"].get(label) == key
    }
    finished = [label for label, row in rows.items() if row["status"] == "ok"]
    try:
        arrays = load_properties(arrays_file(folder, material)) if finished else {}
        return rows, {label: arrays[label] for label in finished}
    except (DataFormatError, KeyError):
        return {}, {}  # Damaged files are made again.


def _read_record(path: Path) -> dict[str, Any] | None:
    """Read the record of a material; None where there is no whole one."""
    record = find_json(path) or {}
    keys, models = record.get("keys"), record.get("models")
    whole = (
        {"name", "source"} <= record.keys()
        and record.get("status") in _STATUS
        and isinstance(keys, dict)
        and isinstance(models, dict)
        and keys.keys() <= models.keys()
        and all(
            isinstance(row, dict) and row.get("status") in _STATUS
            for row in models.values()
        )
    )
    return record if whole else None
