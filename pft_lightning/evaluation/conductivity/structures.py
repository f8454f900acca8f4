"""Crystals of conductivities: with their supercells and meshes, or alone.

Extended XYZ as phononDB's says all of a frame in its comment line: ``fc2_supercell``,
``fc3_supercell`` (3 or 3 x 3 whole numbers), ``q_mesh`` (3) and ``mp_id``. phono3py
files bring both supercells. A crystal alone gets supercells near to cubes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import ase
import numpy as np

from pft_lightning.data.crystals import (
    cells_of,
    check_bulk,
    crystal_name,
    is_phonon_source,
    load_cells,
    read_file,
)
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.readers.content import count_atoms, header_of
from pft_lightning.data.readers.names import PHONO3PY_CELL_FILES, source_state
from pft_lightning.data.readers.options import reading
from pft_lightning.data.readers.phonopy import load_content, material_name
from pft_lightning.data.sources import Spec, find_sources
from pft_lightning.data.supercells import SupercellOptions, build_supercell
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.evaluation.conductivity.cells import ConductivityCells
from pft_lightning.evaluation.conductivity.reference import MOST_POINTS
from pft_lightning.evaluation.fingerprints import digest
from pft_lightning.evaluation.reference import (
    Material,
    file_name,
    number_names,
    unusable,
)
from pft_lightning.option_types import As, Matrix, NAtoms


# Names in the comment line of extended XYZ, the usual one first.
_SECOND: Final = ("fc2_supercell", "phonon_supercell_matrix")
_THIRD: Final = ("fc3_supercell", "supercell_matrix")
_MESH: Final = ("q_mesh", "q_point_mesh", "mesh")
_NAMES: Final = ("mp_id", "material_id", "name")


@dataclass(frozen=True, slots=True)
class ConductivityOptions:
    """Supercells of crystals whose files name none, or that are asked for.

    A crystal alone is brought into its standard conventional cell, unless matrices are
    given.

    Attributes:
        fc2_supercell: of second order, in place of the file's; 3 or 9 integers.
        fc3_supercell: of third order, likewise; both or none are given.
        fc2_max_atoms: most atoms of the supercell of second order of a crystal alone,
            which is nearest to a cube.
        fc3_max_atoms: the same of third order.
    """

    fc2_supercell: Annotated[Sequence[int] | None, As(Matrix)] = None
    fc3_supercell: Annotated[Sequence[int] | None, As(Matrix)] = None
    fc2_max_atoms: NAtoms = 300
    fc3_max_atoms: NAtoms = 80

    def __post_init__(self) -> None:
        """Check that the options fit together.

        Raises:
            ConfigError: one matrix without the other, or one that makes no supercell.
        """
        given = {"fc2": self.fc2_supercell, "fc3": self.fc3_supercell}
        missing = [name for name, matrix in given.items() if matrix is None]
        if len(missing) == 1:
            raise ConfigError(
                f"conductivity.{missing[0]}_supercell is not given, and the other is; "
                "both or none choose the supercells."
            )
        for name, matrix in given.items():
            if matrix is not None:
                try:
                    _matrix(matrix, "")
                except DataFormatError as error:
                    raise ConfigError(
                        f"conductivity.{name}_supercell={list(matrix)}: {error}"
                    ) from error


_OPTIONS: Final = PhononReadOptions()


def list_crystals(
    structures: Spec,
    options: ConductivityOptions,
    reading_options: PhononReadOptions = _OPTIONS,
) -> list[Material[ConductivityCells]]:
    """List crystals as the materials of an evaluation, each with a name of its own.

    One that cannot be used says why when it is read.

    Args:
        structures: files, folders or globs of extended XYZ, CIF, POSCAR and what else
            ASE reads, or phono3py files.
        options: supercells of those that have none.
        reading_options: units and tolerance of the symmetry search.

    Raises:
        DataFormatError: a path matches nothing.
    """
    found = find_sources(structures, kind="structure")
    materials: list[Material[ConductivityCells]] = [
        unusable(Path(source).stem, source, reason) for source, reason in found.skipped
    ]
    for path in found.paths:
        if is_phonon_source(path):
            materials.append(_of_phono3py(path, options, reading_options))
        else:
            materials += _of_frames(path, options, reading_options)
    return number_names(materials)


def _of_frames(
    path: Path, options: ConductivityOptions, reading_options: PhononReadOptions
) -> Iterator[Material[ConductivityCells]]:
    """Frames of a file, told apart by what they hold: others may be added later."""
    own = crystal_name(path)
    try:
        with reading(path):
            frames = list(read_file(path))
    except DataFormatError as error:
        yield unusable(own, str(path), str(error))
        return
    for index, (where, atoms) in enumerate(frames):
        name = own if len(frames) == 1 else f"{own}-{index}"
        if isinstance(atoms, DataFormatError):
            known = _names_of(getattr(atoms, "info", {}))
            yield unusable(known[0] if known else name, where, str(atoms))
            continue
        names = _names_of(atoms.info)
        content = [
            atoms.numbers.tolist(),
            atoms.cell.array.tolist(),
            atoms.positions.tolist(),
            atoms.get_masses().tolist(),
            sorted((key, str(atoms.info[key])) for key in _used(atoms.info)),
        ]
        yield Material(
            name=file_name(names[0] if names else name),
            source=where,
            fingerprint=digest([content, asdict(options), reading_options.symprec]),
            read=partial(
                _read_frame, atoms, (*names, name), where, options, reading_options
            ),
        )


def _used(info: Mapping[str, Any]) -> list[str]:
    known = {*_SECOND, *_THIRD, *_MESH, *_NAMES}
    return [key for key in info if key in known]


def _names_of(info: Mapping[str, Any]) -> tuple[str, ...]:
    found = (str(info[key]).strip() for key in _NAMES if key in info)
    return tuple(name for name in found if name)


def _read_frame(
    atoms: ase.Atoms,
    names: tuple[str, ...],
    where: str,
    options: ConductivityOptions,
    reading_options: PhononReadOptions,
) -> ConductivityCells:
    check_bulk(int((atoms.pbc & atoms.cell.any(axis=1)).sum()), where)
    second, third = (_find(atoms.info, keys) for keys in (_SECOND, _THIRD))
    return _make(
        atoms,
        None if second is None else _matrix(second, f"{where}: fc2_supercell "),
        None if third is None else _matrix(third, f"{where}: fc3_supercell "),
        _mesh(_find(atoms.info, _MESH), where),
        names,
        where,
        options,
        reading_options,
    )


def _find(info: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((info[key] for key in keys if info.get(key) is not None), None)


def _of_phono3py(
    path: Path, options: ConductivityOptions, reading_options: PhononReadOptions
) -> Material[ConductivityCells]:
    name = path.absolute().name if path.is_dir() else material_name(path)
    place = [str(path.absolute()), source_state(path)]
    return Material(
        name=file_name(name),
        source=str(path),
        fingerprint=digest([*place, asdict(options), asdict(reading_options)]),
        read=partial(_read_phono3py, path, name, options, reading_options),
    )


def _read_phono3py(
    path: Path,
    name: str,
    options: ConductivityOptions,
    reading_options: PhononReadOptions,
) -> ConductivityCells:
    file = path
    if path.is_dir():
        inside = [path / one for one in PHONO3PY_CELL_FILES]
        file = next((one for one in inside if one.is_file()), path)
    with reading(file):
        content: dict[str, Any] = {}
        if file.is_dir():
            cells, is_alone = load_cells(file, reading_options)
        else:
            content = load_content(file)
            cells, is_alone = cells_of(content, file, reading_options)
        unitcell = cells.to_phonopy().unitcell
        atoms = ase.Atoms(
            numbers=unitcell.numbers,
            cell=unitcell.cell,
            scaled_positions=unitcell.scaled_positions,
            masses=unitcell.masses,
            pbc=True,
        )
        second = None if is_alone else np.array(cells.supercell_matrix)
        third = content.get("supercell_matrix")
        configuration = header_of(content, file).get("configuration")
        asked = configuration if isinstance(configuration, Mapping) else {}
        # "mesh" is phonopy's name; phono3py writes "mesh_numbers".
        mesh = asked.get("mesh_numbers", asked.get("mesh"))
        return _make(
            atoms,
            second,
            second if third is None else _matrix(third, f"{file}: supercell_matrix "),
            _mesh(None if mesh is None else str(mesh).split(), str(file)),
            (name,),
            str(file),
            options,
            reading_options,
        )


def _make(
    atoms: ase.Atoms,
    second: np.ndarray | None,
    third: np.ndarray | None,
    mesh: tuple[int, int, int] | None,
    names: tuple[str, ...],
    where: str,
    options: ConductivityOptions,
    reading_options: PhononReadOptions,
) -> ConductivityCells:
    """Give a crystal the supercells that are asked for, or its own, or sensible ones.

    Raises:
        DataFormatError: a supercell is too large, or spglib finds no standard cell.
    """
    if options.fc2_supercell is not None and options.fc3_supercell is not None:
        second, third = _matrix(options.fc2_supercell), _matrix(options.fc3_supercell)
    if second is None and third is None:
        symprec = reading_options.symprec or 1e-5
        limits = (options.fc2_max_atoms, options.fc3_max_atoms)
        chosen = [
            build_supercell(atoms, SupercellOptions(max_atoms=most), where, symprec)
            for most in limits
        ]
        second, third = (np.array(one.supercell_matrix) for one in chosen)
        cell = chosen[0].unitcell
        atoms = ase.Atoms(
            numbers=cell.numbers,
            cell=cell.cell,
            scaled_positions=cell.scaled_positions,
            pbc=True,
        )
    # Without one of second order, phono3py too takes that of third order for both.
    second, third = (
        (third if second is None else second),
        (second if third is None else third),
    )
    assert second is not None
    assert third is not None
    for matrix in (second, third):
        count_atoms(atoms, matrix, where)
    return ConductivityCells(atoms, second, third, mesh, names)


def _matrix(value: Any, what: str = "") -> np.ndarray:
    """A supercell matrix of 3 or 9 whole numbers, in a row or nested."""
    try:
        numbers = np.asarray(value, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if numbers.size in (3, 9) and np.array_equal(numbers, np.rint(numbers)):
        whole = numbers.astype(np.int64)
        matrix = np.diag(whole) if whole.size == 3 else whole.reshape(3, 3)
        if np.linalg.det(matrix) > 0.5:
            return np.asarray(matrix)
    raise DataFormatError(
        f"{what}{_shown(value)} makes no supercell; expected 3 or 3 x 3 whole "
        "numbers of a positive determinant, e.g. 2 2 2. Correct it."
    )


def _mesh(value: Any, where: str) -> tuple[int, int, int] | None:
    if value is None:
        return None
    try:
        first, second, third = (float(n) for n in np.asarray(value).ravel())
    except (TypeError, ValueError):
        first = second = third = 0.0
    numbers = (int(first), int(second), int(third))
    if (
        numbers != (first, second, third)
        or not 1 <= min(numbers) <= max(numbers) <= MOST_POINTS
    ):
        raise DataFormatError(
            f"{where}: the mesh of q-points is {_shown(value)}; expected three whole "
            f"numbers from 1 to {MOST_POINTS}, e.g. 19 19 19. Correct it."
        )
    return numbers


def _shown(value: Any) -> str:
    plain = value.tolist() if isinstance(value, np.ndarray) else value
    return str(plain)[:80]
