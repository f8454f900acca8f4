"""Exact third-order force constants beside those by displacements of one potential."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from pft_lightning import load_model
from pft_lightning.data.readers.phono3py import read_phono3py
from pft_lightning.evaluation.third_order import copy_cells, third_order_force_constants
from pft_lightning.runs.folder import collect_versions


LENGTHS = (0.03, 0.015)  # Å: phono3py's own, and half of it


def main() -> None:
    """Print the differences and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="of the potential")
    parser.add_argument("source", help="calculation of phono3py")
    parser.add_argument("--out", type=Path, help="JSON to write")
    options = parser.parse_args()
    model = load_model(options.checkpoint, dtype="float64")
    # Without the pairs of DFT, whose displacements have a length of their own.
    calculation = copy_cells(read_phono3py(options.source))
    started = time.perf_counter()
    exact = third_order_force_constants(model, calculation, progress=True)
    found: dict[str, Any] = {
        "mean": 1000 * float(np.abs(exact).mean()),
        "largest": 1000 * float(np.abs(exact).max()),
        "seconds": time.perf_counter() - started,
        "displacements": {},
    }
    for length in LENGTHS:
        started = time.perf_counter()
        other = third_order_force_constants(
            model,
            calculation,
            method="finite_displacement",
            displacement=length,
            progress=True,
        )
        difference = np.abs(other - exact)
        found["displacements"][str(length)] = {
            "mean_difference": 1000 * float(difference.mean()),
            "largest_difference": 1000 * float(difference.max()),
            "seconds": time.perf_counter() - started,
        }
    print(json.dumps(found, indent=1))
    if options.out:
        content = {
            "command": f"methods.py {options.checkpoint} {options.source}",
            "unit": "meV/Å³",
            "versions": collect_versions(),
            **found,
        }
        options.out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
