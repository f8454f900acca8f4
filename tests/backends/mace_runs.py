"""Trainings from files of mace_run_train, by MACE and by pft-train."""

from __future__ import annotations

import csv
import json
import logging
import os
from pathlib import Path
from unittest import mock

import torch
from hydra import compose, initialize_config_module

from pft_lightning.runs.train import train


# Energies of free atoms, not far from those of the frames.
E0S = {3: -1.0, 8: -1.5, 9: -1.2, 11: -0.7, 12: -0.9, 14: -2.0, 17: -0.4}

# Thirteen frames in batches of four: three steps an epoch, one frame left out.
OPTIONS = {
    "name": "tiny",
    "seed": 7,
    "model": "ScaleShiftMACE",
    "energy_key": "energy",
    "forces_key": "forces",
    "stress_key": "stress",
    "E0s": str(E0S),
    "r_max": 4.0,
    "num_radial_basis": 4,
    "hidden_irreps": "4x0e + 4x1o",
    "max_ell": 2,
    "correlation": 2,
    "MLP_irreps": "4x0e",
    "radial_MLP": "[8]",
    "batch_size": 4,
    "valid_batch_size": 3,
    "max_num_epochs": 7,
    "lr": 0.01,
    "default_dtype": "float64",
}


def run_mace(path: Path, folder: Path) -> tuple[list[float], list[float]]:
    """Losses of the steps and of the validations of mace_run_train."""
    from mace import tools
    from mace.cli import run_train

    parser = tools.build_default_arg_parser()
    arguments = ["--config", str(path), "--work_dir", str(folder), "--plot", "False"]
    root, dtype = logging.getLogger(), torch.get_default_dtype()
    handlers, level = list(root.handlers), root.level
    try:
        # The compiled copies that it would also write take most of the time.
        with (
            mock.patch.object(run_train.jit, "compile", side_effect=RuntimeError),
            # MACE sets it when it is imported first, which importing us undoes.
            mock.patch.dict(os.environ, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"),
        ):
            run_train.run(parser.parse_args(arguments))
    finally:
        torch.set_default_dtype(dtype)
        root.handlers[:] = handlers
        root.setLevel(level)
    (log,) = (folder / "results").glob("*_train.txt")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    last_head = [row["head"] for row in rows if row["mode"] == "eval"][-1]
    return (
        [row["loss"] for row in rows if row["mode"] == "opt"],
        # Of all heads, MACE looks at the last one.
        [row["loss"] for row in rows if row.get("head") == last_head],
    )


def common(world, path: Path, folder: Path) -> tuple[str, ...]:
    """Overrides of every training from such a file."""
    return (
        f"mace_config={path}",
        f"data.cache_dir={world.base.parent / 'cache'}",
        "+trainer.enable_progress_bar=false",
        "trainer.log_every_n_steps=1",
        "callbacks.device_stats=null",
        f"paths.run={folder}",
    )


def run_pft(world, path: Path, folder: Path, *overrides: str) -> dict:
    """Summary of a training from the same file."""
    overrides = (*common(world, path, folder), *overrides)
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = compose("train", overrides=list(overrides))
    return train(config, overrides)


def logged(folder: Path, column: str) -> list[float]:
    with (folder / "logs" / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


PHONONS = (
    "data.phonons.batch_size=1",
    "data.upstream_per_phonon=2",
    "probe=irreducible",
    "engine=reverse_over_reverse",
)


def with_phonons(world, *overrides: str) -> tuple[str, ...]:
    return (
        f"data.phonons.train={world.phonons_train}",
        f"data.phonons.val={world.phonons_val}",
        *PHONONS,
        *overrides,
    )
