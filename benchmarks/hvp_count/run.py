"""Count the Hessian-vector products of an evaluation, and time one.

    python run.py PHONONS OUT [--model FILE] [--timed PHONONS] [--device cuda]

PHONONS is any phonon source. Counting needs no model. With a model, the force constants
of those of the timed materials that it covers are computed by both methods.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from phonopy import Phonopy

import pft_lightning as pft
from pft_lightning.evaluation.force_constants import (
    compute_force_constants,
    inequivalent_displacements,
)
from pft_lightning.evaluation.reference import list_materials


METHODS = ("hvp", "finite_displacement")
PACKAGES = ("pft_lightning", "torch", "phonopy", "mace-torch", "nequip", "e3nn")


def count(phonon: Phonopy) -> dict[str, float]:
    """Products of the analytic method, forces of finite differences, and 3N."""
    analytic, differences = (
        len(inequivalent_displacements(phonon, 0.01, opposite=opposite)["first_atoms"])
        for opposite in (False, True)
    )
    columns = 3 * len(phonon.supercell)
    return {
        "hvps": analytic,
        "finite_displacements": differences,
        "columns": columns,
        "ratio": columns / analytic,
    }


def measure(model: pft.EnergyModel, phonons: dict[str, Phonopy]) -> list[dict]:
    """Seconds of each method for each material; the model is warmed up before."""
    first = next(iter(phonons.values()))
    for method in METHODS:
        compute_force_constants(model, first, method=method)
    rows = []
    for name, phonon in phonons.items():
        row: dict = {"name": name, "n_atoms": len(phonon.supercell)}
        for method in METHODS:
            started, worked = time.perf_counter(), time.process_time()
            found = compute_force_constants(model, phonon, method=method)
            row[method] = {
                "seconds": time.perf_counter() - started,
                "cpu_seconds": time.process_time() - worked,
                "n": found.n_products,
            }
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    """Count, time, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phonons")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--timed", help="materials to time; PHONONS by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-atoms", type=int, default=120)
    arguments = parser.parse_args()
    phonons = {m.name: m.read() for m in list_materials(arguments.phonons)}
    counts = {name: count(phonon) for name, phonon in phonons.items()}
    ratios = [row["ratio"] for row in counts.values()]
    result: dict = {
        "materials": len(counts),
        "ratio": {
            "median": float(np.median(ratios)),
            "min": min(ratios),
            "max": max(ratios),
        },
        "sum": {
            key: sum(row[key] for row in counts.values())
            for key in ("hvps", "finite_displacements", "columns")
        },
        "counts": counts,
    }
    if arguments.model:
        model = pft.load_model(
            arguments.model, dtype="float64", device=arguments.device
        )
        known = set(model.atomic_numbers)
        timed = phonons
        if arguments.timed:
            timed = {m.name: m.read() for m in list_materials(arguments.timed)}
        covered = {
            name: phonon
            for name, phonon in timed.items()
            if known >= set(phonon.supercell.numbers.tolist())
            and len(phonon.supercell) <= arguments.max_atoms
        }
        rows = measure(model, covered)
        result["time"] = {
            "model": Path(arguments.model).name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "dtype": "float64",
            "sum": {
                method: {
                    key: sum(row[method][key] for row in rows)
                    for key in ("seconds", "cpu_seconds", "n")
                }
                for method in METHODS
            },
            "materials": rows,
        }
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            continue
    result["versions"] = found
    result["hardware"] = {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name()
        if arguments.device.startswith("cuda")
        else "cpu",
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
