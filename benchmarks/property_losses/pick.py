"""Choose small, stable materials of phonondb, some to train on and some kept back.

``python pick.py DATA/phonons/phonondb_pbesol OUT`` links them in ``OUT/{train,val}``,
and four of those kept back in ``OUT/watched``, which validations of a training are on.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path


# Of supercells and primitive cells: a step is to take a second or two on one core.
_LARGEST = 96
_LARGEST_PRIMITIVE = 6
# phonondb's own frequencies, THz, and broken permutation symmetry, eV/Å².
_LOWEST_FREQUENCY = -0.3
_LARGEST_ASYMMETRY = 0.05


def main() -> None:
    """Read the arguments, and link."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phonons", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=60)
    parser.add_argument("--val", type=int, default=16)
    arguments = parser.parse_args()
    with (arguments.phonons / "index.csv").open() as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if int(row["n_super"]) <= _LARGEST
            and int(row["n_prim"]) <= _LARGEST_PRIMITIVE
            and float(row["f_min"]) > _LOWEST_FREQUENCY
            and float(row["perm_raw"]) < _LARGEST_ASYMMETRY
        ]
    for split in ("train", "val"):
        names = sorted(row["mp"] for row in rows if row["split"] == split)
        random.Random(0).shuffle(names)
        chosen = names[: getattr(arguments, split)]
        files = [arguments.phonons / split / f"{name}.yaml.xz" for name in chosen]
        _link(files, arguments.out / split)
        if split == "val":
            _link(files[:4], arguments.out / "watched")
        print(f"{split}: {len(chosen)} of {len(names)}")


def _link(files: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file.name).symlink_to(file.resolve())


if __name__ == "__main__":
    main()
