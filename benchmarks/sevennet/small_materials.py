"""Copy the training materials of at most 80 atoms a supercell.

Usage: ``python small_materials.py PHONONS FOLDER``. ``PHONONS`` holds ``index.csv`` and
``train/``; every second material goes to ``FOLDER-half`` too.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path


LARGEST = 80  # atoms


def main() -> None:
    """Fill the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phonons", type=Path, help="holds index.csv and train/")
    parser.add_argument("folder", type=Path, help="to fill")
    options = parser.parse_args()
    with (options.phonons / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    train = [row for row in rows if row["split"] == "train"]
    small = sorted(
        f"{row['mp']}.yaml.xz" for row in train if int(row["n_super"]) <= LARGEST
    )
    half = options.folder.with_name(f"{options.folder.name}-half")
    for folder, names in ((options.folder, small), (half, small[1::2])):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(options.phonons / "train" / name, folder / name)
    print(f"{len(small)} of {len(train)} training materials, at most {LARGEST} atoms")


if __name__ == "__main__":
    main()
