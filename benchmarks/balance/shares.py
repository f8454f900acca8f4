"""Shares that the terms of a recipe have of the gradient at the weights it starts from.

    python shares.py STEPS OUT.json OPTION=VALUE ...

The options are those of pft-train; no step is taken. Of each term: its mean, the root
mean square of the norm of its gradient without weight, its weight, and the norm of the
weighted gradient in that of Hessian-vector products.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psutil
from hydra import compose, initialize_config_module
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from pft_lightning.json_files import write_json
from pft_lightning.runs.checks import check_train
from pft_lightning.runs.folder import RunFolder, collect_versions
from pft_lightning.runs.kinds import start_run
from pft_lightning.runs.train import build_trainer
from pft_lightning.training.balance import HVP, LossBalance


class Recorder(LossBalance):
    """Measures every step, and finds no weight."""

    def __init__(self) -> None:
        super().__init__({})
        self.squares: list[Mapping[str, float]] = []

    def __bool__(self) -> bool:
        return True

    def is_due(self, terms: object) -> bool:
        """Always."""
        return True

    def measure(self, squares: Mapping[str, float]) -> None:
        """Keep them."""
        self.squares.append(squares)


class Terms(Callback):
    """Keeps the terms of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, *_: object) -> None:
        """Keep them."""
        found = trainer.callback_metrics
        self.steps.append({name: float(value) for name, value in found.items()})


def main() -> None:
    """Measure the recipe of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("options", nargs="*")
    given = parser.parse_args()
    folder = tempfile.mkdtemp()
    overrides = [
        *given.options,
        "trainer.devices=1",
        "trainer.strategy=auto",
        f"trainer.max_steps={given.steps}",
        "optimizer.lr=1e-30",
        "optimizer.weight_decay=0",
        "scheduler=constant",
        "logger=none",
        "callbacks={}",
        f"paths.run={folder}",
    ]
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = check_train(compose("train", overrides=overrides))
    run = start_run(config, overrides, Path(folder), 0)
    module = run.build_module()
    module.balance = recorder = Recorder()
    trainer = build_trainer(config, RunFolder(folder))
    trainer.limit_val_batches = 0
    terms = Terms()
    trainer.callbacks.append(terms)
    trainer.logger = CSVLogger(folder)  # terms are logged
    trainer.fit(module, run.build_datamodule(module.model))
    weights = {
        f"{source}_{name}": weight
        for source in ("phonon", "upstream")
        for name, weight in config.loss[source].items()
    }
    rows = {
        name: {
            "mean": float(np.mean([step[f"train/{name}"] for step in terms.steps])),
            "gradient": float(np.sqrt(np.mean([s[name] for s in recorder.squares]))),
            "weight": weights[name],
        }
        for name in recorder.squares[0]
    }
    unit = rows[HVP]["weight"] * rows[HVP]["gradient"]
    for name, row in rows.items():
        row["share"] = row["weight"] * row["gradient"] / unit
        print(name, row)
    write_json(
        given.out,
        {
            "options": [o for o in given.options if "/" not in o],
            "steps": given.steps,
            "terms": rows,
            "versions": collect_versions(),
            "hardware": f"{psutil.cpu_count()} x {platform.machine()}, one thread",
        },
    )


if __name__ == "__main__":
    main()
