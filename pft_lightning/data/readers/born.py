"""Born charges and dielectric tensors of files, brought to the primitive cell.

They only matter to the non-analytical correction, so that what does not fit is left
out with a note; the force constants are good without.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from phonopy import Phonopy
from phonopy.file_IO import parse_BORN_from_strings
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.data.readers.names import BORN_FILE, find_file, is_alone
from pft_lightning.data.readers.poscar import read_text
from pft_lightning.data.readers.values import read_numbers
from pft_lightning.errors import DataFormatError


# Where files keep them, and under which names; phonopy's own first.
_BLOCKS: Final = ("nac", "nac_params")
_CHARGES: Final = (
    "born_effective_charge",
    "born_effective_charges",
    "born_charges",
    "born",
)
_TENSORS: Final = (
    "dielectric_constant",
    "dielectric_tensor",
    "dielectric",
    "epsilon_infinity",
    "epsilon",
)

# Farthest that an atom may be from the one whose charge it takes, in the file's unit.
_SAME_PLACE: Final = 0.05

# e per atom that charges may miss neutrality by; DFPT on coarse grids misses 0.1.
_MAX_EXCESS: Final = 0.25

BornCharges = tuple[dict[str, np.ndarray] | None, str | None]


def charges_of_content(
    content: Mapping[str, Any],
    cells: list[PhonopyAtoms | None],
    phonon: Phonopy,
    path: Path,
) -> BornCharges:
    """Take the Born charges of a yaml file.

    They may belong to the file's primitive cell, its unit cell or its supercell: the
    cell with as many atoms is taken.

    Args:
        content: of the file.
        cells: of the file, the likeliest first.
        phonon: whose primitive cell they are brought to.
        path: the file.

    Returns:
        ``born`` (n_primitive, 3, 3) and ``dielectric`` (3, 3), or None; and a note
        where there are some that cannot be used.
    """
    charges, tensor = _find(content, _CHARGES), _find(content, _TENSORS)
    if charges is None and tensor is None:
        return None, None
    try:
        if charges is None or tensor is None:
            missing = "Born charges" if charges is None else "dielectric tensor"
            raise DataFormatError(f"{path}: the {missing} is missing.")
        born = read_numbers(charges, "Born charges", path, (None, 3, 3))
        dielectric = read_numbers(tensor, "dielectric tensor", path, (3, 3))
        return _checked(
            _of_primitive(born, cells, phonon, path), dielectric, path
        ), None
    except DataFormatError as error:
        return None, _left_out(error)


def charges_of_file(path: Path, phonon: Phonopy, symprec: float) -> BornCharges:
    """Read phonopy's BORN file; returns as ``charges_of_content``."""
    try:
        found: Any = parse_BORN_from_strings(
            read_text(path), phonon.primitive, symprec=symprec
        )
        return _checked(found["born"], found["dielectric"], path), None
    except DataFormatError as error:
        return None, _left_out(error)
    except Exception as error:  # phonopy raises many kinds
        return None, _left_out(f"{path}: {type(error).__name__}: {error}")


def charges_beside(path: Path, phonon: Phonopy) -> BornCharges:
    """Read BORN from the folder of a yaml file, as phonopy does where it runs.

    Returns:
        As ``charges_of_content``, and a note that says so wherever there is a BORN.
    """
    file = find_file(path.parent, BORN_FILE)
    if file is None:
        return None, None
    if not is_alone(path):
        return None, _left_out(
            f"{file}: lies beside several materials. Put it into a folder with the "
            "file that it belongs to."
        )
    charges, note = charges_of_file(file, phonon, phonon.symmetry.tolerance)
    return charges, note or f"Born charges are those of {file}, beside the file."


def _find(content: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    # Before version 2.18 phonopy wrote them at the top level.
    blocks: list[Any] = [*(content.get(name) for name in _BLOCKS), content]
    for block in blocks:
        for name in names if isinstance(block, Mapping) else ():
            if block.get(name) is not None:
                return block[name]
    return None


def _of_primitive(
    born: np.ndarray, cells: list[PhonopyAtoms | None], phonon: Phonopy, path: Path
) -> np.ndarray:
    primitive = phonon.primitive
    for cell in cells:
        if cell is None or len(cell) != len(born):
            continue
        atoms = find_atoms(primitive, cell)
        if atoms is not None:
            return born[atoms]
    if len(born) == len(primitive):
        return born
    raise DataFormatError(
        f"{path}: there are Born charges of {len(born)} atoms; the primitive cell has "
        f"{len(primitive)}, and no cell of the file has as many."
    )


def find_atoms(primitive: PhonopyAtoms, cell: PhonopyAtoms) -> np.ndarray | None:
    """Find the atoms of the primitive cell in one that it tiles, or in another of it.

    Returns:
        (n_primitive,), numbers of atoms of ``cell``; None where it is of others.
    """
    inverse = np.linalg.inv(cell.cell)
    fractional = primitive.positions @ inverse
    difference = fractional[:, None] - cell.scaled_positions
    difference -= np.rint(difference)
    distances = np.linalg.norm(difference @ cell.cell, axis=-1)
    nearest = distances.argmin(axis=1)
    fits = distances.min(axis=1).max() < _SAME_PLACE and np.array_equal(
        primitive.numbers, cell.numbers[nearest]
    )
    return nearest if fits else None


def _checked(
    born: np.ndarray, dielectric: np.ndarray, path: Path
) -> dict[str, np.ndarray]:
    if not (np.isfinite(born).all() and np.isfinite(dielectric).all()):
        raise DataFormatError(f"{path}: a Born charge or the dielectric tensor is nan.")
    least = float(np.linalg.eigvalsh((dielectric + dielectric.T) / 2).min())
    if least <= 0.0:
        raise DataFormatError(
            f"{path}: the dielectric tensor has the eigenvalue {least:g}; positive "
            "ones are needed."
        )
    excess = float(np.abs(born.mean(axis=0)).max())
    if excess > _MAX_EXCESS:
        raise DataFormatError(
            f"{path}: the Born charges of the primitive cell add up to "
            f"{excess * len(born):.3g} e, where neutrality needs 0; at most "
            f"{_MAX_EXCESS} e per atom are accepted. Are they in the atoms' order?"
        )
    return {"born": born, "dielectric": dielectric}


def _left_out(reason: object) -> str:
    return (
        f"Born charges are left out, so frequencies have no non-analytical correction: "
        f"{reason}"
    )
