"""Draw crystals with moduli, and phonon calculations, to train on and to keep back."""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
from pathlib import Path
from typing import Any


# Most atoms of a cell with moduli, and of a supercell of phonons.
MOST_ATOMS, MOST_SUPERCELL = 4, 64


def draw_moduli(table: Path) -> tuple[list[Any], list[Any]]:
    """90 compounds for training, 30 others kept back, none of them soft."""
    with gzip.open(table, "rt") as file:
        entries = json.load(file)
    random.seed(0)
    small = [
        entry
        for entry in entries
        if len(entry["structure"]["sites"]) <= MOST_ATOMS
        and entry["bulk_modulus_vrh"] > 10
        and entry["shear_modulus_vrh"] > 5
    ]
    random.shuffle(small)
    by_formula: dict[str, Any] = {}
    for entry in small:
        by_formula.setdefault(entry["formula"], entry)
    chosen = list(by_formula.values())[:120]
    return chosen[:90], chosen[90:]


def draw_phonons(pack: Path, out: Path) -> None:
    """Link 40 stable materials of small supercells, and 8 that are kept back."""
    with (pack / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    random.seed(1)
    for part, count in (("train", 40), ("val", 8)):
        fitting = [
            row
            for row in rows
            if row["split"] == part
            and float(row["f_min"]) > -0.1
            and int(row["n_super"]) <= MOST_SUPERCELL
        ]
        random.shuffle(fitting)
        (out / part).mkdir(parents=True, exist_ok=True)
        for row in fitting[:count]:
            link = out / part / f"{row['mp']}.yaml.xz"
            link.unlink(missing_ok=True)
            link.symlink_to(pack / part / f"{row['mp']}.yaml.xz")


def main() -> None:
    """Write train.json, val.json and phonons/ into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="as train.sh takes it")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse_args()
    data = options.data.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    table = data / "elastic" / "mp-binary-pbe-elasticity-2025.1.json.gz"
    train, val = draw_moduli(table)
    (options.out / "train.json").write_text(json.dumps(train))
    (options.out / "val.json").write_text(json.dumps(val))
    draw_phonons(data / "phonons" / "phonondb_pbesol", options.out / "phonons")


if __name__ == "__main__":
    main()
