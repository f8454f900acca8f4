"""Write, with an earlier commit, what later ones must read: write_files.py NAME.

The files kept here are those of commit 8e53a36. They were written with its package and
its tests in front of the import path (``PYTHONPATH=OLD:OLD/tests/backends``), once for
each backend in an environment that has it: pair, mace (e3nn 0.4.4), nequip, nequix.
Everything runs in a folder without meaning, with relative paths: it may be moved.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import measure_file

import pft_lightning as pft


HERE = Path(__file__).parent
WORK = Path("/tmp/earlier") / sys.argv[1]
NUMBERS = (3, 9, 11)
LIF, NAF = "phonons/LiF.yaml.xz", "phonons/NaF.yaml.xz"

TRAINING = (
    "model.dtype=float64",
    f"data.phonons.train=[{LIF},{NAF}]",
    f"data.phonons.val={NAF}",
    "data.phonons.batch_size=1",
    "data.upstream.train=frames.xyz",
    "data.upstream.val=frames.xyz",
    "data.upstream.batch_size=2",
    "data.upstream_per_phonon=1",
    "data.cache_dir=cache",
    "optimizer.lr=1e-3",
    "trainer.accelerator=cpu",
    "trainer.max_steps=4",
    "+trainer.enable_progress_bar=false",
    "logger=none",
    "hydra.run.dir=run",
    "paths.run=run",
)
# Each in a way of its own.
ADAPTATION = {
    "pair": ("export=last",),
    "mace": ("adaptation=lora", "adaptation.rank=2"),
    "nequip": (),
    "nequix": ("adaptation=delta", "probe=rademacher"),
}


def run(command: str, *arguments: str) -> None:
    """Run a command of the package that is imported here."""
    module = f"pft_lightning.cli.{command.removeprefix('pft-')}"
    code = f"import sys; sys.argv[0] = {command!r}; from {module} import main; main()"
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=WORK, check=True)


def write_pair() -> str:
    from pft_lightning.testing import PairPotential

    PairPotential(4.0, NUMBERS).save(WORK / "base.pt")
    return "base.pt"


def write_mace() -> str:
    from models import BASE, build_mace

    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    BASE.update(max_ell=1, hidden_irreps="2x0e+2x1o", radial_MLP=[8], r_max=4.0)
    torch.save(build_mace("scale_shift", atomic_numbers=NUMBERS), WORK / "base.model")
    # The portable form is small; the pickle is kept packed.
    pft.load_model(WORK / "base.model").save(WORK / "base.safetensors")
    with lzma.open(WORK / "base.model.xz", "wb") as file:
        file.write((WORK / "base.model").read_bytes())
    (WORK / "base.model").unlink()
    return "base.safetensors"


def write_nequip() -> str:
    from nequip_models import MODEL, write_base

    MODEL.update(r_max=4.0, num_features=4, radial_mlp_width=8)
    write_base(WORK / "base.ckpt", WORK / "frames.xyz", NUMBERS)
    return "base.ckpt"


def write_nequix() -> str:
    from nequix_models import CONFIG

    from pft_lightning.backends import nequix_files

    config = CONFIG | {
        "atomic_numbers": list(NUMBERS),
        "atom_energies": {"3": -1.0, "9": -2.0, "11": -3.0},
        "hidden_irreps": "4x0e + 2x1o",
        "lmax": 1,
        "cutoff": 4.0,
        "n_layers": 2,
    }
    path = WORK / "base.pt"
    network = nequix_files.build(config, path)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    nequix_files.write(path, config, network)
    return path.name


BASES: dict[str, Callable[[], str]] = {
    "pair": write_pair,
    "mace": write_mace,
    "nequip": write_nequip,
    "nequix": write_nequix,
}


def write_run(name: str, base: str) -> dict[str, dict]:
    """A run folder, what pft-export makes of it, and the numbers of both."""
    suffix = Path(base).suffix
    common = (f"model.checkpoint={base}", *TRAINING, *ADAPTATION[name])
    run("pft-train", *common)
    for weights in ("ema", "raw"):
        out = f"{weights}{suffix}"
        run(
            "pft-export",
            "run=run",
            "checkpoint=last",
            f"weights={weights}",
            f"out={out}",
        )
    shutil.copytree(WORK / "run", WORK / "longer")
    longer = [argument.replace("=run", "=longer") for argument in common]
    run("pft-train", *longer, "resume=true", "trainer.max_steps=6")
    out = f"longer{suffix}"
    run("pft-export", "run=longer", "checkpoint=last", "weights=raw", f"out={out}")
    shutil.rmtree(WORK / "longer")
    found = {
        n: measure_file(WORK / f"{n}{suffix}") for n in ("base", "ema", "raw", "longer")
    }
    for left in (
        *WORK.glob("longer*"),
        *WORK.glob("raw*"),
        *WORK.glob("run/model.model"),
    ):
        left.unlink()
    return found


def write_store_and_evaluation() -> None:
    run("pft-prepare", f"phonons=[{LIF},{NAF}]", "out=store", "cutoff=4.0")
    run(
        "pft-evaluate",
        "model.checkpoint=ema.pt",
        "compare.base.checkpoint=base.pt",
        f"phonons={NAF}",
        "upstream=frames.xyz",
        "protocol.mesh=[4,4,4]",
        "protocol.band_points=3",
        "protocol.temperatures=[0,300,100]",
        "accelerator=cpu",
        "progress=false",
        "hydra.run.dir=evaluation",
        "paths.run=evaluation",
    )


def train_with_nequip() -> dict[str, dict]:
    """Checkpoints of nequip-train: with the callback, and with our classes in it."""
    found = {}
    for name in ("callback", "module"):
        shutil.copy(HERE / f"nequip_{name}.yaml", WORK)
        code = "from nequip.scripts.train import main; main()"
        where = ("-cp", str(WORK), "-cn", f"nequip_{name}")
        run_dir = f"hydra.run.dir={name}"
        subprocess.run(
            [sys.executable, "-c", code, *where, run_dir], cwd=WORK, check=True
        )
        (WORK / f"nequip_{name}.yaml").unlink()
        (WORK / name / "last.ckpt").rename(WORK / f"{name}.ckpt")
        shutil.rmtree(WORK / name)
        found[name] = measure_file(WORK / f"{name}.ckpt")
    return found


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def main(name: str) -> None:
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    shutil.copytree(HERE / "phonons", WORK / "phonons")
    shutil.copy(HERE / "frames.xyz", WORK)
    numbers = write_run(name, BASES[name]())
    if name == "pair":
        write_store_and_evaluation()
    if name == "nequip":
        numbers |= train_with_nequip()
    for left in ("phonons", "cache", "evaluation/figures"):
        shutil.rmtree(WORK / left, ignore_errors=True)
    logs = [str(path.relative_to(WORK)) for path in WORK.rglob("*.log")]
    for left in ("evaluation/report.html", "frames.xyz", *logs):
        (WORK / left).unlink(missing_ok=True)
    text = json.dumps(numbers, indent=1) + "\n"
    (HERE / f"{name}.json").write_text(text, encoding="utf-8")
    with tarfile.open(HERE / f"{name}.tar.xz", "w:xz") as archive:
        archive.add(WORK, name, filter=_anonymous)


if __name__ == "__main__":
    main(sys.argv[1])
