"""Select the frames and the phonon materials of the MPtrj / PBEsol benchmark.

The script reads the compressed extended XYZ files of MPtrj frames and the
phonondb PBEsol folder, and writes into a work folder::

    mptrj-train.xyz, mptrj-val.xyz    frames with REF_energy, REF_forces, REF_stress
    e0s.json                          least-squares energy per element (eV)
    phonons-train.txt, phonons-val.txt    one ``<mp id> <formula>`` line per material
    phonons/train/, phonons/val/      the chosen phonopy files

No random number is drawn: the same sources give the same selection.
"""

from __future__ import annotations

import argparse
import csv
import json
import lzma
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.io import read, write


#: Elements that end a chemical formula as the anion of an ionic crystal.
ANIONS = frozenset(["F", "Cl", "Br", "I", "O", "S", "Se", "Te"])

# fmt: off
#: Main-group cations and metals that are d0 or d10 in their usual compounds.
CATIONS = frozenset(
    ["Li", "Na", "K", "Rb", "Cs", "Be", "Mg", "Ca", "Sr", "Ba", "Sc", "Y", "La",
     "Ti", "Zr", "Hf", "Nb", "Ta", "Cu", "Ag", "Zn", "Cd", "Hg", "B", "Al", "Ga",
     "In", "Tl", "Si", "Ge", "Sn", "Pb", "P", "As", "Sb", "Bi"]
)
# fmt: on

#: Best training candidates that stay beside those moved to the validation set.
VAL_POOL = 60

#: Atomic numbers of Ce to Lu, and of Ac to Lr; no frame holds a heavier element.
LANTHANIDES, ACTINIDES = range(58, 72), range(89, 104)


@dataclass(frozen=True)
class Material:
    """One row of the phonon index.

    Attributes:
        mp: Materials Project identifier, also the stem of the file name.
        formula: Formula of the unit cell.
        elements: Chemical symbols in the material.
        split: Split the material has in the source, ``train`` or ``val``.
        n_super: Number of atoms in the supercell.
    """

    mp: str
    formula: str
    elements: frozenset[str]
    split: str
    n_super: int


def read_frames(path: Path) -> list[Atoms]:
    """Read extended XYZ, compressed with xz or not.

    Args:
        path: File to read.

    Returns:
        All frames of the file.
    """
    if path.suffix == ".xz":
        with lzma.open(path, "rt") as handle:
            return list(read(handle, index=":", format="extxyz"))
    return list(read(path, index=":", format="extxyz"))


def is_f_block(symbol: str) -> bool:
    """Tell whether an element has open or filled f valence shells.

    Args:
        symbol: Chemical symbol.

    Returns:
        True for Ce to Lu and for Ac to Lr; La counts as a d0 metal.
    """
    number = atomic_numbers[symbol]
    return number in LANTHANIDES or number in ACTINIDES


def count_elements(frames: Iterable[Atoms]) -> Counter[str]:
    """Count the frames in which each element occurs.

    Args:
        frames: Frames to count in.

    Returns:
        Number of frames for each chemical symbol.
    """
    return Counter(symbol for frame in frames for symbol in set(frame.symbols))


def select_frames(
    frames: Sequence[Atoms], max_atoms: int, max_force: float, min_frames: int
) -> list[Atoms]:
    """Keep small frames of well represented elements without f electrons.

    Dropping the frames of a rare element can make another element rare, so the
    count is repeated until it no longer changes.

    Args:
        frames: Frames with energies, forces and stresses.
        max_atoms: Largest number of atoms in a frame.
        max_force: Largest length of a force component, in eV/Å.
        min_frames: Smallest number of kept frames an element must occur in.

    Returns:
        The kept frames, in their original order.
    """
    kept = [
        frame
        for frame in frames
        if len(frame) <= max_atoms
        and float(np.abs(frame.get_forces()).max()) <= max_force
        and not any(is_f_block(symbol) for symbol in set(frame.symbols))
    ]
    while True:
        counts = count_elements(kept)
        rare = {symbol for symbol, count in counts.items() if count < min_frames}
        if not rare:
            return kept
        kept = [frame for frame in kept if not rare & set(frame.symbols)]


def with_reference_keys(frame: Atoms) -> Atoms:
    """Copy a frame with its labels under names no calculator claims.

    Args:
        frame: Frame with a single-point calculator.

    Returns:
        A frame with ``REF_energy``, ``REF_forces`` and ``REF_stress``.
    """
    copy = Atoms(
        numbers=frame.numbers,
        positions=frame.positions,
        cell=frame.cell,
        pbc=True,
    )
    copy.info["REF_energy"] = float(frame.get_potential_energy())
    copy.info["REF_stress"] = frame.get_stress(voigt=False)
    copy.info["mptrj_id"] = frame.info.get("mptrj_snapshot_id", "")
    copy.arrays["REF_forces"] = frame.get_forces()
    return copy


def fit_reference_energies(frames: Sequence[Atoms]) -> dict[str, float]:
    """Fit one energy per element to the total energies by least squares.

    Args:
        frames: Frames with ``REF_energy``.

    Returns:
        Energy in eV for each chemical symbol, by atomic number.
    """
    symbols = sorted(count_elements(frames), key=lambda symbol: atomic_numbers[symbol])
    counts = np.array(
        [[list(frame.symbols).count(symbol) for symbol in symbols] for frame in frames],
        dtype=float,
    )
    energies = np.array([frame.info["REF_energy"] for frame in frames])
    solution = np.linalg.lstsq(counts, energies, rcond=None)[0]
    return {
        symbol: float(value) for symbol, value in zip(symbols, solution, strict=True)
    }


def read_index(
    path: Path, max_super: int, min_frequency: float, max_permutation: float
) -> list[Material]:
    """Read the phonon index and leave out doubtful and costly materials.

    Args:
        path: The ``index.csv`` file.
        max_super: Largest number of atoms in the supercell.
        min_frequency: Smallest allowed lowest frequency, in THz.
        max_permutation: Largest allowed raw permutation error, in eV/Å².

    Returns:
        The kept materials, by identifier.
    """
    with path.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    materials = [
        Material(
            mp=row["mp"],
            formula=row["formula"],
            elements=frozenset(row["elements"].split()),
            split=row["split"],
            n_super=int(row["n_super"]),
        )
        for row in rows
        if int(row["n_super"]) <= max_super
        and float(row["f_min"]) >= min_frequency
        and float(row["perm_raw"]) <= max_permutation
    ]
    return sorted(materials, key=lambda material: int(material.mp.split("-")[1]))


def rank_materials(
    materials: Sequence[Material], allowed: frozenset[str]
) -> list[Material]:
    """Order the ionic materials of allowed elements, common chemistry first.

    A material's rank is the number of candidates that contain its least common
    element, so that what is learned on one material can serve another.

    Args:
        materials: Materials by identifier.
        allowed: Elements that may occur.

    Returns:
        The materials with at least one cation and one anion and only allowed
        elements, best first; ties keep their order.
    """
    candidates = [
        material
        for material in materials
        if material.elements <= allowed
        and material.elements & ANIONS
        and material.elements - ANIONS
    ]
    counts = Counter(symbol for material in candidates for symbol in material.elements)
    return sorted(
        candidates,
        key=lambda material: -min(counts[symbol] for symbol in material.elements),
    )


def split_materials(
    ranked: Sequence[Material], n_train: int, n_val: int
) -> tuple[list[Material], list[Material]]:
    """Choose disjoint training and validation materials.

    Validation takes the best of the source's own validation split. What is
    missing there comes from the training split, evenly spaced over the best
    materials so that both sets cover the same chemistry.

    Args:
        ranked: Candidates, best first.
        n_train: Number of training materials.
        n_val: Number of validation materials.

    Returns:
        Training and validation materials.

    Raises:
        ValueError: If too few candidates are left.
    """
    val = [material for material in ranked if material.split == "val"][:n_val]
    pool = [material for material in ranked if material.split == "train"]
    missing = n_val - len(val)
    if len(pool) < n_train + missing:
        raise ValueError(
            f"{len(pool)} training candidates for {n_train + missing} places: "
            "raise --max-super or lower --min-element-frames"
        )
    moved: set[int] = set()
    if missing:
        step = (VAL_POOL + missing) / missing
        moved = {int((index + 0.5) * step) for index in range(missing)}
    val += [pool[index] for index in sorted(moved)]
    train = [material for index, material in enumerate(pool) if index not in moved]
    return train[:n_train], val


def write_materials(
    materials: Sequence[Material], source: Path, work: Path, name: str
) -> None:
    """Copy the phonopy files of a set and write its list.

    Args:
        materials: Chosen materials.
        source: Phonon folder with one sub-folder per source split.
        work: Work folder.
        name: Name of the set, ``train`` or ``val``.
    """
    folder = work / "phonons" / name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for material in materials:
        file = f"{material.mp}.yaml.xz"
        shutil.copyfile(source / material.split / file, folder / file)
    lines = [f"{material.mp} {material.formula}\n" for material in materials]
    (work / f"phonons-{name}.txt").write_text("".join(lines), encoding="utf-8")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Args:
        argv: Arguments, by default those of the process.

    Returns:
        The parsed arguments.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "efs", type=Path, help="folder with mptrj-train.xyz.xz and mptrj-val.xyz.xz"
    )
    parser.add_argument(
        "phonons", type=Path, help="folder with index.csv, train/ and val/"
    )
    parser.add_argument("work", type=Path, help="folder to write into")
    parser.add_argument("--max-atoms", type=int, default=64)
    parser.add_argument("--max-force", type=float, default=4.0, help="eV/Å")
    parser.add_argument("--min-element-frames", type=int, default=5)
    parser.add_argument("--max-super", type=int, default=64)
    parser.add_argument("--min-frequency", type=float, default=-0.3, help="THz")
    parser.add_argument("--max-permutation", type=float, default=0.1, help="eV/Å²")
    parser.add_argument(
        "--min-phonon-frames",
        type=int,
        default=12,
        help="frames an element must occur in before a phonon material may use it",
    )
    parser.add_argument("--n-train", type=int, default=60)
    parser.add_argument("--n-val", type=int, default=20)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the work folder.

    Args:
        argv: Arguments, by default those of the process.
    """
    args = parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)

    train = select_frames(
        read_frames(args.efs / "mptrj-train.xyz.xz"),
        args.max_atoms,
        args.max_force,
        args.min_element_frames,
    )
    counts = count_elements(train)
    val = [
        frame
        for frame in select_frames(
            read_frames(args.efs / "mptrj-val.xyz.xz"),
            args.max_atoms,
            args.max_force,
            1,
        )
        if set(frame.symbols) <= set(counts)
    ]
    train = [with_reference_keys(frame) for frame in train]
    val = [with_reference_keys(frame) for frame in val]
    write(args.work / "mptrj-train.xyz", train, format="extxyz")
    write(args.work / "mptrj-val.xyz", val, format="extxyz")
    e0s = fit_reference_energies(train)
    (args.work / "e0s.json").write_text(json.dumps(e0s, indent=1), encoding="utf-8")
    for name, frames in (("train", train), ("val", val)):
        atoms = sum(map(len, frames))
        print(f"frames {name}: {len(frames)}, {atoms} atoms")
    print(f"elements: {len(counts)}: {' '.join(e0s)}")

    common = frozenset(
        symbol for symbol, n in counts.items() if n >= args.min_phonon_frames
    )
    ranked = rank_materials(
        read_index(
            args.phonons / "index.csv",
            args.max_super,
            args.min_frequency,
            args.max_permutation,
        ),
        common & (ANIONS | CATIONS),
    )
    sets = split_materials(ranked, args.n_train, args.n_val)
    for name, materials in zip(("train", "val"), sets, strict=True):
        write_materials(materials, args.phonons, args.work, name)
        elements = Counter(s for material in materials for s in material.elements)
        listing = " ".join(f"{s}:{n}" for s, n in elements.most_common())
        origin = dict(Counter(material.split for material in materials))
        print(f"phonons {name}: {len(materials)} of {len(ranked)}, {origin}; {listing}")


if __name__ == "__main__":
    main()
