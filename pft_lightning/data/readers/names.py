"""Names of the files and folders that hold phonons: what a source is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, Any

from pft_lightning.errors import DataFormatError
from pft_lightning.files import COMPRESSED, open_data


# Endings of phonopy and phono3py files.
SUFFIXES = tuple(
    kind + packed for kind in (".yaml", ".yml") for packed in ("", *COMPRESSED)
)

# Endings of databases, of ORCA's Hessians, of formatted checkpoint files, of extended
# XYZ, of JSON and of archives.
DATABASE = ".aselmdb"
ORCA = tuple(f".hess{packed}" for packed in ("", *COMPRESSED))
FCHK = tuple(
    kind + packed for kind in (".fchk", ".fch") for packed in ("", *COMPRESSED)
)
XYZ = tuple(
    kind + packed for kind in (".xyz", ".extxyz") for packed in ("", *COMPRESSED)
)
JSON = tuple(f".json{packed}" for packed in ("", *COMPRESSED))
ARCHIVES = (
    *(f".tar{packed}" for packed in ("", *COMPRESSED)),
    *(".tgz", ".tbz2", ".txz", ".zip"),
)

# Files of a calculation before its forces are known.
INPUT_FILES = ("phonopy.yaml", "phonopy_disp.yaml")

# Files whose presence makes a folder one material.
FORCE_FILES = (
    "FORCE_CONSTANTS",
    "force_constants.hdf5",
    "FORCE_SETS",
)

# Those of phono3py, and the files beside which they do so: phono3py_params.yaml holds
# its forces itself.
PHONO3PY_FORCE_FILES = ("FORCES_FC2", "FORCES_FC3")
PHONO3PY_CELL_FILES = ("phono3py_disp.yaml", "phono3py.yaml")

# Files of a folder that hold its cells, best first.
CELL_FILES = ("phonopy_disp.yaml", "phonopy_params.yaml", "phonopy.yaml")
UNIT_CELL_FILES = ("POSCAR-unitcell", "POSCAR", "POSCAR-primitive")

# Names that phonopy gives to any material: the folder then says which one it is.
GENERIC_NAMES = (
    "phonopy",
    "phonopy_params",
    "phonopy_disp",
    "phonon",
    "phonopy_fc",
    "phono3py",
    "phono3py_params",
    "phono3py_disp",
)

# Endings of other files with crystals, and the supercells that are none of their own.
_CRYSTALS = (".cif", ".vasp", ".poscar", ".xyz", ".extxyz")
_DISPLACED = re.compile(r"POSCAR-\d+(\.|$)")

# Born charges, as phonopy names the file.
BORN_FILE = "BORN"

# Results that phonopy writes as yaml beside its input; they hold no force constants.
NOT_SOURCES = (
    "band.yaml",
    "mesh.yaml",
    "qpoints.yaml",
    "thermal_properties.yaml",
    "thermal_displacements.yaml",
    "thermal_displacement_matrices.yaml",
    "irreps.yaml",
    "modulation.yaml",
    "gruneisen.yaml",
    "phonopy_symcells.yaml",
)


# What a file of a kind that says nothing must hold to be a source.
_MARKS = (b"hessian", b"force_constants")

_BLOCK = 1 << 20
_LONGEST = max(map(len, _MARKS))

# File that makes a directory a store.
STORE_HEADER = "store.json"

# File that marks a store as finished.
STORE_INDEX = "index.json"


def is_store(path: Path) -> bool:
    """Tell whether a path is a store, finished or not."""
    return (path / STORE_HEADER).is_file()


def is_material_folder(path: Path) -> bool:
    """Tell whether a folder is one material, by the force files in it."""
    if not path.is_dir():
        return False
    if any(find_file(path, name) for name in FORCE_FILES):
        return True
    return (
        any(find_file(path, name) for name in PHONO3PY_FORCE_FILES)
        and any(find_file(path, name) for name in PHONO3PY_CELL_FILES)
        and find_file(path, "phono3py_params.yaml") is None
    )


def is_calculation_folder(path: Path) -> bool:
    """Tell whether a folder has the cells of one calculation, forces or not."""
    if not path.is_dir():
        return False
    if is_material_folder(path):
        return True
    if any(find_file(path, name) for name in (*CELL_FILES, *PHONO3PY_CELL_FILES)):
        return True
    return find_file(path, "SPOSCAR") is not None and any(
        find_file(path, name) for name in UNIT_CELL_FILES
    )


def is_structure_source(path: Path) -> bool:
    """Tell whether a path in a folder looks like a crystal, or several."""
    if path.is_dir():
        return is_calculation_folder(path)
    if path.name in NOT_SOURCES:
        return False
    endings = tuple(end + packed for end in _CRYSTALS for packed in ("", *COMPRESSED))
    return path.name.endswith((*SUFFIXES, *endings)) or (
        is_poscar(path) and not _DISPLACED.match(path.name)
    )


def is_poscar(path: Path) -> bool:
    """Tell whether a file is in VASP's format by its name, compressed or not."""
    name = path.name
    for packed in COMPRESSED:
        name = name.removesuffix(packed)
    return name.startswith(("POSCAR", "CONTCAR")) or name.endswith((".vasp", ".poscar"))


def is_system(path: Path) -> bool:
    """Tell whether a folder is a system of DeePMD-kit with Hessians."""
    return (path / "type.raw").is_file() and any(path.glob("set.*/hessian.npy"))


def find_file(folder: Path, name: str) -> Path | None:
    """Find a file of a folder, plain or else compressed; None where there is none."""
    for packed in ("", *COMPRESSED):
        path = folder / f"{name}{packed}"
        if path.is_file():
            return path
    return None


def is_force_file(path: Path) -> bool:
    """Tell whether a file is one of those that make its folder a material."""
    name = path.name
    for packed in COMPRESSED:
        name = name.removesuffix(packed)
    return name in (*FORCE_FILES, *PHONO3PY_FORCE_FILES) and path.is_file()


def yaml_stem(path: Path) -> str:
    """Give the name of a yaml file without what says how it is written."""
    stem = path.name
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    return stem


def file_stem(path: Path) -> str:
    """Give the name of a molecule's file, or a document's, without its ending.

    >>> file_stem(Path("a/benzene.v2.hess.gz")), file_stem(Path("mp-149.json"))
    ('benzene.v2', 'mp-149')
    """
    endings = (*ORCA, *FCHK, *XYZ, *JSON)
    name = path.name
    for ending in sorted(endings, key=len, reverse=True):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def is_alone(path: Path) -> bool:
    """Tell whether what lies beside a yaml file belongs to it.

    Its name is one that phonopy gives to any material, or no other material is there.
    """
    return yaml_stem(path) in GENERIC_NAMES or not any(
        yaml_stem(other) not in (*GENERIC_NAMES, yaml_stem(path))
        and is_phonon_source(other)
        for other in path.parent.iterdir()
        if other.is_file()
    )


def is_phonon_source(path: Path) -> bool:
    """Tell whether a path looks like something that a reader here reads.

    Files of extended XYZ and of JSON may be anything: they are looked into for the
    name of what they must hold.
    """
    if path.is_dir():
        return is_material_folder(path) or is_system(path)
    if path.name in NOT_SOURCES:
        return False
    name = path.name.lower()
    if name.endswith(JSON):
        return path.is_file() and _holds(path, damaged=True)
    if name.endswith(XYZ):
        # The second line of a frame names all that is in it. Most files are of frames
        # without a Hessian, so damaged ones are taken for these.
        return path.is_file() and _holds(path, damaged=False, n_blocks=1)
    return name.endswith((*SUFFIXES, DATABASE, *ORCA, *FCHK, *ARCHIVES))


def _holds(path: Path, *, damaged: bool, n_blocks: int | None = None) -> bool:
    """Tell whether a mark is in a file, or in its first blocks.

    Args:
        path: of the file.
        damaged: the answer where it cannot be unpacked; a reader then says why.
        n_blocks: to look into; all of them by default.
    """
    try:
        with open_data(path) as file:
            return holds_mark(file, n_blocks)
    except (OSError, DataFormatError):
        return damaged


def holds_mark(file: IO[bytes], n_blocks: int | None = None) -> bool:
    """Tell whether what follows in an open file names phonons or Hessians.

    Args:
        file: unpacked; capitals are taken for small letters.
        n_blocks: to look into; all of them by default.
    """
    before, count = b"", 0
    while count != n_blocks and (block := file.read(_BLOCK).lower()):
        if any(mark in before + block for mark in _MARKS):
            return True
        before, count = block[-_LONGEST:], count + 1
    return False


def source_state(path: Path) -> list[list[Any]]:
    """Names, sizes and times of change of a source's files, which tell changes of it.

    Raises:
        OSError: it is gone, or may not be read.
    """
    if is_store(path):
        files = [path / STORE_HEADER, path / STORE_INDEX]
    elif path.is_dir():
        files = sorted([*path.iterdir(), *path.glob("set.*/*")])
    else:
        born = find_file(path.parent, BORN_FILE)
        files = [path] if born is None else [path, born]
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return [[name, s.st_size, s.st_mtime_ns] for name, s in stats]
