"""Choose unstable PBEsol materials of the smallest cells."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path


# THz; what lies below is no noise of DFT.
UNSTABLE = -0.3


def main() -> None:
    """Link the chosen files into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with index.csv, train and val")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--train", type=int, default=30, help="number of materials")
    parser.add_argument("--val", type=int, default=10, help="number of materials")
    given = parser.parse_args()
    with (given.data / "index.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if float(row["f_min"]) < UNSTABLE]
    # What a calculation takes is the number of columns times the atoms of each.
    rows.sort(key=lambda row: int(row["n_super"]) * int(row["n_prim"]))
    given.out.mkdir(parents=True, exist_ok=True)
    for split, n in (("train", given.train), ("val", given.val)):
        chosen = [row["mp"] for row in rows if row["split"] == split][:n]
        for name in chosen:
            source = (given.data / split / f"{name}.yaml.xz").resolve()
            link = given.out / source.name
            link.unlink(missing_ok=True)
            link.symlink_to(source)
        print(f"{split}: {len(chosen)} of {len(rows)} unstable materials")


if __name__ == "__main__":
    main()
