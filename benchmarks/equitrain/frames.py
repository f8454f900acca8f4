"""Every second of the MPtrj frames, which are enough to see what is forgotten."""

from __future__ import annotations

import argparse

import ase.io


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("frames")
    parser.add_argument("out")
    given = parser.parse_args()
    ase.io.write(given.out, ase.io.read(given.frames, "::2"))
