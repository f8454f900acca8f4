"""Reader of extended XYZ files whose frames are molecules with a Hessian."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from pft_lightning import keys as fields
from pft_lightning.data.readers.molecules.record import (
    MolecularHessian,
    refuse_periodic,
)
from pft_lightning.data.readers.names import file_stem
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.readers.targets import (
    FRAME_WEIGHT,
    TARGETS,
    Remarks,
    check_keys,
    frame_to_record,
    target_weight,
    without_weights,
)
from pft_lightning.data.readers.xyz import read_frames
from pft_lightning.errors import DataFormatError


# In the name of a Hessian, in any case.
HESSIAN = "hessian"

_NAMES = ("name", "id", "mol_id", "label")


def list_frames(path: Path) -> list[int]:
    """List the numbers of the frames of a file.

    Raises:
        DataFormatError: the file as a whole cannot be read, or has no frames.
    """
    frames = _frames(path, path.stat().st_mtime_ns)
    if not frames:
        raise DataFormatError(f"{path}: has no frames. Write it again.")
    return list(frames)


def frame_name(path: Path, number: int) -> str:
    """Name a frame by its file, and by its number where there are several."""
    frames = _frames(path, path.stat().st_mtime_ns)
    atoms, stem = frames[number], file_stem(path)
    if isinstance(atoms, Atoms):
        for key in _NAMES:
            if isinstance(atoms.info.get(key), str) and atoms.info[key]:
                return str(atoms.info[key])
    return stem if len(frames) == 1 else f"{stem}-{number}"


def read_frame(
    path: Path, number: int, options: PhononReadOptions
) -> tuple[MolecularHessian, str]:
    """Read one frame; gives also what to call it in messages.

    Raises:
        DataFormatError: names the file, the frame, the value and what to do.
    """
    where = f"{path}, frame {number}"
    atoms = _frames(path, path.stat().st_mtime_ns)[number]
    if isinstance(atoms, DataFormatError):
        raise atoms
    refuse_periodic(atoms.pbc, where)
    key, hessian = _find_hessian(atoms, where, options.hessian_key)
    n_atoms = len(atoms)
    if hessian.shape == (n_atoms, 9 * n_atoms):
        # A column for each atom holds its rows of the matrix.
        hessian = hessian.reshape(3 * n_atoms, 3 * n_atoms)
    weights = _weights(atoms, where)
    weight = float(atoms.info.get(FRAME_WEIGHT, 1.0))
    # What counts for little in the loss is known all the same.
    known = without_weights(atoms)
    record = frame_to_record(known, path.stem, where, check_keys({}), Remarks())
    masses = atoms.get_masses() if atoms.has("masses") else None
    found = MolecularHessian(
        name=frame_name(path, number),
        atomic_numbers=atoms.numbers,
        positions=atoms.positions,
        hessian=hessian,
        unit=options.hessian_units,
        unit_from=f"options.hessian_units, of {key}",
        energy=getattr(record, fields.ENERGY),
        forces=getattr(record, fields.FORCES),
        masses=masses,
        weights=weights,
        notes=[] if weight == 1 else [f"{FRAME_WEIGHT} does not weigh the Hessian."],
    )
    return found, where


def _weights(atoms: Atoms, where: str) -> tuple[float, float, float]:
    """Weights of energy, forces and stress.

    Raises:
        DataFormatError: one is no number of at least 0, or that of the frame is 0.
    """
    energy, forces, stress = (target_weight(atoms, t, t, where) for t in TARGETS)
    if float(atoms.info.get(FRAME_WEIGHT, 1.0)) == 0:
        raise DataFormatError(
            f"{where}: its weight is 0 ({FRAME_WEIGHT}), so nothing of it counts. "
            "Leave it out, or give it another."
        )
    return energy, forces, stress


def _find_hessian(
    atoms: Atoms, where: str, wanted: str | None
) -> tuple[str, np.ndarray]:
    held: dict[str, Any] = {**atoms.info, **atoms.arrays}
    if atoms.calc is not None:
        held.update(atoms.calc.results)
    named = [key for key in held if HESSIAN in key.lower()]
    # Others may tell its unit, or whether it is there.
    sized = [key for key in named if np.size(held[key]) == 9 * len(atoms) ** 2]
    keys = (sized or named) if wanted is None else [wanted]
    if len(keys) != 1 or keys[0] not in held:
        problem = "has no Hessian" if wanted is None else f"has no {wanted!r}"
        if len(keys) > 1:
            problem = f"has several Hessians ({', '.join(keys)})"
        others = ", ".join(sorted(set(held) - {"numbers", "positions"})) or "nothing"
        raise DataFormatError(
            f"{where}: {problem}; it holds {others}. Say its name with "
            "options.hessian_key, or give frames without one as upstream data."
        )
    array = np.asarray(held[keys[0]])
    if array.dtype.kind not in "iuf":
        raise DataFormatError(
            f"{where}: {keys[0]} is {str(held[keys[0]])[:40]!r}; the numbers of a "
            "(3N, 3N) matrix are needed. Write the frame again."
        )
    return keys[0], array.astype(np.float64)


@lru_cache(maxsize=1)
def _frames(path: Path, time: int) -> dict[int, Atoms | DataFormatError]:
    """Read a file once for all its frames, not once for each."""
    del time
    return dict(read_frames(path))
