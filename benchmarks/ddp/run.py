"""Work, time and communication of a training shared among processes.

    python run.py MODEL PHONONS FRAMES --work WORK --out ../results/ddp.json
        [--processes 1 2 4 8 16] [--global-batch 16] [--steps 6]

Balance: for every global batch of an epoch, the mean number of edges of a process over
the largest, with whole supercells and with commensurate cells, by structures per
process. Trainings: the same global batches, shared among more and more processes on
this machine, which reduce gradients with gloo over the loopback device.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil

import pft_lightning as pft
from pft_lightning.data.batching import BatchLimits, plan_batches
from pft_lightning.data.loading import cell_draws
from pft_lightning.data.store import cached_store
from pft_lightning.json_files import write_json
from pft_lightning.runs.folder import collect_versions


BATCH_SIZES = (6, 16)


def balance(options: argparse.Namespace, cutoff: float) -> list[dict[str, float | str]]:
    """Share of a step in which the average process works, by the plan of an epoch.

    ``dealt`` is that of the same structures given to the processes in turn.
    """
    store = cached_store(options.phonons, cutoff=cutoff, cache_dir=options.work)
    cells = cell_draws(store, share=1.0, seed=0)(0)
    order = np.random.default_rng(0).permutation(len(store))
    found: list[dict[str, float | str]] = []
    for name, shares in (("whole", 1.0), ("commensurate", cells.shares)):
        atoms = np.rint(store.n_atoms * shares).astype(int)
        edges = np.rint(store.n_edges * shares).astype(int)
        for size, n in itertools.product(BATCH_SIZES, options.processes):
            # The last batch has what is left.
            plan = plan_batches(order, atoms, edges, BatchLimits(size), n)[:-1]
            planned = np.array([[edges[rank].sum() for rank in b] for b in plan])
            dealt = edges[order[: len(plan) * size * n]].reshape(-1, size, n).sum(1)
            found.append(
                {
                    "cells": name,
                    "structures_per_process": size,
                    "processes": n,
                    "batches": len(plan),
                    "balance": float((planned.mean(1) / planned.max(1)).mean()),
                    "dealt": float((dealt.mean(1) / dealt.max(1)).mean()),
                }
            )
    return found


def train(options: argparse.Namespace, n_processes: int) -> dict[str, float]:
    """Train for some steps; medians of all but the first two."""
    folder = options.work / f"run-{n_processes}"
    share = options.global_batch // n_processes
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier measurement
    strategy = "ddp" if n_processes > 1 else "auto"
    subprocess.run(
        [
            str(Path(sys.executable).with_name("pft-train")),
            "experiment=pft_paper_nequix_cpu",
            f"model.checkpoint={options.model}",
            f"data.phonons.train={options.phonons}",
            f"data.phonons.batch_size={share}",
            f"data.upstream.train={options.frames}",
            f"data.upstream.batch_size={share}",
            f"data.cache_dir={options.work}",
            f"trainer.devices={n_processes}",
            f"trainer.strategy={strategy}",
            f"trainer.max_steps={options.steps}",
            "+trainer.limit_val_batches=1",
            "trust_config=true",
            "+callbacks.traffic._target_=traffic.Traffic",
            f"+callbacks.traffic.path={folder / 'traffic.json'}",
            f"hydra.run.dir={folder}",
        ],
        check=True,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.resolve())},
    )
    steps = json.loads((folder / "traffic.json").read_text())[2:]
    return {
        "processes": n_processes,
        "structures_per_process": share,
        **{name: statistics.median(s[name] for s in steps) for name in steps[0]},
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("phonons", type=Path)
    parser.add_argument("frames", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--global-batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    model = pft.load_model(options.model)
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found = {
        "trained_weights": weights,
        "balance": balance(options, model.cutoff),
        "training": [train(options, n) for n in options.processes],
        "versions": collect_versions(),
        "hardware": f"{psutil.cpu_count()} x {platform.machine()}",
    }
    print(json.dumps(found, indent=1))
    write_json(options.out, found)


if __name__ == "__main__":
    main()
