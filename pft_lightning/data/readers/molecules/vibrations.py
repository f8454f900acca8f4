"""Reader of ``ase.vibrations.VibrationsData`` in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from ase.io.jsonio import decode
from ase.vibrations import VibrationsData

from pft_lightning.data.readers.ase_json import check_arrays
from pft_lightning.data.readers.molecules.record import (
    MolecularHessian,
    refuse_periodic,
)
from pft_lightning.data.readers.names import file_stem
from pft_lightning.errors import DataFormatError


# How ASE marks the kind of an object in JSON.
MARK = "__ase_objtype__"
KIND = "vibrationsdata"


def read_vibrations(path: Path, text: bytes) -> MolecularHessian:
    """Read atoms and Hessian, eV/Å², of all atoms.

    Args:
        path: the file, for names and messages.
        text: content of the file, JSON.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    try:
        # ASE makes arrays and some kinds of its own objects of JSON, nothing else.
        content = text.decode(json.detect_encoding(text))
        check_arrays(content)
        found = decode(content)
    except Exception as error:
        raise DataFormatError(
            f"{path}: holds no VibrationsData that ASE can read "
            f"({type(error).__name__}: {error}). Its atoms and Hessian do not belong "
            "together, or it was cut off: write it again with VibrationsData.write."
        ) from error
    if not isinstance(found, VibrationsData):
        raise DataFormatError(
            f"{path}: holds a {type(found).__name__}; VibrationsData of ASE is needed."
        )
    atoms, indices = found.get_atoms(), found.get_indices()
    refuse_periodic(atoms.pbc, str(path))
    if not np.array_equal(np.sort(indices), np.arange(len(atoms))):
        raise DataFormatError(
            f"{path}: the Hessian is of {len(indices)} of {len(atoms)} atoms (the "
            "others were fixed); that of all of them is needed. Repeat the calculation "
            "without constraints."
        )
    # The Hessian has the order of the indices.
    order = (3 * np.argsort(indices)[:, None] + np.arange(3)).ravel()
    return MolecularHessian(
        name=file_stem(path),
        atomic_numbers=atoms.numbers,
        positions=atoms.positions,
        hessian=found.get_hessian_2d()[np.ix_(order, order)],
        unit="eV/angstrom2",
        unit_from="ASE VibrationsData",
        masses=atoms.get_masses(),
    )
