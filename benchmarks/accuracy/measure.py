"""Measure how exact the derivatives of given models are, in float64.

``python measure.py OUT.json MODEL [MODEL ...]`` runs the conformance checks that ship
with the package (Richardson-extrapolated differences, the second engine, symmetries,
batching, gradients with respect to the parameters) and writes every relative error.
A check beyond its tolerance ends the script with an error.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
from pathlib import Path

import torch

from pft_lightning import load_model
from pft_lightning.json_files import write_json
from pft_lightning.runs.folder import collect_versions
from pft_lightning.testing import TOLERANCES, check_backend_conformance


def main() -> None:
    """Measure each model and write the errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="JSON file; other results in it stay")
    parser.add_argument("models", nargs="+", help="model files of one environment")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    versions = collect_versions()
    for path in arguments.models:
        model = load_model(path, dtype=torch.float64)
        errors = check_backend_conformance(model)
        e3nn = versions.get("e3nn", "none")
        name = f"{Path(path).name} ({model.name}, e3nn {e3nn})"
        results[name] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "relative_errors": errors,
            "versions": versions,
            "processor": platform.machine(),
        }
        for check, error in errors.items():
            print(f"{name:50s} {check:40s} {error:.1e}")
    results["tolerances"] = dataclasses.asdict(TOLERANCES)
    write_json(arguments.out, results)


if __name__ == "__main__":
    main()
