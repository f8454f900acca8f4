"""A store of 10,000 materials: opening, start of an epoch, throughput, memory.

    python run.py PHONONS ... --work WORK --out ../results/store.json

PHONONS are folders of phonopy files. They are read once; copies of what was read make
up the 10,000. Every measurement is made in a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import platform
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch

from pft_lightning import PhononDataModule
from pft_lightning.data.datamodule import PhononSource
from pft_lightning.data.store import PhononStore, build_store
from pft_lightning.json_files import write_json
from pft_lightning.runs.folder import collect_versions


SECONDS = 30  # of loading that are measured


def synthesise(options: argparse.Namespace) -> tuple[Path, dict[str, float]]:
    """Build the large store from copies of a small one."""
    small, large = options.work / "small.store", options.work / "large.store"
    start = time.perf_counter()
    build_store(options.phonons, small, cutoff=options.cutoff)
    seconds = {"reading_s": time.perf_counter() - start}
    copies = []
    for k in range(-(-options.materials // len(PhononStore(small)))):
        copies.append(options.work / "copies" / f"{k}.store")
        if not copies[-1].exists():
            shutil.copytree(small, copies[-1])
    start = time.perf_counter()
    build_store(copies, large, cutoff=options.cutoff)
    seconds["building_s"] = time.perf_counter() - start
    shutil.rmtree(options.work / "copies")
    return large, seconds


def resident_mib(process: psutil.Process) -> float:
    """Memory of a process that no file backs, MiB: pages of the store are shared."""
    memory = process.memory_info()
    return (memory.rss - memory.shared) / 2**20


def measure_opening(path: Path) -> dict[str, float]:
    """Seconds to open the store, and memory that it takes."""
    before = resident_mib(psutil.Process())
    start = time.perf_counter()
    store = PhononStore(path)
    return {
        "materials": len(store),
        "atoms_per_material": float(store.n_atoms.mean()),
        "opening_s": time.perf_counter() - start,
        "opening_mib": resident_mib(psutil.Process()) - before,
    }


def measure_loading(path: Path, n_workers: int, batch_size: int) -> dict[str, Any]:
    """First batch, throughput and memory of a training loader."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    data = PhononDataModule(
        PhononSource(path, batch_size=batch_size),
        cutoff=PhononStore(path).cutoff,
        atomic_numbers=range(1, 119),
        num_workers=n_workers,
    )
    data.setup("fit")
    batches = itertools.chain.from_iterable(itertools.repeat(data.train_dataloader()))
    next(batches)
    first = time.perf_counter() - start
    n_structures, most = 0, 0.0
    start = time.perf_counter()
    while (seconds := time.perf_counter() - start) < SECONDS:
        n_structures += next(batches)["phonon"].num_graphs
        parts = psutil.Process().children() or [psutil.Process()]
        most = max(most, *(resident_mib(part) for part in parts))
    return {
        "workers": n_workers,
        "batch_size": batch_size,
        "first_batch_s": first,
        "structures_per_s": n_structures / seconds,
        "largest_process_mib": most,
    }


def alone(function: Any, *arguments: Any) -> Any:
    """Call a function in a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phonons", type=Path, nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--materials", type=int, default=10_000)
    parser.add_argument("--cutoff", type=float, default=6.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    path, seconds = synthesise(options)
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    found = {
        **seconds,
        "size_gb": size / 1e9,
        **alone(measure_opening, path),
        "loading": [
            alone(measure_loading, path, n, options.batch_size) for n in options.workers
        ],
        "cutoff": options.cutoff,
        "versions": collect_versions(),
        "hardware": f"{psutil.cpu_count()} x {platform.machine()}",
    }
    print(json.dumps(found, indent=1))
    write_json(options.out, found)


if __name__ == "__main__":
    main()
