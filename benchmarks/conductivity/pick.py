"""Take materials of a benchmark out of phononDB's file, as they are.

Eight cubic ones, and with ``--further 225=5`` five more of this space group: those that
come first in the file.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path


# Name and space group of each.
CUBIC = (
    *(("LiF", 225), ("CaO", 225), ("KCl", 225), ("GaAs", 216)),
    *(("SiC", 216), ("MgO", 225), ("NaCl", 225), ("ZnTe", 216)),
)


def main() -> None:
    """Write an extended XYZ with some of the frames."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structures", type=Path, help="phononDB-PBE-structures.extxyz")
    parser.add_argument("out", type=Path, help="extended XYZ to write")
    parser.add_argument("--further", nargs="*", default=[], metavar="GROUP=NUMBER")
    options = parser.parse_args()
    lines = options.structures.read_text().splitlines()
    frames: dict[tuple[str, int], list[str]] = {}
    start = 0
    while start < len(lines):
        stop = start + int(lines[start]) + 2
        name = re.search(r" name=(\S+)", lines[start + 1])
        group = re.search(r"symm.no=(\d+)", lines[start + 1])
        if name and group:
            frames[name[1], int(group[1])] = lines[start:stop]
        start = stop
    keys = list(CUBIC)
    for wanted in options.further:
        group, number = map(int, wanted.split("="))
        others = [key for key in frames if key[1] == group and key not in CUBIC]
        keys += others[:number]
    chosen = [line for key in keys for line in frames[key]]
    options.out.write_text("\n".join(chosen) + "\n")


if __name__ == "__main__":
    main()
