"""Write the model cards of the potentials that ``results`` holds, with ``pft-export``.

Their run folders are not kept, so what these said is put together again: the recipe
from the experiment, errors before and after from the summary, names of the data. The
file that is exported has to be the one that is kept, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from pft_lightning.cli import common  # noqa: F401  (registers the resolvers)
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.provenance import (
    FORMAT,
    card_path,
    identify,
    provenance_path,
)
from pft_lightning.runs.tables import find_metrics


RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Potential:
    """A potential that is kept.

    Attributes:
        weights: file below ``results``.
        summary: that of its run, below ``results``.
        experiment: what it was trained by.
        base: the file in ``DATA/models`` or below ``results`` that it started from, or
            a name.
        phonons: names of the data of force constants, training and validation.
        upstream: names of the frames, training and validation.
        overrides: of the experiment.
    """

    weights: str
    summary: str
    experiment: str
    base: str
    phonons: tuple[list[str], list[str]]
    upstream: tuple[list[str], list[str]]
    overrides: tuple[str, ...] = ()


# Of ``paper/large.sh``.
_FRAMES: Final = [
    f"labelled-{name}.xyz"
    for name in ("mptrj-train", "crystals-a", "crystals-b", "frames")
]
_LARGE: Final = (
    "loss.upstream.energy=110",
    "loss.upstream.forces=70",
    "loss.upstream.stress=250",
    "optimizer.lr=3e-4",
)

POTENTIALS: Final = (
    Potential(
        "paper/cpu-cotraining-model.pt",
        "paper/cpu-cotraining.json",
        "pft_paper_nequix_cpu",
        "nequix-mp-1.pt",
        (["phonondb_pbesol, 521 materials"], ["phonondb_pbesol, 11 small ones"]),
        (["mptrj-train.xyz.xz"], ["mptrj-val.xyz.xz"]),
    ),
    Potential(
        "paper/large-stage1-model.pt",
        "paper/large-stage1.json",
        "pft_paper_nequix_cpu",
        "nequix-mp-1.pt",
        (
            ["phonondb_pbesol and phonondb_pbesol_large, 6002 materials"],
            ["phonondb_pbesol, 11 small ones"],
        ),
        (_FRAMES, ["mptrj-val.xyz.xz"]),
        (*_LARGE, "trainer.max_steps=1020", "trainer.val_check_interval=255"),
    ),
    Potential(
        "paper/large-stage2-model.pt",
        "paper/large-stage2.json",
        "pft_paper_nequix_cpu",
        "paper/large-stage1-model.pt",
        (
            ["phonondb_pbesol and phonondb_pbesol_large, 6002 materials"],
            ["phonondb_pbesol, 11 small ones"],
        ),
        (_FRAMES, ["mptrj-val.xyz.xz"]),
        (
            *_LARGE,
            "trainer.max_steps=600",
            "trainer.val_check_interval=300",
            "seed=1",
            "scheduler.n_warmup=60",
        ),
    ),
    Potential(
        "sevennet/sevennet-0-model.pth",
        "sevennet/sevennet-0.json",
        "pft_sevennet_cpu",
        "7net-0",
        (["phonondb_pbesol, 1635 materials"], ["phonondb_pbesol, 11 small ones"]),
        (["labelled-mptrj-train.xyz", "labelled-rattled.xyz"], ["mptrj-val.xyz.xz"]),
    ),
)


def describe(potential: Potential, models: Path, folder: Path) -> dict[str, Any]:
    """What the run said of the potential, as ``pft-export`` keeps it beside a file."""
    summary = json.loads((RESULTS / potential.summary).read_text())
    overrides = [f"experiment={potential.experiment}", *potential.overrides]
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = compose("train", overrides=overrides)
    recipe: Any = OmegaConf.to_container(config)
    paths = (place / potential.base for place in (models, RESULTS))
    config.model.checkpoint = str(next(filter(Path.is_file, paths), potential.base))
    parts = ("train", "val")
    return {
        "format": FORMAT,
        "file": identify(RESULTS / potential.weights),
        "base_model": RunFolder(folder).check_base_model(config),
        "run": {
            "folder": Path(potential.summary).stem,
            "checkpoint": "last.ckpt",
            "weights": "ema",
            "steps": summary["steps"],
            "adaptation": recipe["adaptation"],
            "trainable": summary["trainable"],
        },
        "data": {
            "phonons": dict(zip(parts, potential.phonons, strict=True)),
            "upstream": dict(zip(parts, potential.upstream, strict=True)),
            "counts": summary["counts"],
        },
        "functionals": summary.get("functionals"),
        "metrics": find_metrics(summary),
        "metrics_are_of_this_file": True,
        "recipe": recipe,
        "versions_of_the_run": summary["versions"],
    }


def main(arguments: Sequence[str]) -> None:
    """Export potentials, and keep their cards and where they come from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, help="folder of the base models")
    parser.add_argument("name", help="part of the file name of a potential")
    given = parser.parse_args(arguments)
    for potential in POTENTIALS:
        if given.name not in potential.weights:
            continue
        kept = RESULTS / potential.weights
        with tempfile.TemporaryDirectory() as folder:
            source = Path(shutil.copy(kept, folder))
            told = json.dumps(describe(potential, given.models, Path(folder)))
            provenance_path(source).write_text(told)
            out = Path(folder) / "out" / kept.name
            out.parent.mkdir()
            command = ["pft-export", f"model.checkpoint={source}", f"out={out}"]
            subprocess.run(command, check=True)
            if identify(out) != identify(kept):
                raise SystemExit(f"{kept.name}: is written with other bytes now.")
            shutil.copy(provenance_path(out), kept.parent)
            lines = card_path(out).read_text().splitlines(keepends=True)
            # It is the same file.
            shown = (line for line in lines if not line.startswith("| converted from"))
            card_path(kept).write_text("".join(shown))
        print(card_path(kept))


if __name__ == "__main__":
    main(sys.argv[1:])
