"""Draw binaries of small cells at random from matcalc's table of moduli."""

from __future__ import annotations

import argparse
import gzip
import json
import random
from pathlib import Path


def main() -> None:
    """Write a table of the same form with some of the entries."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, help="JSON, packed by gzip")
    parser.add_argument("out", type=Path, help="JSON to write")
    parser.add_argument("-n", type=int, default=120, help="number of binaries")
    parser.add_argument("--max-atoms", type=int, default=4, help="of a cell")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with gzip.open(options.table, "rt") as file:
        entries = json.load(file)
    small = [
        entry
        for entry in entries
        if len(entry["structure"]["sites"]) <= options.max_atoms
    ]
    random.seed(options.seed)
    options.out.write_text(json.dumps(random.sample(small, options.n)))
    print(f"{options.n} of {len(small)} small ones of {len(entries)}")


if __name__ == "__main__":
    main()
