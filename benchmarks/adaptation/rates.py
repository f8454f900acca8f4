"""Errors before and after the trainings of ``rates.sh``: a table, and one JSON file.

Usage: ``python rates.py WORK/rates OUT.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import psutil

from pft_lightning.json_files import write_json


METRICS = ("phonon/hvp_mae", "upstream/energy_mae", "upstream/forces_mae")


def main() -> None:
    """Print the table and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    rows, versions = [], None
    for file in sorted(options.runs.glob("*/summary.json")):
        summary = json.loads(file.read_text())
        adaptation, _, rest = file.parent.name.partition("-")
        rate, _, seed = rest.rpartition("-")
        metrics = {name: summary[name] for name in METRICS}
        rows.append(
            {
                "adaptation": adaptation,
                "rate": float(rate),
                "seed": int(seed),
                "steps": summary["steps"],
                "trained_share": summary["trainable"]["trainable_share"],
                **metrics,
                "loss_weights": summary.get("loss_weights"),
            }
        )
        versions = summary["versions"]
        changes = (100 * (m["after"] / m["before"] - 1) for m in metrics.values())
        shown = " | ".join(f"{change:+.1f} %" for change in changes)
        print(f"| {adaptation} | {rate} | {shown} |")
    write_json(
        options.out,
        {
            "command": "rates.sh DATA WORK ADAPTATION RATE SEED",
            "versions": versions,
            "hardware": f"{psutil.cpu_count()} x {platform.machine()}, one thread",
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
