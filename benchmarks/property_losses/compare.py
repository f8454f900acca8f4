"""Errors of the trainings beside Hessian-vector products alone, seed by seed.

``python compare.py WORK/evaluation/metrics.json --out FILE`` prints the table of
README.md: means over seeds, changes against the base model, and, as mean and standard
error over seeds, against the same seed trained on Hessian-vector products alone, as
many steps (``hvp``) and as many products (``probes``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any


METRICS = (
    "force_constants_mae",
    "mesh_frequency_mae",
    "max_frequency_error_K",
    "entropy_error",
    "free_energy_error",
    "heat_capacity_error",
    "spectrum_w1",
    "dos_error",
)
FRAMES = ("energy_mae", "forces_mae")
BASE, ALONE = "base", ("hvp", "probes")


def changes(found: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """Per cent, of each metric."""
    return {name: 100 * (found[name] / before[name] - 1) for name in found}


def spread(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error; the latter is NaN of a single value."""
    if len(values) == 1:
        return values[0], float("nan")
    return statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5


def main() -> None:
    """Read, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("metrics", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    read = json.loads(arguments.metrics.read_text())
    errors: dict[str, dict[str, float]] = {
        label: {name: found[name]["mean"] for name in METRICS}
        | {name: read["forgetting"][label][name] for name in FRAMES}
        for label, found in read["models"].items()
    }
    arms: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for label, found in errors.items():
        if label != BASE:
            arm, seed = label.rsplit("_", 1)
            arms[arm][seed] = found
    table: dict[str, Any] = {}
    for arm, seeds in arms.items():
        table[arm] = {"seeds": sorted(seeds)}
        for kind in (BASE, *ALONE):
            before = dict.fromkeys(seeds, errors[BASE]) if kind == BASE else arms[kind]
            each = [
                changes(found, before[seed])
                for seed, found in seeds.items()
                if seed in before
            ]
            table[arm][f"change_to_{kind}_percent"] = {
                name: spread([one[name] for one in each])
                for name in (*METRICS, *FRAMES)
            }
    for name in (*METRICS, *FRAMES):
        print(f"| {name} | {errors[BASE][name]:.4g}", end="")
        for row in table.values():
            mean, _ = row["change_to_base_percent"][name]
            beside = [row[f"change_to_{kind}_percent"][name] for kind in ALONE]
            print(f" | {mean:+.1f} %", end="")
            print("".join(f", {m:+.1f} ± {e:.1f}" for m, e in beside), end="")
        print(" |")
    written = {
        "command": "compare.py WORK/evaluation/metrics.json --out FILE",
        "arms": list(table),
        "versions": read["versions"],
        "counts": read["counts"],
        "errors": errors,
        "table": table,
    }
    arguments.out.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
