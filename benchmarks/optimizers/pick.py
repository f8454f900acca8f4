"""Link 24 training materials of the larger PBEsol pack that no run trains on.

Their supercells of 81 to 88 atoms are larger than those of ``../sevennet``.
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
    options = parser.parse_args()
    with (options.phonons / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    names = [row["mp"] for row in rows if 80 < int(row["n_super"]) <= 88]
    random.Random(7).shuffle(names)
    options.folder.mkdir(parents=True)
    for name in names[:24]:
        file = options.phonons / "train" / f"{name}.yaml.xz"
        (options.folder / file.name).symlink_to(file.resolve())


if __name__ == "__main__":
    main()
