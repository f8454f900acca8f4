"""Third derivatives in single precision against double, and what a step costs."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import Batch

from pft_lightning import load_model
from pft_lightning.backends.base import EnergyModel
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.data.readers.phono3py import read_third_order
from pft_lightning.data.records import to_data
from pft_lightning.graphs import build_batch, build_graph
from pft_lightning.physics.pair_probes import PairProbe
from pft_lightning.runs.folder import collect_versions
from pft_lightning.types import Derivatives


SOURCES = ("Si-PBE", "NaCl222.yaml.xz")


def compare(path: Path, source: Path, repeats: int) -> dict[str, Any]:
    """Errors of single precision and seconds of steps, of one crystal."""
    record = read_third_order(source, PhononReadOptions())
    structure = record.structure
    models = {name: load_model(path, dtype=name) for name in ("float32", "float64")}
    graph = build_graph(
        structure.positions, structure.cell, structure.pbc, models["float64"].cutoff
    )
    batch = build_batch([to_data(structure, graph)])
    drawn = PairProbe("atoms", 4).draw(record.third_order, structure.name, 0)
    pairs = torch.from_numpy(drawn.pairs)
    found = {name: _values(model, batch, pairs) for name, model in models.items()}
    errors = {
        what: float((found["float32"][what] - exact).norm() / exact.norm())
        for what, exact in found["float64"].items()
    }
    model = models["float32"]
    one = pairs[:, :1]
    steps: dict[str, Callable[[], Derivatives]] = {
        "forces": lambda: model.derivatives(batch),
        "H v": lambda: model.derivatives(batch, tangents=one[:, :, 0]),
        "H v and third": lambda: model.derivatives(
            batch, tangents=one[:, :, 0], pairs=one
        ),
        "third": lambda: model.derivatives(batch, pairs=one, stress=False),
    }
    seconds = {name: _seconds(model, step, repeats) for name, step in steps.items()}
    return {"n_atoms": structure.n_atoms, "relative_errors": errors, "seconds": seconds}


def _values(
    model: EnergyModel, batch: Batch, pairs: torch.Tensor
) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found = model.derivatives(batch, tangents=pairs[:, :, 0], pairs=pairs)
    values = {"H v": found.hvp, "third": found.third}
    return {what: value.double() for what, value in values.items() if value is not None}


def _seconds(
    model: EnergyModel, step: Callable[[], Derivatives], repeats: int
) -> dict[str, float]:
    """Median and spread of a step with the gradient of the parameters."""
    times = []
    for _ in range(repeats + 1):  # the first compiles
        started = time.perf_counter()
        found = step()
        wanted = (found.forces, found.hvp, found.third)
        loss = torch.stack([v.square().sum() for v in wanted if v is not None]).sum()
        loss.backward()
        times.append(time.perf_counter() - started)
        model.zero_grad()
    return {
        "median": statistics.median(times[1:]),
        "min": min(times[1:]),
        "max": max(times[1:]),
    }


def main() -> None:
    """Measure all crystals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a potential")
    parser.add_argument("data", type=Path, help="folder third_order of the real data")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    crystals = {
        name: compare(options.model, options.data / name, options.repeats)
        for name in SOURCES
    }
    result = {
        "model": options.model.name,
        "threads": 1,
        "processor": platform.processor() or platform.machine(),
        "versions": collect_versions(),
        "crystals": crystals,
    }
    print(json.dumps(crystals, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
