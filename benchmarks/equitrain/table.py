"""Collect what run.sh measured: one JSON, and the tables of the README."""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any


CRYSTALS = ("GaN", "SiO2")
# Column of a result -> that of an evaluation.
PHONONS = {
    "frequencies_thz": "mesh_frequency_mae",
    "force_constants_ev_a2": "force_constants_mae",
    "entropy_j_k_mol": "entropy_error",
}
FORGETTING = {"energies_ev_atom": "energy_mae", "forces_ev_a": "forces_mae"}


def main() -> None:
    """Write the JSON and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="what run.sh filled")
    parser.add_argument("--out", type=Path, help="JSON file")
    given = parser.parse_args()
    rows = [row for crystal in CRYSTALS for row in rows_of(given.work, crystal)]
    for row in rows:
        print(format_row(row))
    if given.out is None:
        return
    content = {
        "command": "run.sh DATA WORK PYTHON",
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, one thread each",
        "versions": versions(given.work),
        "rows": rows,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(content, indent=1) + "\n")


def rows_of(work: Path, crystal: str) -> Iterator[dict[str, Any]]:
    """Results of one crystal, the base model's first; it may be evaluated in parts."""
    errors: dict[str, Any] = {}
    forgotten: dict[str, Any] = {}
    for folder in sorted((work / "evaluation").glob(f"{crystal}*/")):
        forgotten |= json.loads((folder / "metrics.json").read_text())["forgetting"]
        with (folder / "per_material.csv").open(newline="") as file:
            errors |= {row["model"]: row for row in csv.DictReader(file)}
    for label in sorted(errors, key=order):
        found = {name: abs(float(errors[label][c])) for name, c in PHONONS.items()}
        lost = {name: forgotten[label][c] for name, c in FORGETTING.items()}
        yield {"crystal": crystal, **describe(work, label), **found, **lost}


def order(label: str) -> tuple[Any, ...]:
    """The base model, then by method, number of structures, seed and time."""
    if label == "base":
        return (0,)
    method, _, size, seed, *early = label.split("-")
    return 1, method, int(size), seed, not early


def describe(work: Path, label: str) -> dict[str, Any]:
    """Method, number of structures, seed and time of a potential."""
    if label == "base":
        return {"method": "SevenNet-0"}
    method, crystal, size, seed, *early = label.split("-")
    run = work / method / f"{crystal}-{size}-{seed}"
    summary = json.loads((run / "summary.json").read_text())
    common = {"structures": int(size), "seed": int(seed.removeprefix("s"))}
    if method == "ours":
        user, system, wall = map(
            float, run.with_name(f"{run.name}.time").read_text().split()
        )
        return {
            "method": "ours",
            **common,
            "steps": summary["steps"],
            "processor_s": round(user + system, 1),
            "wall_s": round(wall, 1),
        }
    epochs = summary["early"] if early else summary["epochs"]
    share = epochs / summary["epochs"]
    return {
        "method": "Equitrain",
        **common,
        "epochs": epochs,
        "processor_s": round(share * summary["processor_s"], 1),
        "wall_s": round(share * summary["wall_s"], 1),
    }


def versions(work: Path) -> dict[str, dict[str, str]]:
    """Those of the first run of each method."""
    found = {}
    for method in ("eq", "ours"):
        run = min((work / method).glob("*/summary.json"))
        found[method] = json.loads(run.read_text())["versions"]
    return found


def format_row(row: dict[str, Any]) -> str:
    """A line of a table."""
    cells = [
        row["crystal"],
        row["method"],
        row.get("structures", ""),
        row.get("seed", ""),
        row.get("processor_s", ""),
        f"{row['frequencies_thz']:.3f}",
        f"{row['force_constants_ev_a2']:.4f}",
        f"{1e3 * row['energies_ev_atom']:.2f}",
        f"{1e3 * row['forces_ev_a']:.1f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
