"""Steps with Hessian columns in units of the step on energies, forces and stress.

    python ratio.py OUT.json NAME=MODEL ... [--atoms 64 256] [--probes 1 4]

``run.py`` gives each case a process of its own, for its memory; what a machine does
besides is in the quotient of two of them. Here the steps of one size take turns.
Results of other models in OUT.json stay.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from devices import hardware, versions
from peers import PEERS, REPEATS
from tqdm import tqdm


ENGINE = "reverse_over_reverse"


def measure(model: str, atoms: int, probes: list[int], repeats: int) -> dict[str, Any]:
    """Median and least seconds of each step, and quotients of the medians."""
    shared = {
        "model": model, "engine": ENGINE, "atoms": atoms, "batch": 1, "device": "cpu",
        "direction": "column", "dtype": "float32",
    }  # fmt: skip
    cases = {"efs": shared | {"step": "efs", "probes": 1}}
    cases |= {f"hvp {k}": shared | {"step": "hvp", "probes": k} for k in probes}
    steps = {name: PEERS["pft"](case) for name, case in cases.items()}
    for step in [*steps.values()] * 2:
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in tqdm(range(repeats), desc=f"{Path(model).name}, {atoms} atoms"):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        "atoms": atoms,
        "engine": ENGINE,
        "repeats": repeats,
        "median_s": median,
        "min_s": {name: min(found) for name, found in seconds.items()},
        "in_efs_steps": {k: median[f"hvp {k}"] / median["efs"] for k in probes},
        "of_single_probes": {
            k: median[f"hvp {k}"] / (k * median["hvp 1"]) for k in probes if k > 1
        },
    }


def main() -> None:
    """Parse the command line, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+", help="NAME=FILE")
    parser.add_argument("--atoms", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--probes", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    if unknown := set(options.atoms) - set(REPEATS):
        parser.error(f"--atoms {sorted(unknown)}: expected some of {list(REPEATS)}")
    if 1 not in options.probes:
        parser.error("--probes needs 1, to compare with")
    known = json.loads(options.out.read_text()) if options.out.exists() else []
    for name, model in (pair.split("=", 1) for pair in options.models):
        known = [result for result in known if result["name"] != name]
        for atoms in options.atoms:
            found = measure(model, atoms, options.probes, options.repeats)
            known.append(
                {"name": name, "model": Path(model).name}
                | found
                | {"versions": versions(), "hardware": hardware("cpu")}
            )
            options.out.write_text(json.dumps(known, indent=1) + "\n")
            tqdm.write(f"{name} {atoms} atoms: {found['in_efs_steps']} steps")


if __name__ == "__main__":
    main()
