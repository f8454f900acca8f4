"""Reader of formatted checkpoint files (``.fchk``) of Gaussian and others.

The force constants are the lower triangle, as computed: translations and rotations are
projected out of the frequencies only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import numpy as np
from ase import units

from pft_lightning.data.readers.molecules.orca import MAX_ATOMS
from pft_lightning.data.readers.molecules.record import MolecularHessian
from pft_lightning.data.readers.molecules.text import (
    numbers_of,
    read_lines,
    repeated,
    truncated,
)
from pft_lightning.data.readers.names import file_stem
from pft_lightning.errors import DataFormatError


# Label, type, "N=" before the length of an array, and length or value.
_HEADER: Final = re.compile(r"([A-Za-z].*?)\s+([IRCHL])\s+(?:(N=)\s*)?(\S+)\s*")

# Headers have 80 columns; in longer lines the search for one would take long.
_MAX_HEADER: Final = 200

_COORDINATES: Final = "Current cartesian coordinates"
_HESSIAN: Final = "Cartesian Force Constants"
_GRADIENT: Final = "Cartesian Gradient"
_NUMBERS: Final = "Atomic numbers"
_WEIGHTS: Final = "Real atomic weights"
_LATTICE: Final = "Translation vectors"


def read_fchk(path: Path) -> MolecularHessian:
    """Read atoms, force constants and, where it is there, the gradient.

    Energies are left out: that of all electrons is on no potential's scale.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    wanted = (_COORDINATES, _HESSIAN, _GRADIENT, _NUMBERS, _WEIGHTS, _LATTICE)
    arrays = _read_arrays(path, wanted)
    for name in (_NUMBERS, _COORDINATES):
        if name not in arrays:
            raise DataFormatError(
                f"{path}: has no {name!r}, so it is no formatted checkpoint file, or "
                "was cut off. Write it again with formchk."
            )
    if _LATTICE in arrays:
        raise DataFormatError(
            f"{path}: is of a periodic system; isolated molecules are read. Give its "
            "phonons as phonopy files."
        )
    if _HESSIAN not in arrays:
        raise DataFormatError(
            f"{path}: has no {_HESSIAN!r}. Give the checkpoint file of a frequency "
            "calculation (freq)."
        )
    numbers = arrays[_NUMBERS].astype(np.int64)
    n = 3 * len(numbers)
    if len(numbers) > MAX_ATOMS:
        raise DataFormatError(
            f"{path}: has {len(numbers)} atoms; at most {MAX_ATOMS} are read."
        )
    sizes = {_COORDINATES: n, _GRADIENT: n, _HESSIAN: n * (n + 1) // 2}
    for name, size in sizes.items():
        if name in arrays and len(arrays[name]) != size:
            raise DataFormatError(
                f"{path}: {name!r} has {len(arrays[name])} numbers; {size} are "
                f"expected for {len(numbers)} atoms. The file mixes two molecules: "
                "write it again with formchk."
            )
    hessian = np.zeros((n, n))
    hessian[np.tril_indices(n)] = arrays[_HESSIAN]
    gradient, weights = arrays.get(_GRADIENT), arrays.get(_WEIGHTS)
    return MolecularHessian(
        name=file_stem(path),
        atomic_numbers=numbers,
        positions=arrays[_COORDINATES].reshape(-1, 3) * units.Bohr,
        hessian=hessian + np.tril(hessian, -1).T,
        unit="hartree/bohr2",
        unit_from="formatted checkpoint",
        forces=None
        if gradient is None
        else -gradient.reshape(-1, 3) * units.Hartree / units.Bohr,
        masses=weights,
    )


def _read_arrays(path: Path, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read the wanted arrays of numbers by their labels."""
    lines = iter(read_lines(path, ends=True))
    found: dict[str, np.ndarray] = {}
    for line in lines:
        header = _header(line)
        if header is None:
            continue
        label, kind, is_array, size = header.groups()
        name = label.strip()
        if name not in wanted or is_array is None or kind not in "IR":
            continue
        if name in found:
            raise repeated(path, repr(name))
        if not size.isdigit() or len(size) > 9:
            raise DataFormatError(
                f"{path}: {name!r} claims {size[:20]!r} numbers. Write the file again "
                "with formchk."
            )
        words: list[str] = []
        while len(words) < int(size):
            line = next(lines, "")
            if not line.strip() or _header(line):
                raise truncated(path, f"{name!r} has {len(words)} of {size} numbers")
            words += line.split()
        found[name] = numbers_of(words[: int(size)], name, path)
    return found


def _header(line: str) -> re.Match[str] | None:
    return _HEADER.fullmatch(line) if len(line) <= _MAX_HEADER else None
