"""Precision and recall of imaginary modes, by the split that materials belong to."""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from pft_lightning.evaluation.metrics import find_agreement
from pft_lightning.runs.folder import collect_versions


def main() -> None:
    """Add up the counts of every material, and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluation", type=Path, help="folder of task=soft_modes")
    parser.add_argument("index", type=Path, help="CSV with a split for each material")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    given = parser.parse_args()
    with given.index.open(newline="") as file:
        splits = {row["mp"]: row["split"] for row in csv.DictReader(file)}
    counts: dict[tuple[str, str, str], list[dict[str, int]]] = defaultdict(list)
    lowest: dict[str, list[float]] = defaultdict(list)
    for path in sorted((given.evaluation / "materials").glob("*.json")):
        record = json.loads(path.read_text())
        for label, row in record["models"].items():
            for threshold, count in row["imaginary"].items():
                counts[label, splits[record["name"]], threshold].append(count)
            difference = row["lowest_frequency"] - row["reference_lowest_frequency"]
            lowest[label].append(abs(difference))
    rows: list[dict[str, Any]] = []
    for (label, split, threshold), found in sorted(counts.items()):
        rows.append({"label": label, "split": split, "threshold": float(threshold)})
        rows[-1] |= find_agreement(found)
        print(rows[-1])
    errors = {
        label: {"mean": float(np.mean(values)), "median": float(np.median(values))}
        for label, values in lowest.items()
    }
    print("absolute error of the lowest frequency, THz:", errors)
    content = {
        "command": "run.sh DATA WORK",
        "versions": collect_versions(),
        "agreement": rows,
        "lowest_frequency_error_THz": errors,
    }
    given.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
