"""Sizes of commensurate cells, and how exactly force constants fold onto them.

    python run.py OUT PHONONS [PHONONS ...]

PHONONS is any phonon source. For every material that can be read: the mean number of
atoms and edges of the cells that the commensurate probe draws, beside those of the
supercell; and for one q-point of the highest order the largest difference between the
second derivatives of a pair potential in the small cell and the folded ones of the
supercell.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from pft_lightning.backends.pair import PairPotential
from pft_lightning.data.commensurate import fold_record, q_point_orders
from pft_lightning.data.readers import PhononReadOptions, list_entries, read_entry
from pft_lightning.data.records import StructureRecord, to_data
from pft_lightning.data.sources import find_sources
from pft_lightning.errors import PFTError
from pft_lightning.graphs import build_batch, build_graph


PACKAGES = ("pft_lightning", "torch", "phonopy", "vesin", "numpy")
CUTOFF = 6.0  # Å, of the graphs that are counted
POTENTIAL_CUTOFF = 4.0  # Å
STRAIGHT = 1e-13  # Å: supercells that repeat their primitive cell to rounding


def compact_hessian(model: PairPotential, record: StructureRecord) -> np.ndarray:
    """Second derivatives of the primitive atoms' rows, (n_primitive, n_atoms, 3, 3)."""
    assert record.force_constants is not None
    rows = record.force_constants.representatives()
    tangents = torch.zeros(record.n_atoms, 3 * len(rows), 3, dtype=torch.float64)
    for row, atom in enumerate(rows):
        tangents[atom, 3 * row : 3 * row + 3] = torch.eye(3, dtype=torch.float64)
    graph = build_graph(record.positions, record.cell, record.pbc, model.cutoff)
    batch = build_batch([to_data(record, graph)])
    with torch.no_grad():
        columns = model.derivatives(batch, tangents=tangents).hvp
    assert columns is not None
    return columns.numpy().reshape(record.n_atoms, -1, 3, 3).transpose(1, 0, 2, 3)


def folding_error(model: PairPotential, record: StructureRecord, q_point: int) -> float:
    """Largest difference of folded and direct second derivatives over the largest."""
    assert record.force_constants is not None
    supercell = compact_hessian(model, record)
    constants = replace(record.force_constants, compact=supercell)
    folded = fold_record(replace(record, force_constants=constants), q_point)
    assert folded.force_constants is not None
    difference = folded.force_constants.compact - compact_hessian(model, folded)
    return float(np.abs(difference).max() / np.abs(supercell).max())


def crookedness(record: StructureRecord) -> float:
    """Largest deviation of an atom from the image of another under a translation, Å."""
    assert record.force_constants is not None
    fractional = record.positions @ np.linalg.inv(record.cell)
    moved = fractional[record.force_constants.permutations] - fractional
    moved -= moved[:, :1]
    return float(np.abs((moved - np.rint(moved)) @ record.cell).max())


def measure(model: PairPotential, record: StructureRecord) -> dict[str, float]:
    """Sizes and folding error of one material."""
    orders = q_point_orders(record)
    share = float(orders.mean() / len(orders))
    graph = build_graph(record.positions, record.cell, record.pbc, CUTOFF)
    return {
        "n_atoms": record.n_atoms,
        "n_q_points": len(orders),
        "mean_cell_atoms": share * record.n_atoms,
        "n_edges": graph.n_edges,
        "mean_cell_edges": share * graph.n_edges,
        "folding_error": folding_error(model, record, int(np.argmax(orders))),
        "crookedness": crookedness(record),
    }


def main() -> None:
    """Measure all materials and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("phonons", nargs="+")
    arguments = parser.parse_args()
    model = PairPotential(POTENTIAL_CUTOFF)
    started = time.perf_counter()
    materials: dict[str, dict[str, float]] = {}
    skipped: dict[str, str] = {}
    for path in find_sources(arguments.phonons):
        try:
            for entry in list_entries(path):
                record = read_entry(path, entry, PhononReadOptions())
                materials[f"{path.parent.name}/{record.name}"] = measure(model, record)
        except PFTError as error:
            skipped[path.name] = str(error).replace(str(path), path.name)
    rows = list(materials.values())
    result = {
        "materials": len(rows),
        "skipped": skipped,
        "mean": {
            key: float(np.mean([row[key] for row in rows]))
            for key in ("n_atoms", "mean_cell_atoms", "n_edges", "mean_cell_edges")
        },
        "largest_folding_error": max(row["folding_error"] for row in rows),
        "straight": {
            "materials": sum(row["crookedness"] < STRAIGHT for row in rows),
            "largest_folding_error": max(
                row["folding_error"] for row in rows if row["crookedness"] < STRAIGHT
            ),
        },
        "seconds": time.perf_counter() - started,
        "versions": {name: version(name) for name in PACKAGES},
        "hardware": {"machine": platform.machine(), "threads": torch.get_num_threads()},
        "rows": materials,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "rows"}, indent=1))


if __name__ == "__main__":
    main()
