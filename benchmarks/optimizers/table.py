"""Errors before and after the trainings of ``train.sh`` and of the mixes of ``mix.sh``.

Usage: ``python table.py WORK/optimizers OUT.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


METRICS = {
    "phonon/hvp_mae": "H v",
    "upstream/energy_mae": "MPtrj energies",
    "upstream/forces_mae": "forces",
    "upstream/stress_mae": "stress",
}


def read(folder: Path) -> dict[str, Any] | None:
    """Changes of one training, or of weights between it and the base model."""
    name, mixed, mix = folder.name.partition("-mix")
    # Of a mix, before the first step; its base model is that of the training.
    file = folder / "run" / "before.json" if mixed else folder / "summary.json"
    of_training = folder.with_name(name) / "summary.json"
    if not file.is_file() or not of_training.is_file():
        return None
    training = json.loads(of_training.read_text())
    of_rate, _, seed = name.rpartition("-")
    optimizer, _, rate = of_rate.partition("-")
    found = json.loads(file.read_text())
    after = {m: found[m] if mixed else found[m]["after"] for m in METRICS}
    return {
        "optimizer": optimizer,
        "rate": float(rate),
        "seed": int(seed),
        "mix": float(mix) if mixed else 1.0,
        "steps": training["steps"],
        "changes": {m: after[m] / training[m]["before"] - 1 for m in METRICS},
        "versions": training["versions"],
    }


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, help="WORK/optimizers")
    parser.add_argument("out", type=Path, help="JSON to write")
    options = parser.parse_args()
    rows = [row for folder in options.runs.iterdir() if (row := read(folder))]
    rows.sort(key=lambda r: (r["optimizer"], -r["rate"], -r["mix"], r["seed"]))
    print(f"| optimiser | rate | mix | seed | {' | '.join(METRICS.values())} |")
    print(f"|{'---|' * (4 + len(METRICS))}")
    for row in rows:
        cells = " | ".join(f"{100 * row['changes'][m]:+.1f} %" for m in METRICS)
        names = f"{row['optimizer']} | {row['rate']:g} | {row['mix']:g} | {row['seed']}"
        print(f"| {names} | {cells} |")
    versions = rows[0]["versions"] if rows else {}
    for row in rows:
        del row["versions"]
    content = {"versions": versions, "threads": 1, "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
