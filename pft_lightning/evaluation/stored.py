"""Results of an earlier evaluation in a folder, and which of them still hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation.folder import (
    FAILED,
    OK,
    STATUS,
    EvaluationFolder,
    Record,
    Row,
)
from pft_lightning.evaluation.reference import Material
from pft_lightning.types import PhononProperties


def find_finished(
    folder: EvaluationFolder | None,
    materials: Iterable[Material[Any]],
    keys_of: Callable[[Material[Any]], Mapping[str, str]],
    is_whole: Callable[[Record], bool],
) -> dict[str, Record]:
    """Read the records of materials that were done before, with the same settings.

    Args:
        folder: of the evaluation; None has no results.
        materials: to look for.
        keys_of: gives what the results of each model on a material depend on.
        is_whole: tells whether the files are there that belong to a record.

    Returns:
        Records by the name of the material.
    """
    records: dict[str, Record] = {}
    if folder is None:
        return records
    for material in materials:
        record = folder.read_record(material.name)
        if record is None:
            continue
        done = keys_of(material).items() <= record["keys"].items()
        if done and (record["status"] == FAILED or is_whole(record)):
            records[material.name] = record
    return records


def find_valid_rows(
    folder: EvaluationFolder | None,
    material: Material[Any],
    keys: Mapping[str, str],
    is_whole: Callable[[Record], bool],
) -> dict[str, Row]:
    """Rows of models that were evaluated on this material before.

    Args:
        folder: of the evaluation; None has no results.
        material: that is evaluated.
        keys: of each model, what its row depends on.
        is_whole: tells whether the files are there that belong to a record.

    Returns:
        Rows by the label of the model.
    """
    record = None if folder is None else folder.read_record(material.name)
    if record is None or record["status"] != OK or not is_whole(record):
        return {}
    return {
        label: record["models"][label]
        for label, key in keys.items()
        if record["keys"].get(label) == key
    }


def find_valid_results(
    folder: EvaluationFolder | None, material: Material[Any], keys: Mapping[str, str]
) -> tuple[dict[str, Row], dict[str, PhononProperties]]:
    """Results of models that were evaluated on this material before.

    Args:
        folder: of the evaluation; None has no results.
        material: that is evaluated.
        keys: of each model, what its results depend on.

    Returns:
        Rows and properties by the label of the model.
    """
    rows = find_valid_rows(folder, material, keys, lambda _: True)
    if folder is None:
        return {}, {}
    finished = [label for label, row in rows.items() if row[STATUS] == OK]
    try:
        arrays = folder.read_properties(material.name) if finished else {}
        return rows, {label: arrays[label] for label in finished}
    except (DataFormatError, KeyError):
        return {}, {}  # Damaged files are made again.
