"""Reader of JSON files: what they hold is told by their content.

Phonon documents are those of atomate2 and of the Materials Project
(``PhononBSDOSDoc``), whose layout changed: force constants are an object with a list in
it, or the list itself. They are brought to the form of a phonopy file, and read as one.
Their energies are left out: per formula unit in older ones, per atom in newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from pft_lightning.data.readers.molecules.record import build_molecule
from pft_lightning.data.readers.molecules.vibrations import KIND, MARK, read_vibrations
from pft_lightning.data.readers.names import file_stem
from pft_lightning.data.readers.options import PhononReadOptions, reading
from pft_lightning.data.readers.phonopy import read_content
from pft_lightning.data.readers.values import read_mapping
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import DataFormatError
from pft_lightning.files import read_data
from pft_lightning.json_files import parse_json


# Where documents keep the name of a material, in this order.
_NAME_KEYS: Final = ("material_id", "identifier", "task_id", "mp_id", "name")

# What holds a document, or a list of them: results of a query or of a job.
_WRAPPERS: Final = ("data", "output")

# Tolerance of the symmetry search that the documents' programme begins with, Å; they
# do not tell theirs.
_SYMPREC: Final = 1e-3

_FORCE_CONSTANTS: Final = "force_constants"
_OTHER_SIGNS: Final = ("phonon_bandstructure", "ph_bs", "phonon_dos", "ph_dos")


def list_documents(path: Path) -> list[int | None]:
    """List the documents of a file: [None] where it is a single one.

    Raises:
        DataFormatError: it is no JSON, or an empty list.
    """
    with reading(path):
        content = _unwrapped(_content(path, path.stat().st_mtime_ns))
    if isinstance(content, list) and not content:
        raise DataFormatError(f"{path}: is an empty list. Download it again.")
    # A document that is null, or a text, does not keep the others from being read.
    if not _are_several(content):
        return [None]
    return list(range(len(content)))


def document_name(path: Path, entry: int | None) -> str:
    """Name a document by its material, else by its file."""
    with reading(path):
        content = _unwrapped(_content(path, path.stat().st_mtime_ns))
    document = content if entry is None else content[entry]
    return _name(document, path, entry)


def read_document(
    path: Path, entry: int | None, options: PhononReadOptions
) -> StructureRecord:
    """Read one document.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    with reading(path):
        content = _content(path, path.stat().st_mtime_ns)
        if isinstance(content, dict) and content.get(MARK) == KIND:
            found = read_vibrations(path, read_data(path))
            return build_molecule(found, str(path), options)
        content = _unwrapped(content)
        where = path if entry is None else Path(f"{path}, document {entry}")
        document = content if entry is None else content[entry]
        record = _read_phonons(document, where, options)
    return replace(record, name=_name(document, path, entry))


def read_document_text(
    text: bytes, path: Path, options: PhononReadOptions
) -> StructureRecord:
    """Read a file of one document that is in memory.

    Raises:
        DataFormatError: names the file, the value and what to do.
    """
    content = _parse(text, path)
    if isinstance(content, dict) and content.get(MARK) == KIND:
        return build_molecule(read_vibrations(path, text), str(path), options)
    document = _unwrapped(content)
    if _are_several(document):
        raise DataFormatError(
            f"{path}: holds {len(document)} documents; a member of an archive is read "
            "as one. Unpack it: lists of documents are read as files."
        )
    record = _read_phonons(document, path, options)
    return replace(record, name=_name(document, path, None))


def _read_phonons(
    document: Any, where: Path, options: PhononReadOptions
) -> StructureRecord:
    known = isinstance(document, dict)
    if not known or not ({_FORCE_CONSTANTS, *_OTHER_SIGNS} & document.keys()):
        what = "an object" if known else "a list or value"
        raise DataFormatError(
            f"{where}: is JSON of no kind that is known ({what} without "
            f"{_FORCE_CONSTANTS}). Phonon documents of atomate2 or the Materials "
            "Project and VibrationsData of ASE are read."
        )
    return read_content(_to_phonopy(document, where), where, options, beside=False)


def _to_phonopy(document: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Bring a document to the form of a phonopy yaml file."""
    rows = _force_constants(document, where)
    for name in ("structure", "supercell_matrix"):
        if document.get(name) is None:
            raise DataFormatError(
                f"{where}: has no {name}, which says what its force constants are of. "
                "Query the document with all fields."
            )
    content = {
        "phonopy": {"calculator": "vasp", "symmetry_tolerance": _SYMPREC},
        "unit_cell": _to_cell(document["structure"], where),
        "supercell_matrix": document["supercell_matrix"],
        "primitive_matrix": document.get("primitive_matrix"),
        _FORCE_CONSTANTS: {"shape": [len(rows), len(rows[0])], "elements": rows},
    }
    tensor = document.get("epsilon_electronic") or document.get("epsilon_static")
    if document.get("born") is not None and tensor is not None:
        content |= {"born": document["born"], "dielectric": tensor}
    return content


def _force_constants(document: Mapping[str, Any], where: Path) -> list[list[Any]]:
    """Give the rows of force constants of a document."""
    stored: Any = document.get(_FORCE_CONSTANTS)
    # An object of the programme, or an array as it serialises them.
    while isinstance(stored, dict) and "blob_uuid" not in stored:
        stored = stored.get(_FORCE_CONSTANTS, stored.get("data"))
    if isinstance(stored, dict):
        raise DataFormatError(
            f"{where}: its force constants are in another store (blob_uuid). Query the "
            "document with load=True, and write it again."
        )
    if not (isinstance(stored, list) and stored and isinstance(stored[0], list)):
        raise DataFormatError(
            f"{where}: has no force constants, as documents have that were made "
            "without store_force_constants, or by DFPT. Give phonopy files of it."
        )
    return stored


def _to_cell(structure: Any, where: Path) -> dict[str, Any]:
    """Bring a structure of pymatgen to the form of a cell of phonopy."""
    structure = read_mapping(structure, "structure", where)
    lattice = read_mapping(structure.get("lattice"), "structure.lattice", where)
    sites = structure.get("sites")
    if not isinstance(sites, list):
        raise DataFormatError(f"{where}: structure.sites is no list of atoms.")
    points: list[dict[str, Any]] = []
    moments = []
    for number, site in enumerate(sites):
        what = f"structure.sites[{number}]"
        site = read_mapping(site, what, where)
        species = site.get("species")
        if not isinstance(species, list) or [_occupation(s) for s in species] != [1]:
            raise DataFormatError(
                f"{where}: {what} is not one element that is always there. Give a "
                "calculation without disorder."
            )
        point = {"symbol": species[0].get("element"), "coordinates": site.get("abc")}
        points.append(point)
        moments.append((site.get("properties") or {}).get("magmom"))
    # Moments that are all zero, or no numbers, lower no symmetry that phonopy knows of.
    if any(moments) and all(isinstance(moment, (int, float)) for moment in moments):
        for point, moment in zip(points, moments, strict=True):
            point["magnetic_moment"] = moment
    return {"lattice": lattice.get("matrix"), "points": points}


def _occupation(species: Any) -> Any:
    return species.get("occu") if isinstance(species, dict) else None


def _name(document: Any, path: Path, entry: int | None) -> str:
    for key in _NAME_KEYS if isinstance(document, dict) else ():
        value = document.get(key)
        if isinstance(value, str) and value:
            return value
    stem = file_stem(path)
    return stem if entry is None else f"{stem}-{entry}"


def _are_several(content: Any) -> bool:
    return isinstance(content, list) and any(isinstance(c, dict) for c in content)


def _unwrapped(content: Any) -> Any:
    """Give what a query or a job returned, without what it is wrapped in."""
    while isinstance(content, dict) and _FORCE_CONSTANTS not in content:
        held = [content[name] for name in _WRAPPERS if content.get(name)]
        if not held or not isinstance(held[0], (dict, list)):
            break
        content = held[0]
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        return _unwrapped(content[0])
    return content


@lru_cache(maxsize=1)
def _content(path: Path, time: int) -> Any:
    """Parse a file once for all its documents, not once for each."""
    del time
    return _parse(read_data(path), path)


def _parse(text: bytes, path: Path) -> Any:
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        raise DataFormatError(
            f"{path}: is no JSON that can be read ({error}). It was cut off "
            "or changed: write or download it again."
        ) from error
