"""Errors of moduli of the runs of ``train.sh``, on crystals that are kept back."""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pft_lightning import keys, load_model
from pft_lightning.data.elastic import ElasticCrystals
from pft_lightning.graphs import build_batch
from pft_lightning.runs.folder import collect_versions
from pft_lightning.training.validation import elastic_constant_errors


RUN = re.compile(r"moduli-([\d.]+)-seed-(\d+)")
MODULI = ("bulk_modulus_mae", "shear_modulus_mae")
METRICS = ("phonon/hvp_mae", "upstream/energy_mae", "upstream/forces_mae")


def errors_of(checkpoint: Path, table: Path) -> dict[str, list[float]]:
    """Absolute errors of bulk and shear modulus of every crystal, GPa."""
    model = load_model(checkpoint, dtype="float64")
    crystals = ElasticCrystals(table, model.cutoff)
    found = {}
    for index, name in enumerate(crystals.names):
        data = crystals.data(index)
        data[keys.COUNTED] = torch.tensor([True])
        errors = elastic_constant_errors(model, build_batch([data]))
        found[name] = [float(errors[modulus]) for modulus in MODULI]
    return found


def mean_and_error(differences: np.ndarray) -> str:
    """Mean and its standard error over crystals."""
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return f"{differences.mean():+.2f} ± {error:.2f}"


def main(arguments: Sequence[str]) -> None:
    """Evaluate every finished run, and print it beside the one without the term."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path, help="checkpoint that was trained")
    parser.add_argument("work", type=Path, help="WORK of train.sh")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    table = given.work / "val.json"
    runs = {"base": errors_of(given.base, table)}
    metrics: dict[str, Any] = {}
    for folder in sorted(given.work.glob("moduli-*")):
        if (folder / "model.pt").is_file():
            runs[folder.name] = errors_of(folder / "model.pt", table)
            summary = json.loads((folder / "summary.json").read_text())
            metrics[folder.name] = {name: summary[name] for name in METRICS}
    values = {label: np.array(list(rows.values())) for label, rows in runs.items()}
    for label, rows in values.items():
        means, medians = rows.mean(axis=0).round(2), np.median(rows, axis=0).round(2)
        print(f"{label:24s} bulk {means[0]} ({medians[0]}) shear {means[1]} ", end="")
        print(f"({medians[1]}) GPa", metrics.get(label, ""))
    changes: dict[str, list[list[float]]] = {}
    for label, rows in values.items():
        if label != "base":
            print(f"{label} against the base model, over crystals:")
            for modulus, column in zip(MODULI, (rows - values["base"]).T, strict=True):
                print(f"  {modulus} {mean_and_error(column)} GPa")
        match = RUN.fullmatch(label)
        without = match and values.get(f"moduli-0-seed-{match[2]}")
        if match and without is not None and float(match[1]):
            change = rows - without
            print(f"{label} against the same seed without the term, over crystals:")
            for modulus, column in zip(MODULI, change.T, strict=True):
                print(f"  {modulus} {mean_and_error(column)} GPa")
            changes.setdefault(match[1], []).append(change.mean(axis=0).tolist())
    for weight, seeds in changes.items():
        if len(seeds) > 1:
            print(f"weight {weight}, mean and spread over {len(seeds)} seeds:")
            for modulus, column in zip(MODULI, zip(*seeds, strict=True), strict=True):
                mean, spread = statistics.mean(column), statistics.stdev(column)
                print(f"  {modulus} {mean:+.2f} ± {spread:.2f} GPa")
    content = {
        "command": "train.sh DATA WORK [STEPS [SEED [WEIGHT [HVP]]]] for each, then "
        "compare.py BASE WORK --out FILE",
        "versions": collect_versions(),
        "bulk_and_shear_errors_GPa": runs,
        "metrics": metrics,
        "changes_GPa": changes,
    }
    given.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
