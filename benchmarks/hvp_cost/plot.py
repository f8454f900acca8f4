"""Plot and tabulate what run.py measured.

    python plot.py ../results/hvp_cost.json ../results/hvp_cost.png

One panel per model: seconds of a step over the number of atoms, energies, forces and
stress (dashed) and with one Hessian-vector product (solid). The tables go to the
standard output.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl


mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


LABELS = {
    "pft": "ours",
    "pft_framework": "ours, not compiled",
    "double_backward": "double backward",
    "nequix_jax": "Nequix (JAX)",
    "nequix_torch_compile": "torch.compile(jvp(grad))",
    "nequix_openequivariance": "Nequix (OpenEquivariance)",
    "mace_hessian": "MACE compute_hessian",
}
COLOURS = dict(
    zip(
        LABELS,
        ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#F0E442", "#666666"),
        strict=True,
    )
)


def curves(rows: list[dict]) -> dict[tuple[str, str, str], dict[int, dict]]:
    """(model, peer, step) to rows by atoms; of our engines the faster one."""
    found: dict[tuple[str, str, str], dict[int, dict]] = defaultdict(dict)
    for row in rows:
        if "error" in row or row["probes"] != 1 or row["batch"] != 1:
            continue
        if row["direction"] != "column":
            continue
        curve = found[row["name"], row["peer"], row["step"]]
        old = curve.get(row["atoms"])
        if old is None or row["median_s"] < old["median_s"]:
            curve[row["atoms"]] = row
    return found


def print_tables(rows: list[dict]) -> None:
    """Seconds, ratios and memory by model and atoms; what went wrong."""
    found = curves(rows)
    for name in sorted({key[0] for key in found}):
        efs, hvp = found[name, "pft", "efs"], found[name, "pft", "hvp"]
        print(
            f"\n{name}\n\n| atoms | edges | E, F, S: s | with H v: s | engine | ratio "
            "| memory ratio | H v: MiB |\n|---|---|---|---|---|---|---|---|"
        )
        for atoms in sorted(set(efs) & set(hvp)):
            one, two = efs[atoms], hvp[atoms]
            print(
                f"| {atoms} | {two['edges']} | {one['median_s']:.3f} | "
                f"{two['median_s']:.3f} ± {(two['max_s'] - two['min_s']) / 2:.3f} | "
                f"{two['engine'].split('_')[0]} | "
                f"{two['median_s'] / one['median_s']:.2f} | "
                f"{two['peak_memory_mib'] / one['peak_memory_mib']:.2f} | "
                f"{two['peak_memory_mib']:.0f} |"
            )
        large = sorted(atoms for atoms in hvp if atoms >= 64)
        if len(large) > 1:
            seconds = [hvp[atoms]["median_s"] for atoms in large]
            exponent = np.polyfit(np.log(large), np.log(seconds), 1)[0]
            print(f"\ntime of H v ~ atoms^{exponent:.2f} from {large[0]} atoms on")
        for (model, peer, step), curve in sorted(found.items()):
            if model == name and peer != "pft":
                ours = found[name, "pft", step]
                ratios = ", ".join(
                    f"{atoms}: {ours[atoms]['median_s'] / row['median_s']:.2f}"
                    for atoms, row in sorted(curve.items())
                    if atoms in ours
                )
                print(f"ours / {LABELS[peer]}, {step}, by atoms: {ratios}")
        several = [
            row
            for row in rows
            if row["name"] == name and row["probes"] > 1 and "error" not in row
        ]
        for row in several:
            one = hvp.get(row["atoms"])
            if one and row["peer"] == "pft":
                cost = row["median_s"] / (row["probes"] * one["median_s"])
                print(
                    f"{row['probes']} probes, {row['atoms']} atoms, {row['engine']}: "
                    f"{cost:.2f} of as many single ones"
                )
        for row in rows:
            efs_row = efs.get(row["atoms"])
            if row["name"] == name and row["direction"] == "signs" and efs_row:
                print(
                    f"random signs, {row['atoms']} atoms: {row['median_s']:.3f} s, "
                    f"{row['median_s'] / efs_row['median_s']:.2f} times E, F, S"
                )
    for row in rows:
        if "error" in row:
            print(
                f"\n{row['name']}, {LABELS[row['peer']]}, {row['step']}, "
                f"{row['atoms']} atoms: {row['error']}"
            )


def plot(rows: list[dict], path: Path) -> None:
    """Write the figure."""
    found = curves(rows)
    names = sorted({key[0] for key in found})
    figure, axes = plt.subplots(
        1, len(names), figsize=(4.2 * len(names), 3.6), squeeze=False, sharey=True
    )
    for axis, name in zip(axes[0], names, strict=True):
        for (model, peer, step), curve in found.items():
            if model != name:
                continue
            atoms = sorted(curve)
            axis.plot(
                atoms,
                [curve[n]["median_s"] for n in atoms],
                "o-" if step == "hvp" else "o--",
                color=COLOURS[peer],
                markersize=3,
                label=f"{LABELS[peer]}, {'with H v' if step == 'hvp' else 'E, F, S'}",
            )
        axis.set(title=name, xlabel="atoms", xscale="log", yscale="log")
        axis.set_xticks([8, 64, 512], ["8", "64", "512"])
        axis.minorticks_off()
        axis.legend(fontsize=7, frameon=False, handlelength=3.5)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("seconds of a training step")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("figure", type=Path)
    options = parser.parse_args()
    rows = json.loads(options.results.read_text())
    print_tables(rows)
    plot(rows, options.figure)


if __name__ == "__main__":
    main()
