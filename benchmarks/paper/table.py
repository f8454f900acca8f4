"""Tables of base, ours and published weights from what run.sh kept.

    python table.py ../results/paper/cpu-cotraining-val-metrics.json [MORE ...]
        [--names base=base model=ours published=published]

Means over materials, with the change against the potential that is named first.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


ROWS = (
    ("force constants, eV/Å²", "force_constants_mae", 4),
    ("frequencies, THz", "mesh_frequency_mae", 3),
    ("ω_max, K", "max_frequency_error_K", 1),
    ("S, J/K/mol", "entropy_error", 2),
    ("F, kJ/mol", "free_energy_error", 2),
    ("C_V, J/K/mol", "heat_capacity_error", 2),
)
FRAMES = (
    ("MPtrj energy, meV/atom", "energy_mae", 1),
    ("MPtrj forces, meV/Å", "forces_mae", 1),
    ("MPtrj stress, meV/Å³", "stress_mae", 2),
)
NAMES = ("base=base", "model=ours", "published=published")


def line(title: str, values: list[float], digits: int) -> str:
    """One row of a table."""
    cells = [f"{values[0]:.{digits}f}"]
    for value in values[1:]:
        change = 100 * (value / values[0] - 1)
        cells.append(f"{value:.{digits}f} ({change:+.0f} %)")
    return f"| {title} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print one table for each file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("metrics", nargs="+", type=Path)
    parser.add_argument("--names", nargs="+", default=NAMES, help="LABEL=TITLE")
    options = parser.parse_args()
    labels, titles = zip(*(name.split("=", 1) for name in options.names), strict=True)
    for path in options.metrics:
        found = json.loads(path.read_text())
        count = max(m["force_constants_mae"]["n"] for m in found["models"].values())
        print(f"\n{path.name}, {count} materials\n")
        print("| mean absolute error | " + " | ".join(titles) + " |")
        print("|---|" + "---|" * len(titles))
        for title, metric, digits in ROWS:
            values = [found["models"][label][metric]["mean"] for label in labels]
            print(line(title, values, digits))
        for title, metric, digits in FRAMES:
            values = [1000 * found["forgetting"][label][metric] for label in labels]
            print(line(title, values, digits))


if __name__ == "__main__":
    main()
