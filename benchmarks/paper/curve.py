"""Losses and validations of a run by step, also where it was resumed.

python curve.py RUN OUT.csv
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from pathlib import Path


COLUMNS = (
    "train/phonon_hvp",
    "train/upstream_energy",
    "train/upstream_forces",
    "train/upstream_stress",
    "phonon/hvp_mae",
    "upstream/energy_mae",
    "upstream/forces_mae",
    "upstream/stress_mae",
    "lr-AdamW/decay",
)


def read(run: Path) -> dict[int, dict[str, float]]:
    """Values by step; a step that was taken again counts as it was last taken."""
    summary = json.loads((run / "summary.json").read_text())
    rows: dict[int, dict[str, float]] = {
        0: {name: summary[name]["before"] for name in COLUMNS if name in summary}
    }
    logs = sorted(
        run.glob("logs*/metrics.csv"),
        key=lambda path: int((re.findall(r"\d+", path.parent.name) or ["0"])[0]),
    )
    for path in logs:
        for row in csv.DictReader(path.open()):
            found = {name: float(row[name]) for name in COLUMNS if row.get(name)}
            if found:
                rows.setdefault(int(row["step"]), {}).update(found)
    return dict(sorted(rows.items()))


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("step", *COLUMNS), lineterminator="\n")
        writer.writeheader()
        for step, values in read(options.run).items():
            shown = {name: f"{value:.6g}" for name, value in values.items()}
            writer.writerow({"step": step, **shown})


if __name__ == "__main__":
    main()
