"""How much of a step's gradient is common to all materials, by probe.

    python gradients.py MODEL PHONONS OUT.json [--materials 40]

For each material one gradient g of the Hessian loss is taken at the weights of the
model. The part of g that all materials share lowers the error on others too; the rest
is noise that a training must average away. Per probe and kind of loss:

- ``shared``: |E g|² / E |g|², without bias from the finite number of materials;
- ``shared_as_adam``: the same after every component was divided by its own root mean
  square over the materials;
- ``cosine``: mean cosine between the gradients of two materials;
- ``cosine_same``: the same between two draws of the probe at one material: what is left
  of 1 is the probe's own noise, the rest differs from material to material;
- ``seconds``: of one gradient.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from tqdm import tqdm

import pft_lightning as pft
from pft_lightning import keys
from pft_lightning.data.batching import BatchKey
from pft_lightning.data.commensurate import WHOLE
from pft_lightning.data.loading import Collate, Structures, cell_draws
from pft_lightning.data.store import PhononStore, cached_store
from pft_lightning.json_files import write_json
from pft_lightning.physics.probes import (
    ColumnProbe,
    IrreducibleProbe,
    Probe,
    RademacherProbe,
    SparseProbe,
)
from pft_lightning.physics.wave_probes import (
    CommensurateProbe,
    CommensurateRademacherProbe,
)
from pft_lightning.runs.folder import collect_versions


PROBES: dict[str, Probe] = {
    "column": ColumnProbe(),
    "four columns": ColumnProbe(4),
    "irreducible": IrreducibleProbe(),
    "sparse": SparseProbe(),
    "rademacher": RademacherProbe(),
    "commensurate": CommensurateProbe(),
    "commensurate_rademacher": CommensurateRademacherProbe(),
}
KINDS = ("mae", "mse")


def gradients(
    model: pft.EnergyModel,
    store: PhononStore,
    indices: np.ndarray,
    probe: Probe,
    kind: str,
    draw: int,
) -> torch.Tensor:
    """(n_materials, n_weights), of the Hessian loss of one material each."""
    loss = pft.HessianLoss(probe, weight=1.0, kind=kind)
    weights = [p for p in model.parameters() if p.requires_grad]
    draws = cell_draws(store, share=probe.commensurate_share, seed=0)
    structures = Structures({keys.PHONON: store})
    found = []
    for index in tqdm(indices, leave=False, disable=None):
        q_point = WHOLE if draws is None else int(draws(draw).q_points[index])
        key = BatchKey(keys.PHONON, int(index), q_point)
        batch = Collate()([structures[key]])[keys.PHONON]
        request = loss.request(batch, draw)
        hvp = model.derivatives(
            batch, tangents=request.tangents, forces=False, stress=False
        ).hvp
        total = request.term(hvp, batch, "structures").total
        parts = torch.autograd.grad(total, weights, materialize_grads=True)
        found.append(torch.cat([part.flatten() for part in parts]))
    # Single precision underflows in the squares of small components.
    return torch.stack(found).double()


def shared(rows: torch.Tensor) -> float:
    """|E g|² / E |g|² of independent rows, from products of different rows only."""
    squares = float((rows**2).sum())
    total = float((rows.sum(0) ** 2).sum())
    return (total - squares) / (len(rows) - 1) / squares


def main() -> None:
    """Measure each probe and kind of loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("phonons", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--materials", type=int, default=32)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = pft.load_model(options.model, dtype="float32")
    store = cached_store(options.phonons, cutoff=model.cutoff, cache_dir=options.cache)
    indices = np.random.default_rng(0).permutation(len(store))[: options.materials]
    rows = []
    for name, probe in PROBES.items():
        for kind in KINDS:
            started = time.perf_counter()
            both = [
                gradients(model, store, indices, probe, kind, draw) for draw in (0, 1)
            ]
            seconds = (time.perf_counter() - started) / len(indices) / 2
            found = both[0]
            units = [one / one.norm(dim=1, keepdim=True) for one in both]
            scale = (found**2).mean(0).sqrt().clamp(min=torch.finfo(found.dtype).tiny)
            row = {
                "probe": name,
                "kind": kind,
                "shared": shared(found),
                "shared_as_adam": shared(found / scale),
                # Of unit vectors the two means are one.
                "cosine": shared(units[0]),
                "cosine_same": float((units[0] * units[1]).sum(1).mean()),
                "seconds": seconds,
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    write_json(
        options.out,
        {
            "model": options.model.name,
            "materials": len(indices),
            "rows": rows,
            "versions": collect_versions(),
            "hardware": f"{psutil.cpu_count()} x {platform.machine()}, one thread",
        },
    )


if __name__ == "__main__":
    main()
