"""The files that ML-PEG 0.7 makes of phonons and takes its scores from.

Per material ``<name>_band_structure.npz`` and ``<name>_dos.npz`` (pickles, whatever
their names say), and ``<name>_thermal_properties.json``. A folder per model and ``DFT``
belong into ``ml_peg/calcs/bulk_crystal/phonons/outputs``.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from pft_lightning.errors import ConfigError
from pft_lightning.evaluation.folder import REFERENCE, THERMAL
from pft_lightning.evaluation.protocols import ML_PEG
from pft_lightning.files import make_folder, write_atomically
from pft_lightning.types import BandStructure, PhononProperties


# Name of the folder of reference values.
DFT: Final = "DFT"

_BANDS: Final = "_band_structure.npz"
_DOS: Final = "_dos.npz"
_THERMAL: Final = "_thermal_properties.json"
_ENDINGS: Final = (_BANDS, _DOS, _THERMAL)

# Options that change nothing in the files: the volume stays that of DFT.
_WITHOUT_EFFECT: Final = ("name", "volume_limits")

# Whose third is read as that of 300 K.
TEMPERATURES: Final = (0.0, 75.0, 150.0, 300.0, 600.0)


def check_labels(labels: Iterable[str]) -> None:
    """Refuse a label whose files would lie among those of DFT.

    Raises:
        ConfigError: names it.
    """
    for label in labels:
        if label.casefold() == DFT.casefold():
            raise ConfigError(
                f"a model is labelled {label!r}, and ML-PEG keeps its reference in a "
                f"folder {DFT}. Give the model another label (label=, compare.LABEL)."
            )


def changed_options(protocol: Mapping[str, Any]) -> list[str]:
    """Options in which a protocol is not that of ML-PEG, whose files nobody else's are.

    Args:
        protocol: its fields by name, such as of ``metrics.json``.
    """
    published = asdict(ML_PEG)
    return [
        f"protocol.{name}"
        for name, value in published.items()
        if name not in _WITHOUT_EFFECT
        and not np.array_equal(np.array(protocol[name]), np.array(value))
    ]


def describe_files(folder: Path, protocol: Mapping[str, Any]) -> str:
    """Say where the files are, or why there are none.

    Args:
        folder: that they are written into.
        protocol: see ``changed_options``.
    """
    if changed := changed_options(protocol):
        return (
            f"No files for ML-PEG: {', '.join(changed)} changed. Leave that out to "
            "have them."
        )
    if not any(folder.glob("*/*")):
        return "No files for ML-PEG: no material has a band structure."
    return f"For ML-PEG: {folder}"


def write_ml_peg(
    folder: Path, materials: Iterable[tuple[str, Mapping[str, PhononProperties]]]
) -> None:
    """Write one folder per model, and one of DFT.

    Materials without bands, or without these temperatures, are left out. Files of
    earlier calls are taken away, so that none is of a model or material that is gone.

    Args:
        folder: to write into.
        materials: name, and properties by the label of the model.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    for ending in _ENDINGS:
        for old in folder.glob(f"*/*{ending}"):
            old.unlink()
    for name, properties in materials:
        for label, one in properties.items():
            # A molecule has no bands, and temperatures may be others.
            if one.bands is None or not {*TEMPERATURES} <= {*one.temperatures}:
                continue
            place = folder / (DFT if label == REFERENCE else label)
            make_folder(place)
            for file, content in _contents(name, one, one.bands).items():
                write_atomically(place / file, partial(_write, content))


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _contents(
    name: str, properties: PhononProperties, bands: BandStructure
) -> dict[str, bytes]:
    """Files of a material by name."""
    return {
        f"{name}{_BANDS}": pickle.dumps(
            {"distances": bands.distances, "frequencies": bands.frequencies}
        ),
        f"{name}{_DOS}": pickle.dumps(
            {
                "frequency_points": properties.dos_frequencies,
                "total_dos": properties.dos,
            }
        ),
        f"{name}{_THERMAL}": json.dumps(_thermal(properties)).encode(),
    }


def _thermal(properties: PhononProperties) -> dict[str, list[float]]:
    known = properties.temperatures.tolist()
    at = [known.index(temperature) for temperature in TEMPERATURES]
    return {
        "temperatures": list(TEMPERATURES),
        **{name: getattr(properties, name)[at].tolist() for name in THERMAL},
    }
