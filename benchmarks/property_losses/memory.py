"""Memory and time of a training step with and without losses on properties.

``python memory.py MODEL PHONONS... --out FILE``: each step in a process of its own, so
that the largest memory is that of the step and of what it needs: libraries, the
potential, the data. What the losses add is the difference to ``none``, a step on one
Hessian-vector product.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path

import lightning
import torch

import pft_lightning as pft
from pft_lightning.callbacks import HessianLoss, PropertyLoss
from pft_lightning.runs.folder import collect_versions


WEIGHTS = {
    "none": {},
    "properties": {
        "frequencies": 30.0,
        "entropy": 1.0,
        "heat_capacity": 4.0,
        "dos": 1.0,
    },
}


def step(checkpoint: Path, phonons: Path, arm: str) -> dict[str, float]:
    """Take the step in this process, and measure it."""
    torch.set_num_threads(1)
    model = pft.load_model(checkpoint)
    callbacks: list[lightning.Callback] = [HessianLoss(weight=300.0)]
    if WEIGHTS[arm]:
        callbacks.append(PropertyLoss(WEIGHTS[arm]))
    source = pft.PhononSource(train=phonons, val=phonons)
    trainer = lightning.Trainer(
        callbacks=callbacks,
        max_steps=1,
        accelerator="cpu",
        inference_mode=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = time.perf_counter()
    trainer.fit(pft.PhononFineTuning(model), pft.PhononDataModule(source))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_mib": round(peak), "seconds": time.perf_counter() - start}


def main() -> None:
    """Read the arguments, measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("phonons", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    results = []
    for file in arguments.phonons:
        phonon = pft.read_phonopy(file)
        row = {
            "file": file.name,
            "atoms": len(phonon.supercell),
            "primitive_atoms": len(phonon.primitive),
        }
        for arm in WEIGHTS:
            # A store of the first run is there for the others.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row[arm] = pool.apply(step, (arguments.model, file, arm))
            print(row["file"], row["atoms"], arm, row[arm], flush=True)
        results.append(row)
    found = {
        "command": " ".join(["memory.py", "MODEL", "PHONONS", "--out FILE"]),
        "model": arguments.model.name,
        "versions": collect_versions(),
        "results": results,
    }
    arguments.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
