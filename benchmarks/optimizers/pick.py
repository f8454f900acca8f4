"""Link materials of the larger PBEsol pack to judge runs on that do not train on them.

They are 24 training materials with supercells of 81 to 88 atoms, larger than those of
``../sevennet``; or, for runs on all of them, the small ones of the validation.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path


def main() -> None:
    """Fill the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phonons", type=Path, help="holds index.csv and train/")
    parser.add_argument("folder", type=Path, help="to fill")
    parser.add_argument("--split", choices=("train", "val"), default="train")
    options = parser.parse_args()
    smallest, largest = (81, 88) if options.split == "train" else (1, 60)
    with (options.phonons / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == options.split]
    names = [r["mp"] for r in rows if smallest <= int(r["n_super"]) <= largest]
    random.Random(7).shuffle(names)
    options.folder.mkdir(parents=True)
    for name in names[:24]:
        file = options.phonons / options.split / f"{name}.yaml.xz"
        (options.folder / file.name).symlink_to(file.resolve())


if __name__ == "__main__":
    main()
