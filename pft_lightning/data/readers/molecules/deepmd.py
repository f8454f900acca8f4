"""Reader of DeePMD-kit's systems of molecules with ``hessian.npy`` beside the frames.

A system is a folder: ``type.raw`` and ``type_map.raw`` name the atoms, ``set.*`` hold
the frames as arrays, and a file ``nopbc`` says that nothing is periodic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from ase.data import atomic_masses, atomic_numbers

from pft_lightning.data.readers.molecules.record import MolecularHessian
from pft_lightning.data.readers.molecules.text import numbers_of, read_lines
from pft_lightning.data.readers.options import PhononReadOptions, reading
from pft_lightning.data.readers.species import read_element
from pft_lightning.errors import DataFormatError


TYPES: Final = "type.raw"
_HESSIAN: Final = "hessian.npy"

# What is read of a frame beside its Hessian.
_ARRAYS: Final = ("coord.npy", "energy.npy", "force.npy")


def list_system(path: Path) -> list[int]:
    """List the frames of all sets, numbered through."""
    return list(range(sum(_count(folder, path) for folder in _sets(path))))


def read_system(
    path: Path, number: int, options: PhononReadOptions
) -> tuple[MolecularHessian, str]:
    """Read one frame; gives also what to call it in messages.

    Raises:
        DataFormatError: names the file, the frame, the value and what to do.
    """
    numbers, masses = _read_types(path)
    folder, index = path, number
    for folder in _sets(path):
        n_frames = _count(folder, path)
        if index < n_frames:
            break
        index -= n_frames
    where = f"{folder}, frame {index}"
    if not (path / "nopbc").exists() and (folder / "box.npy").exists():
        raise DataFormatError(
            f"{path}: is periodic (box.npy, and no file nopbc); isolated molecules are "
            "read. Add an empty file nopbc if it is one in a box."
        )
    if (folder / "real_atom_types.npy").exists():
        raise DataFormatError(
            f"{path}: is a system of mixed types (real_atom_types.npy), whose frames "
            "are different molecules. Write them as systems of one composition each."
        )
    _check_frames(folder, path)
    n = 3 * len(numbers)
    positions = _frame(folder, "coord.npy", index, n, path)
    assert positions is not None
    hessian = _frame(folder, _HESSIAN, index, n * n, path)
    assert hessian is not None
    energy = _frame(folder, "energy.npy", index, 1, path)
    forces = _frame(folder, "force.npy", index, n, path)
    found = MolecularHessian(
        name=f"{path.absolute().name}-{number}",
        atomic_numbers=numbers,
        positions=positions.reshape(-1, 3),
        hessian=hessian.reshape(n, n),
        unit=options.hessian_units,
        unit_from="options.hessian_units, of hessian.npy",
        energy=None if energy is None else float(energy[0]),
        forces=None if forces is None else forces.reshape(-1, 3),
        masses=masses,
    )
    return found, where


def _sets(path: Path) -> list[Path]:
    return sorted(file.parent for file in path.glob(f"set.*/{_HESSIAN}"))


def _count(folder: Path, path: Path) -> int:
    """Count the frames of a set: one where it cannot be read, and reading says why."""
    try:
        return len(_load(folder, _HESSIAN, path))
    except DataFormatError:
        return 1


def _check_frames(folder: Path, path: Path) -> None:
    """Refuse arrays of a set whose frames cannot be the same ones.

    Raises:
        DataFormatError: one has more or fewer frames than there are Hessians.
    """
    expected = len(_load(folder, _HESSIAN, path))
    for name in _ARRAYS:
        file = folder / name
        found = len(_load(folder, name, path)) if file.is_file() else expected
        if found != expected:
            raise DataFormatError(
                f"{file}: has {found} frames, but {_HESSIAN} has {expected}. Which "
                "belong to which is not known: write the system again."
            )


def _read_types(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Atomic numbers of the atoms of a system, and masses where isotopes are named."""
    file, names = path / TYPES, path / "type_map.raw"
    if not names.is_file():
        raise DataFormatError(
            f"{path}: has no type_map.raw, which says the element of each type. Add it."
        )
    kinds, weights, isotopes = [], [], False
    for word in " ".join(read_lines(names)).split():
        symbol, mass = read_element(word, "a type", str(names))
        kinds.append(atomic_numbers[symbol.rstrip("0123456789")])
        weights.append(mass or atomic_masses[kinds[-1]])
        isotopes |= mass is not None
    types = numbers_of(" ".join(read_lines(file)).split(), "the list of types", file)
    wrong = [t for t in types if t != int(t) or not 0 <= t < len(kinds)]
    if wrong or not len(types):
        raise DataFormatError(
            f"{file}: {f'type {wrong[0]:g}' if wrong else 'no type'} is in it; numbers "
            f"from 0 to {len(kinds) - 1} are expected, as type_map.raw names "
            f"{len(kinds)}. Write it again."
        )
    indices = types.astype(np.int64)
    return np.array(kinds)[indices], np.array(weights)[indices] if isotopes else None


def _load(folder: Path, name: str, path: Path) -> np.ndarray:
    """Open an array, (n_frames, numbers of a frame), without reading all of it."""
    file = folder / name
    if not file.is_file():
        raise DataFormatError(
            f"{path}: {folder.name} has no {name}. Write the system again."
        )
    with reading(file):
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise DataFormatError(
                f"{file}: is an archive of arrays (npz); one array is needed. Save it "
                "with numpy.save."
            )
    if not array.ndim or not array.size or array.dtype.kind not in "iuf":
        raise DataFormatError(
            f"{file}: holds a {array.dtype} array of shape {array.shape}; numbers with "
            "a row for each frame are needed. Write the system again."
        )
    return array


def _frame(
    folder: Path, name: str, index: int, size: int, path: Path
) -> np.ndarray | None:
    """Read one frame of an array; None where there is no such file.

    Raises:
        DataFormatError: positions or Hessians are missing, or it is of other atoms.
    """
    if name not in ("coord.npy", _HESSIAN) and not (folder / name).is_file():
        return None
    array = _load(folder, name, path)
    if index >= len(array) or array[index].size != size:
        got = array[index].size if index < len(array) else "no"
        raise DataFormatError(
            f"{folder / name}: has {got} numbers in frame {index}; {size} are expected "
            f"for the atoms of {TYPES}. Its files do not belong together: write the "
            "system again."
        )
    return np.array(array[index], dtype=np.float64).ravel()
