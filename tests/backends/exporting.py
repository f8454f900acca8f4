"""Runs of networks to export from, and comparison with foreign processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase.build import bulk
from hydra import compose, initialize_config_module

from pft_lightning.backends.calculator import Calculator
from pft_lightning.runs.export import export
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.native import NativeRun
from pft_lightning.runs.train import train


HERE = Path(__file__).parent


def composed(name: str, *overrides: str):
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        return compose(name, overrides=list(overrides))


def finish_run(world, folder: Path, base: Path, *overrides: str) -> Path:
    """Two steps of a training, one on phonons and one on frames."""
    train(
        composed(
            "train",
            f"model.checkpoint={base}",
            f"data.phonons.train={world.phonons_train / 'NaCl.yaml'}",
            f"data.phonons.val={world.phonons_train / 'NaCl.yaml'}",
            f"data.upstream.train={world.upstream_train}",
            f"data.upstream.val={world.upstream_val}",
            "data.upstream.batch_size=2",
            f"data.cache_dir={world.base.parent / 'cache'}",
            "engine=reverse_over_reverse",
            "trainer.accelerator=cpu",
            "trainer.max_steps=2",
            "+trainer.enable_progress_bar=false",
            "optimizer.lr=1e-2",
            "export=last",
            "logger=none",
            f"paths.run={folder}",
            *overrides,
        )
    )
    return folder


def exported(out: Path, *overrides: str) -> Path:
    # A loader of validation data, and new adapters, draw random numbers.
    with torch.random.fork_rng(devices=[]):
        export(composed("export", f"out={out}", "checkpoint=last", *overrides))
    return out


def model_of(run: Path, weights: str = "ema"):
    """The potential of a run as its last checkpoint has it, adapters attached."""
    folder = RunFolder(run)
    with torch.random.fork_rng(devices=[]):
        module = NativeRun(folder.read_config(), (), run).build_module()
    checkpoint = torch.load(folder.last_checkpoint, weights_only=True)
    module.on_load_checkpoint(checkpoint)
    key = {"ema": "state_dict", "raw": "current_model_state"}[weights]
    module.load_state_dict(checkpoint[key])
    return module.model


def salt() -> ase.Atoms:
    """Eight atoms in a cell about as large as the cutoffs, none where symmetry is.

    Positions have the eight decimals that extended XYZ keeps.
    """
    atoms = bulk("NaCl", "rocksalt", 5.2, cubic=True)
    atoms.positions += np.random.default_rng(4).normal(scale=0.08, size=(8, 3))
    atoms.positions = atoms.positions.round(8)
    return atoms


def predict_elsewhere(folder: Path, jobs: list[tuple[str, Path, str]]) -> list[dict]:
    """Energies and forces of ``salt`` from the tools in ``foreign.py``.

    Args:
        folder: to work in.
        jobs: tool, file and dtype.
    """
    ase.io.write(folder / "atoms.json", salt())
    job = folder / "job.json"
    job.write_text(json.dumps([[tool, str(file), d] for tool, file, d in jobs]))
    result = subprocess.run(
        [sys.executable, HERE / "foreign.py", job],
        cwd=folder,
        # What MACE sets for itself, but importing us in this process undoes.
        env=os.environ | {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((folder / "RESULT.json").read_text())


def relative_errors(model, found: dict) -> tuple[float, float]:
    """Of the energy, and of the forces with respect to the largest of them."""
    atoms = salt()
    atoms.calc = Calculator(model)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    return (
        abs(found["energy"] / energy - 1),
        np.abs(found["forces"] - forces).max() / np.abs(forces).max(),
    )
