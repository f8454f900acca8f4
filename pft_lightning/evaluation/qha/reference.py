"""What quasi-harmonic calculations are compared with: curves, and mode parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from phonopy import Phonopy

from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.readers.names import NOT_SOURCES, SUFFIXES, yaml_stem
from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation.gruneisen import ModeGruneisen, gruneisen_of_volumes
from pft_lightning.evaluation.qha.columns import (
    BULK,
    EXPANSION,
    GIBBS,
    GRUNEISEN_QHA,
    HEAT_CAPACITY_P,
    VOLUME,
)
from pft_lightning.evaluation.qha.fit import QuasiHarmonic
from pft_lightning.evaluation.reference import file_name, read_reference
from pft_lightning.files import read_data


# What a folder may hold -> column; of two of one column the first counts.
FILES: Final = {
    "thermal_expansion.dat": EXPANSION,
    "volume-temperature.dat": VOLUME,
    "bulk_modulus-temperature.dat": BULK,
    "Cp-temperature_polyfit.dat": HEAT_CAPACITY_P,
    "Cp-temperature.dat": HEAT_CAPACITY_P,
    "gibbs-temperature.dat": GIBBS,
    "gruneisen-temperature.dat": GRUNEISEN_QHA,
}

# Column -> temperatures, K, and values.
Curves = dict[str, tuple[np.ndarray, np.ndarray]]

_MAX_BYTES: Final = 1 << 24
# How far a volume may be from that of whole primitive cells.
_MISMATCH: Final = 0.2
# Relative; of volumes that are nearer the difference is rounding.
_SAME_VOLUME: Final = 1e-4

# Of the differences that mode parameters are.
_N_VOLUMES: Final = 3

_EXPECTED: Final = (
    f"the files of phonopy-qha ({', '.join(FILES)}) or phonopy files "
    "(*.yaml) with force constants at three or more volumes"
)


@dataclass(frozen=True, slots=True, eq=False)
class QhaReference:
    """What is known of one material.

    Attributes:
        curves: by column; may be empty.
        modes: Grüneisen parameters of its modes; None where they are not known.
    """

    curves: Curves
    modes: ModeGruneisen | None

    def to_plain(self) -> list[Any]:
        """All numbers, as what results depend on."""
        curves = {n: [v.tolist() for v in c] for n, c in self.curves.items()}
        if self.modes is None:
            return [curves]
        return [curves, self.modes.frequencies.tolist(), self.modes.gruneisen.tolist()]


def read_references(
    path: str | Path,
    mesh: float | tuple[int, int, int],
    options: PhononReadOptions | None = None,
) -> dict[str, QhaReference]:
    """Read what is known of all materials of a folder.

    Args:
        path: folder with a folder of files for each material, or with the files of
            one, which then stand under the empty name.
        mesh: of the q-points of mode parameters, as of ``Protocol``.
        options: how phonopy files are read.

    Raises:
        DataFormatError: there is no such folder, none of the files, or one that holds
            something else.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise DataFormatError(
            f"{folder}: is no folder. Give one with {_EXPECTED}, or with such a "
            "folder for each material, named as the material."
        )
    own = _read_folder(folder, mesh, options)
    if own is not None:
        return {"": own}
    found = {
        file_name(child.name): known
        for child in sorted(folder.iterdir())
        if child.is_dir() and (known := _read_folder(child, mesh, options))
    }
    if not found:
        raise DataFormatError(
            f"{folder}: neither it nor a folder in it has {_EXPECTED}."
        )
    return found


def _read_folder(
    folder: Path,
    mesh: float | tuple[int, int, int],
    options: PhononReadOptions | None,
) -> QhaReference | None:
    """What the files of a folder say; None where it has none."""
    curves: Curves = {}
    for name, column in FILES.items():
        if (folder / name).is_file() and column not in curves:
            curves[column] = _read(folder / name)
    files = sorted(filter(_may_hold_phonons, folder.iterdir()))
    if not curves and not files:
        return None
    # Beside curves lies the input of phonopy that they were made with.
    if curves and len(files) < _N_VOLUMES:
        return QhaReference(curves, None)
    return QhaReference(curves, _read_modes(folder, files, mesh, options))


def _may_hold_phonons(file: Path) -> bool:
    """Tell whether a file is of phonopy and no result, which may be numbered."""
    return file.name.lower().endswith(SUFFIXES) and not yaml_stem(file).startswith(
        tuple(yaml_stem(Path(name)) for name in NOT_SOURCES)
    )


def _read_modes(
    folder: Path,
    files: Sequence[Path],
    mesh: float | tuple[int, int, int],
    options: PhononReadOptions | None,
) -> ModeGruneisen:
    """Mode parameters at the middle volume, from it and those beside it."""
    if len(files) < _N_VOLUMES:
        raise DataFormatError(
            f"{folder}: has {len(files)} phonopy files; Grüneisen parameters need "
            "force constants at three volumes. Add the others, or take these away."
        )
    volumes = [_phonons(file, options) for file in files]
    first = files[0]
    for file, phonon in zip(files, volumes, strict=True):
        if _crystal(phonon) != _crystal(volumes[0]):
            raise DataFormatError(
                f"{file}: holds {phonon.primitive.formula} in "
                f"{len(phonon.supercell)} atoms, and {first.name} beside it "
                f"{volumes[0].primitive.formula} in {len(volumes[0].supercell)}; "
                "expected one crystal and supercell at several volumes."
            )
    order = sorted(range(len(files)), key=lambda i: volumes[i].primitive.volume)
    for i, j in pairwise(order):
        low, high = volumes[i].primitive.volume, volumes[j].primitive.volume
        if high - low < _SAME_VOLUME * high:
            raise DataFormatError(
                f"{files[i]} and {files[j].name}: have the same volume, "
                f"{low:.6g} Å³; expected different ones. Take one of them away."
            )
    middle = len(order) // 2
    return gruneisen_of_volumes(
        [volumes[i] for i in order[middle - 1 : middle + 2]], mesh
    )


def _phonons(file: Path, options: PhononReadOptions | None) -> Phonopy:
    phonon = read_reference(file, options=options)
    if not isinstance(phonon, Phonopy):
        raise DataFormatError(f"{file}: is of a molecule; expected a crystal.")
    return phonon


def _crystal(phonon: Phonopy) -> tuple[Any, ...]:
    """What force constants at several volumes must share to be subtracted."""
    return (
        [int(number) for number in phonon.primitive.numbers],
        np.rint(phonon.supercell_matrix).astype(int).tolist(),
        [int(number) for number in phonon.supercell.numbers],
    )


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Temperatures, ascending, and values."""
    try:
        lines = read_data(path, max_bytes=_MAX_BYTES).decode().splitlines()
        rows = [line.split() for line in lines if line.strip() and line[0] != "#"]
        table = np.array([[float(entry) for entry in row] for row in rows])
    except (OSError, ValueError) as error:
        raise DataFormatError(
            f"{path}: cannot be read as numbers ({error}); expected lines of a "
            "temperature in K and a value, as phonopy-qha writes them."
        ) from error
    if table.ndim != 2 or table.shape[1] < 2 or len(table) < 2:
        raise DataFormatError(
            f"{path}: is of shape {table.shape}; expected at least two lines of a "
            "temperature in K and a value, as phonopy-qha writes them."
        )
    temperatures, values = table[:, 0], table[:, 1]
    if not np.isfinite(table).all() or not (np.diff(temperatures) > 0).all():
        raise DataFormatError(
            f"{path}: temperatures do not ascend, or a number is not finite. Write it "
            "again with phonopy-qha."
        )
    return temperatures, values


def per_primitive_cell(curves: Curves, found: QuasiHarmonic, name: str) -> Curves:
    """Bring a reference to primitive cells, as its volume says.

    Args:
        curves: of the reference, of any cell of the crystal.
        found: of a model, per primitive cell.
        name: of the material, for the message.

    Raises:
        DataFormatError: the volume is not that of whole primitive cells.
    """
    if VOLUME not in curves:
        return curves
    temperatures, volumes = curves[VOLUME]
    ours = np.interp(temperatures, found.temperatures, found.volume)
    ratio = float(np.median(volumes / ours))
    n_cells = round(ratio)
    if n_cells < 1 or abs(ratio / n_cells - 1) > _MISMATCH:
        raise DataFormatError(
            f"the reference of {name} has {ratio:.3g} times the volume of the model's "
            "primitive cell; expected that of one or of several cells. Is it another "
            "crystal?"
        )
    scaled = {
        column: (t, values / n_cells)
        for column, (t, values) in curves.items()
        if column in (VOLUME, HEAT_CAPACITY_P, GIBBS)
    }
    return {**curves, **scaled}


def check_modes(modes: ModeGruneisen, n_primitive: int, name: str) -> None:
    """Refuse mode parameters of another crystal.

    Raises:
        DataFormatError: the numbers of branches differ.
    """
    n_bands = modes.frequencies.shape[1]
    if n_bands != 3 * n_primitive:
        raise DataFormatError(
            f"the reference of {name} has {n_bands} branches; its primitive cell of "
            f"{n_primitive} atoms has {3 * n_primitive}. Is it another crystal?"
        )
