"""Losses on frequencies and thermal properties of crystals that are unstable in DFT.

Every property and its gradient by the dynamical matrices has to be finite, whatever the
potential does: here it has the force constants of DFT, softer ones, none, and those of
a crystal without any stable mode.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from ase.data import atomic_masses

from pft_lightning.data.readers import PhononReadOptions, read_entry
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import PFTError
from pft_lightning.losses.properties import Property, PropertyErrors
from pft_lightning.physics.vibrations import Spectrum
from pft_lightning.runs.folder import collect_versions
from pft_lightning.training.spectra import find_waves


# THz; what lies below is no noise of DFT.
UNSTABLE = -0.3

# Of the force constants that play the potential, relative to DFT's.
SCALES = (1.0, 0.8, 0.0, -1.0)
ERRORS = PropertyErrors(temperatures=(1.0, 300.0, 2000.0))


def largest_gradients(record: StructureRecord) -> dict[str, float]:
    """Largest gradient of each loss over potentials; NaN where one is not finite."""
    constants = record.force_constants
    assert constants is not None
    waves = find_waves(
        constants, record.positions, record.cell, atomic_masses[record.atomic_numbers]
    )
    compact = torch.from_numpy(constants.compact)
    given = waves.weights, waves.is_gamma
    reference = Spectrum.of(waves.matrices(compact), *given)
    found: dict[str, float] = {}
    for scale in SCALES:
        for name in get_args(Property):
            matrices = waves.matrices(scale * compact).requires_grad_()
            loss = ERRORS.loss(name, Spectrum.of(matrices, *given), reference)
            (gradient,) = torch.autograd.grad(loss, matrices)
            is_finite = bool(loss.isfinite()) and bool(gradient.isfinite().all())
            size = float(gradient.abs().max()) if is_finite else float("nan")
            found[name] = float(np.maximum(found.get(name, 0.0), size))
    return found


def main(arguments: Sequence[str]) -> int:
    """Go through all unstable materials; the status is 1 if anything is not finite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with index.csv, train and val")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    given = parser.parse_args(arguments)
    with (given.data / "index.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if float(row["f_min"]) < UNSTABLE]
    largest: dict[str, float] = {}
    unreadable, infinite = {}, []
    for row in rows:
        path = given.data / row["split"] / f"{row['mp']}.yaml.xz"
        try:
            record = read_entry(path, None, PhononReadOptions())
        except PFTError as error:
            unreadable[row["mp"]] = str(error).replace(f"{given.data}/", "")
            continue
        sizes = largest_gradients(record)
        largest = {n: float(np.fmax(s, largest.get(n, 0.0))) for n, s in sizes.items()}
        if not np.isfinite(list(sizes.values())).all():
            infinite.append(row["mp"])
    print(f"{len(rows)} unstable materials, {len(unreadable)} unreadable")
    print(f"losses or gradients that are not finite: {len(infinite)}", *infinite)
    for name, size in largest.items():
        print(f"  {name}: largest gradient {size:.3g} per eV/Å²/AMU")
    content = {
        "command": "unstable.py DATA/phonons/phonondb_pbesol --out FILE",
        "versions": collect_versions(),
        "scales": SCALES,
        "materials": len(rows),
        "unreadable": unreadable,
        "not_finite": infinite,
        "largest_gradients": largest,
    }
    given.out.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if infinite else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
