"""Tables of what ``run.py`` has found, and one JSON file of it.

Usage: ``python table.py WORK/results.jsonl [MORE.jsonl ...] --out OUT.json
--command TEXT``
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import psutil

from pft_lightning.json_files import write_json


METHODS = (
    "none", "none_1e-2", "delta", "lora", "freeze", "multihead", "scratch",
)  # fmt: skip
LOSSES = ("efs", "efs+hessian")


def read(paths: Iterable[Path]) -> list[dict]:
    """One row for each training."""
    rows = []
    for path in paths:
        for line in path.read_text().splitlines():
            found = json.loads(line)
            case, method, loss, seed = found["name"].split("/")
            material, _, size = case.partition("-")
            rows.append(
                {
                    "material": material,
                    "structures": int(size) if size else None,
                    "method": method,
                    "loss": loss,
                    "seed": int(seed.removeprefix("seed")),
                    "steps": found["steps"],
                    "frequency_mae_thz": found["frequency_mae_thz"],
                    "hvp_mae": found["phonon/hvp_mae"],
                    "own_energy_mae": found["upstream/energy_mae"],
                    "own_forces_mae": found["upstream/forces_mae"],
                    "trained_share": found["trainable"]["trainable_share"],
                    "step_s": found["step_s"],
                    "peak_memory_mib": found["peak_memory_mib"],
                    "versions": found["versions"],
                }
            )
    return rows


def change(rows: list[dict], name: str) -> float:
    """Mean of after / before - 1, per cent."""
    ratios = [row[name]["after"] / row[name]["before"] for row in rows]
    return 100 * (float(np.mean(ratios)) - 1)


def mean(rows: list[dict], name: str) -> float:
    """Mean over trainings."""
    return float(np.mean([row[name] for row in rows]))


def print_frequencies(rows: list[dict]) -> None:
    """Frequency error after training, THz, of each material."""
    materials = sorted({row["material"] for row in rows})
    before = {r["material"]: r["frequency_mae_thz"]["before"] for r in rows}
    print(f"| method | loss | {' | '.join(materials)} |")
    print("|---|---|" + "---|" * len(materials))
    print(f"| before | | {' | '.join(f'{before[m]:.2f}' for m in materials)} |")
    for method, loss, found in groups(rows):
        after = {r["material"]: r["frequency_mae_thz"]["after"] for r in found}
        cells = " | ".join(f"{after[m]:.2f}" if m in after else "" for m in materials)
        print(f"| {method} | {loss} | {cells} |")
    print()


def groups(rows: list[dict]) -> list[tuple[str, str, list[dict]]]:
    """Rows by method and loss, those that exist."""
    found = defaultdict(list)
    for row in rows:
        found[row["method"], row["loss"]].append(row)
    return [(m, k, found[m, k]) for m in METHODS for k in LOSSES if (m, k) in found]


def print_costs(rows: list[dict]) -> None:
    """What is forgotten, and what a training takes."""
    print(
        "| method | loss | own energies | own forces | trained | s/step | peak memory |"
    )
    print("|---|---|---|---|---|---|---|")
    for method, loss, chosen in groups(rows):
        print(
            f"| {method} | {loss} | {change(chosen, 'own_energy_mae'):+.1f} % "
            f"| {change(chosen, 'own_forces_mae'):+.1f} % "
            f"| {100 * mean(chosen, 'trained_share'):.0f} % "
            f"| {mean(chosen, 'step_s'):.2f} "
            f"| {mean(chosen, 'peak_memory_mib'):.0f} MiB |"
        )


def print_comparisons(rows: list[dict]) -> None:
    """How often one way gives the lower frequency error, at equal data."""
    errors = {
        (r["material"], r["structures"], r["seed"], r["method"], r["loss"]): r[
            "frequency_mae_thz"
        ]["after"]
        for r in rows
    }
    cases = sorted({key[:3] for key in errors}, key=str)

    def compare(text: str, one: tuple[str, str], other: tuple[str, str]) -> None:
        pairs = [
            (errors[case + one], errors[case + other])
            for case in cases
            if case + one in errors and case + other in errors
        ]
        if pairs:
            wins = sum(a < b for a, b in pairs)
            ratio = np.exp(np.mean([np.log(a / b) for a, b in pairs]))
            print(f"- {text}: lower in {wins} of {len(pairs)}, {ratio:.2f} times")

    for method in METHODS:
        both = (method, LOSSES[1])
        compare(f"{method}, Hessian loss against EFS alone", both, (method, LOSSES[0]))
    for method in METHODS[1:]:
        for loss in LOSSES:
            compare(f"{method} against none, {loss}", (method, loss), ("none", loss))


def main() -> None:
    """Print the tables and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--command", required=True, help="that made them")
    options = parser.parse_args()
    rows = read(options.results)
    for size in sorted({row["structures"] or 0 for row in rows}):
        chosen = [row for row in rows if (row["structures"] or 0) == size]
        print(f"{size or 'all'} structures\n")
        print_frequencies(chosen)
        print_costs(chosen)
        print()
    print_comparisons(rows)
    versions = rows[0]["versions"]
    write_json(
        options.out,
        {
            "command": options.command,
            "versions": versions,
            "hardware": f"{psutil.cpu_count()} x {platform.machine()}, one thread each",
            "rows": [{k: v for k, v in row.items() if k != "versions"} for row in rows],
        },
    )


if __name__ == "__main__":
    main()
