"""Which probe, loss, co-training and learning rate bring Nequix MP furthest.

    python study.py DATA WORK [--minutes 3] [--only probe loss cotraining rate]

DATA and WORK are those of run.sh, which fills WORK. Every training starts at Nequix MP,
follows ``experiment=pft_paper_nequix_cpu`` with one process, the loss ``mae`` and a
constant learning rate of 4e-5 but for what its name says, and stops after the same wall
time, in which nothing is validated; so run it on a machine without other jobs. What all
are compared with is ``probe/commensurate_rademacher``. Errors are those of ``H v`` on
the whole validation pack, of one and the same draw for each material: ``hvp_error`` of
a random ``v`` in a commensurate cell, which weighs large elements of the Hessian, and
``column_error`` of a column of the supercell, whose expectation is the error of the
force constants. A training that has ended is not repeated, nor its validation where the
result is there. Results go to ``../results/paper/studies.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import torch
from tqdm import tqdm

import pft_lightning as pft
from pft_lightning import keys
from pft_lightning.data.batching import BatchKey
from pft_lightning.data.loading import Collate, Structures, cell_draws
from pft_lightning.data.store import cached_store
from pft_lightning.physics.probes import ColumnProbe
from pft_lightning.physics.wave_probes import CommensurateRademacherProbe


RESULTS = Path(__file__).parents[1] / "results" / "paper" / "studies.json"
METRICS = (
    "upstream/energy_mae",
    "upstream/forces_mae",
    "upstream/stress_mae",
)
# As many atoms a step as in the commensurate cells of the recipe.
WHOLE = "data.phonons.batch_size=3"
STUDIES: dict[str, dict[str, tuple[str, ...]]] = {
    "probe": {
        "column": ("probe=column", WHOLE),
        "four columns": ("probe=column", "probe.n_probes=4", WHOLE),
        "irreducible": ("probe=irreducible", WHOLE),
        "sparse": ("probe=sparse", WHOLE),
        "rademacher": ("probe=rademacher", WHOLE),
        "commensurate": ("probe=commensurate",),
        "commensurate_rademacher": (),
    },
    "loss": {
        "l2": ("loss.kind.hvp=l2",),
        # Near a typical error of 0.03 eV/Å² the slopes of the three agree.
        "mse": ("loss.kind.hvp=mse", "loss.phonon.hvp=5000"),
        "huber": ("loss.kind.hvp=huber", "loss.huber_delta=0.03"),
    },
    "cotraining": {
        "K=0": ("data.upstream.train=null", "data.mode=alternate"),
        "K=1": ("data.mode=alternate", "data.upstream_per_phonon=1"),
        "K=4": ("data.mode=alternate", "data.upstream_per_phonon=4"),
    },
    "rate": {
        "1e-5": ("optimizer.lr=1e-5",),
        "2e-5": ("optimizer.lr=2e-5",),
        "1e-4": ("optimizer.lr=1e-4",),
        "2e-4": ("optimizer.lr=2e-4",),
        "4e-4": ("optimizer.lr=4e-4",),
    },
}


def overrides(options: argparse.Namespace, folder: Path) -> list[str]:
    """What all trainings share."""
    models, frames = options.data / "models", options.data / "efs"
    return [
        "experiment=pft_paper_nequix_cpu",
        f"model.checkpoint={models / 'nequix-mp-1.pt'}",
        f"data.phonons.train={options.work / 'train'}",
        f"data.phonons.val={options.work / 'val-40'}",
        f"data.upstream.train={frames / 'mptrj-train.xyz.xz'}",
        f"data.upstream.val={frames / 'mptrj-val.xyz.xz'}",
        f"data.cache_dir={options.work / 'cache'}",
        "scheduler=constant",
        "optimizer.lr=4e-5",
        "loss.kind.hvp=mae",
        "trainer.devices=1",
        "trainer.strategy=auto",
        "trainer.max_steps=-1",
        f"+trainer.max_time={{minutes: {options.minutes}}}",
        # Never in the training; pft-train validates before and after it.
        "trainer.val_check_interval=1000000000",
        f"seed={options.seed}",
        f"hydra.run.dir={folder}",
    ]


class Validation:
    """Mean absolute errors of ``H v``, eV/Å², one draw for each validation material.

    Args:
        options: Those of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._base = options.data / "models" / "nequix-mp-1.pt"
        model = pft.load_model(self._base, dtype="float32")
        store = cached_store(
            options.work / "val", cutoff=model.cutoff, cache_dir=options.work / "cache"
        )
        q_points = cell_draws(store, share=1.0, seed=0)(0).q_points
        self._structures = Structures({keys.PHONON: store})
        self._draws: dict[str, tuple[pft.HessianLoss, list[BatchKey]]] = {
            "hvp_error": (
                pft.HessianLoss(CommensurateRademacherProbe(), weight=1.0),
                [
                    BatchKey(keys.PHONON, index, int(q_points[index]))
                    for index in range(len(store))
                ],
            ),
            "column_error": (
                pft.HessianLoss(ColumnProbe(), weight=1.0),
                [BatchKey(keys.PHONON, index) for index in range(len(store))],
            ),
        }
        self.before = self.errors(self._base)

    def errors(self, path: Path) -> dict[str, float]:
        """Mean over the materials, by draw."""
        model = pft.load_model(path, dtype="float32")
        return {
            name: sum(
                self._error(model, loss, key)
                for key in tqdm(drawn, desc=name, leave=False, disable=None)
            )
            / len(drawn)
            for name, (loss, drawn) in self._draws.items()
        }

    def _error(
        self, model: pft.InteratomicPotential, loss: pft.HessianLoss, key: BatchKey
    ) -> float:
        batch = Collate()([self._structures[key]])[keys.PHONON]
        request = loss.request(batch, 0)
        with torch.no_grad():
            hvp = model.derivatives(
                batch, tangents=request.tangents, forces=False, stress=False
            ).hvp
        return float(request.term(hvp, batch, "structures").total)


def run(options: argparse.Namespace) -> None:
    """Train what is missing."""
    torch.set_num_threads(1)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    validation = Validation(options)
    command = str(Path(sys.executable).with_name("pft-train"))
    for study in options.only:
        for variant, own in STUDIES[study].items():
            name = f"{study}/{variant}/seed{options.seed}/{options.minutes}min"
            if name in known:
                continue
            folder = options.work / "studies" / name.replace(" ", "_").replace("=", "")
            arguments = [*overrides(options, folder), *own]
            folder.parent.mkdir(parents=True, exist_ok=True)
            if not (folder / "summary.json").exists():
                with folder.with_suffix(".log").open("w") as log:
                    subprocess.run(
                        [command, *arguments],
                        check=True,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=os.environ | {"OMP_NUM_THREADS": "1"},
                    )
            summary = json.loads((folder / "summary.json").read_text())
            metrics = {metric: summary[metric] for metric in METRICS}
            after = validation.errors(folder / summary["model"])
            metrics |= {
                draw: {"before": validation.before[draw], "after": after[draw]}
                for draw in after
            }
            known[name] = {
                "overrides": list(own),
                "steps": summary["steps"],
                "metrics": metrics,
                "versions": summary["versions"],
                "hardware": f"{psutil.cpu_count()} x {platform.machine()}, one thread",
            }
            RESULTS.parent.mkdir(parents=True, exist_ok=True)
            # Another process may have added its own.
            known = (
                json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            ) | known
            RESULTS.write_text(json.dumps(known, indent=1) + "\n")
            changes = (
                f"{metric} {100 * (m['after'] / m['before'] - 1):+.1f} %"
                for metric, m in known[name]["metrics"].items()
            )
            print(f"{name}: {summary['steps']} steps, {', '.join(changes)}", flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=int, default=3, help="of each training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(STUDIES), choices=STUDIES)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
