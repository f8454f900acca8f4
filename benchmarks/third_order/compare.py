"""Errors of third order of the runs of ``run.sh``, on crystals that none has seen."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pft_lightning import load_model
from pft_lightning.backends.base import EnergyModel
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.readers.phono3py import read_third_order
from pft_lightning.data.records import to_data
from pft_lightning.data.third_order import ThirdOrderRecord
from pft_lightning.graphs import build_batch, build_graph
from pft_lightning.physics.pair_probes import PairProbe
from pft_lightning.runs.folder import collect_versions


HELD_OUT = ("AlN332.yaml.xz", "MgO-222rd-444rd.yaml.xz")
RUN = re.compile(r"weight-(\d+)-seed-(\d+)")
METRICS = ("phonon/hvp_mae", "upstream/energy_mae", "upstream/forces_mae")
PAIRS_AT_ONCE = 8


def third_order_error(
    model: EnergyModel, record: ThirdOrderRecord, n_pairs: int
) -> tuple[float, float]:
    """Mean absolute error along fixed pairs of atoms, and its standard error, meV/Å³.

    Pairs are weighted back to uniform ones, and are the same for all models.
    """
    structure, constants = record.structure, record.third_order
    graph = build_graph(
        structure.positions, structure.cell, structure.pbc, model.cutoff
    )
    batch = build_batch([to_data(structure, graph)])
    drawn = PairProbe("atoms", n_pairs, seed=7).draw(constants, structure.name, 0)
    targets = constants.multiply(*np.moveaxis(drawn.pairs, 2, 0))
    errors = []
    for start in range(0, n_pairs, PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        with torch.no_grad():
            third = model.derivatives(
                batch,
                pairs=torch.from_numpy(drawn.pairs[:, part]),
                forces=False,
                stress=False,
            ).third
        assert third is not None
        errors.append(np.abs(third.numpy() - targets[:, part]).mean(axis=(0, 2)))
    weighted = 1000 * drawn.weights * np.concatenate(errors)
    return float(weighted.mean()), float(weighted.std() / np.sqrt(n_pairs))


def main() -> None:
    """Compare all finished runs with the model that they started from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="as run.sh takes it")
    parser.add_argument("work", type=Path, help="folder of the runs")
    parser.add_argument("--pairs", type=int, default=32, help="of atoms, each crystal")
    parser.add_argument("--out", type=Path, help="JSON to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    reading = PhononReadOptions()
    records = {
        name.partition(".")[0]: read_third_order(
            options.data / "third_order" / name, reading
        )
        for name in HELD_OUT
    }

    def errors_of(path: Path) -> dict[str, Any]:
        model = load_model(path, dtype="float64")
        found = {
            name: third_order_error(model, record, options.pairs)
            for name, record in records.items()
        }
        return {
            name: {"mean": m, "standard_error": s} for name, (m, s) in found.items()
        }

    base = {"third_order": errors_of(options.data / "models" / "nequix-mp-1.pt")}
    runs: list[dict[str, Any]] = []
    for folder in sorted(options.work.glob("weight-*-seed-*")):
        if (match := RUN.fullmatch(folder.name)) and (folder / "summary.json").exists():
            summary = json.loads((folder / "summary.json").read_text())
            base |= {name: summary[name]["before"] for name in METRICS}
            after = {name: summary[name]["after"] for name in METRICS}
            errors = errors_of(folder / summary["model"])
            weight, seed = map(int, match.groups())
            runs.append(
                {"weight": weight, "seed": seed, "third_order": errors, **after}
            )
    print_table(base, runs)
    if options.out:
        result = {
            "command": " ".join(["compare.py", *sys.argv[1:][2:]]),
            "pairs": options.pairs,
            "versions": collect_versions(),
            "base": base,
            "runs": runs,
        }
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def print_table(base: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    """Print changes against the base model: means over seeds, and their spread."""
    columns = {
        **{
            f"third order of {name}": ("third_order", name)
            for name in base["third_order"]
        },
        **{name: (name,) for name in METRICS},
    }
    print("| | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    print(
        "| base | " + " | ".join(f"{_at(base, p):.4g}" for p in columns.values()) + " |"
    )
    for weight in sorted({run["weight"] for run in runs}):
        cells = []
        for path in columns.values():
            start = _at(base, path)
            changes = [
                100 * (_at(run, path) / start - 1)
                for run in runs
                if run["weight"] == weight
            ]
            spread = statistics.stdev(changes) if len(changes) > 1 else float("nan")
            cells.append(f"{statistics.mean(changes):+.1f} ± {spread:.1f} %")
        n = sum(run["weight"] == weight for run in runs)
        print(f"| weight {weight}, {n} seeds | " + " | ".join(cells) + " |")


def _at(values: dict[str, Any], path: tuple[str, ...]) -> float:
    found = values[path[0]]
    return float(found if len(path) == 1 else found[path[1]]["mean"])


if __name__ == "__main__":
    main()
