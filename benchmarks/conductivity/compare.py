"""Conductivities of an evaluation beside the rows that were published of its models."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from pft_lightning.runs.folder import collect_versions


# Label in the evaluation -> key of the published table.
PUBLISHED = {"base": "nequix-mp-1", "published": "nequix-mp-1-pft"}


def read_published(path: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Conductivity and SRME by model and material."""
    first, *others = map(json.loads, path.read_text().splitlines())
    ids = first["_base"]["material_ids"]
    return {
        (row["key"], name): {"kappa": kappa, "srme": srme}
        for row in others
        for name, kappa, srme in zip(ids, row["kappa_ml"], row["srme"], strict=True)
    }


def main() -> None:
    """Print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluation", type=Path, help="folder of pft-evaluate")
    parser.add_argument("published", type=Path, help="kappa-103-analysis.jsonl")
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument(
        "--beside",
        nargs="*",
        default=[],
        metavar="KEY",
        help="published models whose rows are shown beside, as nequix-mp-1",
    )
    options = parser.parse_args()
    published = read_published(options.published)
    rows: list[dict[str, Any]] = []
    for path in sorted(options.evaluation.glob("materials/*.json")):
        record = json.loads(path.read_text())
        for label, row in record["models"].items():
            found = {
                name: row[name]
                for name in ("name", "formula", "structure_type", "reference_kappa")
            }
            found["model"] = label
            found |= {name: row[name] for name in ("kappa", "srme", "sre", "outcome")}
            of_others = published.get((PUBLISHED.get(label, ""), row["name"]), {})
            found |= {f"published_{name}": value for name, value in of_others.items()}
            for other in options.beside:
                found[other] = published[other, row["name"]]
            rows.append(found)
    beside = "".join(f" {key}: SRME (κ) |" for key in options.beside)
    print(f"| | | κ of DFT | κ | published | SRME | published |{beside}")
    print("|---" * (7 + len(options.beside)) + "|")
    for row in rows:
        theirs = (row.get("published_kappa"), row.get("published_srme"))
        shown = ["" if x is None else f"{x:.4g}" for x in theirs]
        print(
            f"| {row['formula']} | {row['model']} | {row['reference_kappa']:.4g} | "
            f"{row['kappa']:.4g} | {shown[0]} | {row['srme']:.3f} | {shown[1]} |"
            + "".join(
                f" {row[key]['srme']:.3f} ({row[key]['kappa']:.4g}) |"
                for key in options.beside
            )
        )
    both = [row for row in rows if "published_kappa" in row]
    worst = {}
    if both:  # of weights of ours nothing is published
        kappa = max(abs(r["kappa"] / r["published_kappa"] - 1) for r in both)
        worst = {
            "kappa": kappa,
            "srme": max(abs(r["srme"] - r["published_srme"]) for r in both),
        }
        print(f"largest difference: κ {100 * kappa:.2f} %, SRME {worst['srme']:.4f}")
    means = {
        label: {
            name: sum(r[name] for r in rows if r["model"] == label)
            / sum(r["model"] == label for r in rows)
            for name in ("srme", "sre")
        }
        for label in {row["model"] for row in rows}
    }
    for key in options.beside:
        scores = {row["name"]: row[key]["srme"] for row in rows}
        means[key] = {"srme": sum(scores.values()) / len(scores)}
        print(f"{key}: mean SRME {means[key]['srme']:.4f} of the same materials")
    for label, mean in sorted(means.items()):
        if label in options.beside:
            continue
        print(f"{label}: mean SRME {mean['srme']:.4f}, SRE {mean['sre']:.4f}")
    if options.out is not None:
        content = {
            "versions": collect_versions(),
            "largest_difference": worst,
            "means": means,
            "rows": rows,
        }
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
