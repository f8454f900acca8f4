"""Reader of POSCAR: species as VASP 4 to 6 write them, or an error; never a guess."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase.data import chemical_symbols
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.data.readers.content import MAX_ATOMS
from pft_lightning.data.readers.species import read_element
from pft_lightning.errors import DataFormatError
from pft_lightning.files import read_data


_HELP = (
    "Write POSCAR as VASP 5 does: a line of elements (Na Cl) above that of their "
    "numbers of atoms (4 4)."
)


def read_text(path: Path) -> str:
    """Read a plain or compressed text file; what is no UTF-8 in comments is harmless.

    Raises:
        DataFormatError: damaged, or too large when unpacked.
    """
    return read_data(path).decode("utf-8", errors="replace")


def read_poscar(path: Path) -> PhonopyAtoms:
    """Read a structure in VASP's format, plain or compressed, in Å.

    Species may carry the name and hash of a pseudopotential (``Al_pv``,
    ``Al/3f2a9c``). The scale, selective dynamics and Cartesian positions are read by
    ASE. phonopy's own reader takes species that it does not know for H, He, ...

    Raises:
        DataFormatError: a species is no element, or the file is damaged.
    """
    lines = read_text(path).splitlines()
    if len(lines) < 8:
        raise DataFormatError(f"{path}: has {len(lines)} lines; no POSCAR is so short.")
    names, counts, body = _read_species(lines, path)
    elements = [_read_name(name, path) for name in names]
    n_atoms = sum(counts)
    start = body + 2 if lines[body].strip()[:1].lower() == "s" else body + 1
    positions = lines[start : start + n_atoms]
    if len(positions) < n_atoms or not all(line.strip() for line in positions):
        raise DataFormatError(
            f"{path}: {n_atoms} atoms are announced, but positions are missing. The "
            "file was truncated: write it again."
        )
    head = [
        "",
        _scale(lines, path),
        *lines[2:5],
        " ".join(symbol for symbol, _ in elements),
        " ".join(map(str, counts)),
    ]
    text = "\n".join([*head, *lines[body:start], *positions, ""])
    atoms: Any = ase.io.read(StringIO(text), format="vasp")
    masses: list[float] | None = None
    if any(mass is not None for _, mass in elements):
        natural = atoms.get_masses()
        told = np.repeat([mass or 0.0 for _, mass in elements], counts)
        masses = np.where(told > 0, told, natural).tolist()
    return PhonopyAtoms(
        symbols=[chemical_symbols[number] for number in atoms.numbers],
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(wrap=False),
        masses=masses,
    )


def _read_species(lines: list[str], path: Path) -> tuple[list[str], list[int], int]:
    """Give names, numbers of atoms, and the line that follows them."""
    first = lines[5].split()
    if first and first[0].isdigit():
        # VASP 4: the comment may name the elements, and nothing but them.
        names, counted, body = lines[0].split(), first, 6
        if len(names) != len(_counts(counted)):
            names = []
    else:
        names, counted, body = first, lines[6].split(), 7
    counts = _counts(counted)
    if not names or len(names) != len(counts) or not sum(counts):
        raise DataFormatError(
            f"{path}: {len(counts)} numbers of atoms ({' '.join(counted)}) and no "
            f"elements to go with them. {_HELP}"
        )
    if sum(counts) > MAX_ATOMS:
        raise DataFormatError(
            f"{path}: {sum(counts)} atoms are announced; at most {MAX_ATOMS} are read."
        )
    return names, counts, body


def _counts(words: list[str]) -> list[int]:
    """Numbers of atoms, up to the first word of a comment."""
    counts = []
    for word in words:
        if not word.isdigit():
            break
        counts.append(int(word))
    return counts


def _read_name(name: str, path: Path) -> tuple[str, float | None]:
    """Take the element from VASP's name of a species."""
    element = name.split("/")[0].split("_")[0]
    if not element.isalpha():
        raise DataFormatError(f"{path}: the species {name!r} is no element. {_HELP}")
    return read_element(element, f"a species ({name})", str(path))


def _scale(lines: list[str], path: Path) -> str:
    """Give the line of the scale; a negative one, a volume, as the factor it means."""
    words = lines[1].split()
    try:
        scale = float(words[0])
        lattice = np.array([line.split()[:3] for line in lines[2:5]], dtype=float)
        volume = abs(float(np.linalg.det(lattice)))
    except (ValueError, IndexError) as error:
        raise DataFormatError(
            f"{path}: lines 2 to 5 hold no scale and lattice ({error}). The file is "
            "no POSCAR or is damaged."
        ) from error
    if scale >= 0.0 or volume == 0.0:
        return lines[1]
    return repr(float(np.cbrt(-scale / volume)))
