"""Reader of fc3.hdf5, as phono3py writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from phonopy import Phonopy

from pft_lightning.data.readers.hdf5 import check_numbers, read_rows
from pft_lightning.data.third_order import check_size
from pft_lightning.errors import DataFormatError


def read_fc3(file: Path, phonon: Phonopy) -> np.ndarray:
    """Read fc3.hdf5.

    Returns:
        Compact, (n_primitive, n_atoms, n_atoms, 3, 3, 3), in the file's unit.

    Raises:
        DataFormatError: damaged, or of other cells.
    """
    import h5py

    n_primitive, n_atoms = len(phonon.primitive), len(phonon.supercell)
    check_size(n_primitive, n_atoms, str(file))
    with h5py.File(file, "r") as content:
        if "fc3" not in content:
            raise DataFormatError(f"{file}: holds {sorted(content)}; fc3 is needed.")
        shape = tuple(content["fc3"].shape)
        rest = (n_atoms, n_atoms, 3, 3, 3)
        if shape[1:] != rest or shape[0] not in (n_primitive, n_atoms):
            raise DataFormatError(
                f"{file}: fc3 has shape {shape}; expected {(n_primitive, *rest)} "
                f"(compact) or {(n_atoms, *rest)} (full) for the supercell of the "
                "yaml file beside it. The two belong to different calculations."
            )
        check_numbers(content["fc3"], file)
        if shape[0] == n_atoms:
            atoms = phonon.primitive.p2s_map
            return np.array([content["fc3"][atom] for atom in atoms], dtype=np.float64)
        check_rows(read_rows(content, n_primitive, file), phonon, file)
        return np.array(content["fc3"], dtype=np.float64)


def check_rows(rows: np.ndarray | None, phonon: Phonopy, file: Path) -> None:
    """Compare the atoms that rows belong to, where a file says them, with phonopy's.

    Raises:
        DataFormatError: they are of another primitive cell.
    """
    expected = phonon.primitive.p2s_map
    if rows is not None and not np.array_equal(rows, expected):
        raise DataFormatError(
            f"{file}: its rows are those of the atoms {(rows + 1).tolist()}; the "
            f"primitive cell has the atoms {(expected + 1).tolist()} (p2s_map). Write "
            "full force constants."
        )
