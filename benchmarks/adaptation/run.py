"""Fine-tune one base model by every adaptation, with and without the Hessian loss.

    python run.py few NAME=PHONOPY_YAML ... --base BASE --upstream-val XYZ --work DIR
    python run.py many --base BASE --upstream-val XYZ --work DIR \
        --phonons-train DIR --phonons-val DIR --upstream-train XYZ

``few`` needs phonopy files with random displacements and their forces: the first n of
them are the training data of one material, all of them the reference. One JSON line per
training goes to WORK/results.jsonl; a training that is there already is not repeated.
``--smoke`` runs one step of two sizes and two adaptations.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
import traceback
from pathlib import Path

import ase
import ase.io
import numpy as np
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from hydra import compose, initialize_config_module
from phonopy import Phonopy

import pft_lightning as pft
from pft_lightning.data.readers.phonopy import read_phonopy
from pft_lightning.runs.train import train as run_training


METHODS: dict[str, tuple[str, ...]] = {
    "none": ("adaptation=none",),
    "none_1e-2": ("adaptation=none", "optimizer.lr=0.01"),  # as fast as delta
    "lora": ("adaptation=lora", "adaptation.rank=8"),
    # Equitrain's decay and learning rate.
    "delta": ("adaptation=delta", "adaptation.decay=10", "optimizer.lr=0.01"),
    "freeze": ("adaptation=freeze", "adaptation.freeze=[embedding,interaction_0]"),
    "multihead": ("adaptation=multihead", "adaptation.new_head=phonon"),
    "scratch": ("adaptation=scratch",),
}
# The reference structure counts in both, so that both see the same data.
LOSSES = {"efs": ("loss.phonon.hvp=0",), "efs+hessian": ("loss.phonon.hvp=500",)}
SIZES = (2, 4, 8, 16)


def displaced_frames(
    phonon: Phonopy, head: str | None, n: int | None = None
) -> list[ase.Atoms]:
    """The first n displaced supercells with their forces, and energies if known."""
    frames = []
    energies = phonon.dataset.get("supercell_energies")
    cells = phonon.supercells_with_displacements[:n]
    for i, (cell, forces) in enumerate(zip(cells, phonon.forces[:n], strict=True)):
        atoms = ase.Atoms(cell.symbols, cell.positions, cell=cell.cell, pbc=True)
        results = {"forces": forces}
        if energies is not None:
            results["energy"] = float(energies[i])
        atoms.calc = SinglePointCalculator(atoms, **results)
        if head is not None:
            atoms.info["head"] = head
        frames.append(atoms)
    return frames


def write_material(source: Path, folder: Path, n: int, replay: Path | None) -> dict:
    """Training data of n structures, for one head and for two."""
    folder.mkdir(parents=True, exist_ok=True)
    phonon = read_phonopy(source)
    whole = dict(phonon.dataset)
    if len(whole["displacements"]) < n:
        raise SystemExit(f"{source}: {len(whole['displacements'])} frames, not {n}")
    phonon.save(folder / "reference.yaml")
    ase.io.write(folder / "frames.xyz", displaced_frames(phonon, None, n))
    old = [] if replay is None else ase.io.read(replay, ":")
    new = displaced_frames(phonon, "phonon", n)
    ase.io.write(folder / "two_heads.xyz", [*new, *old], format="extxyz")
    phonon.dataset = {key: values[:n] for key, values in whole.items()}
    phonon.save(folder / "train.yaml")
    return {
        "train": folder / "train.yaml",
        "val": folder / "reference.yaml",
        "frames": folder / "frames.xyz",
        "two_heads": folder / "two_heads.xyz",
    }


def write_many(sources: Path, upstream: Path, folder: Path) -> dict:
    """Upstream frames and all displaced supercells, for one head and for two."""
    folder.mkdir(parents=True, exist_ok=True)
    old = ase.io.read(upstream, ":")
    files = {"frames": folder / "frames.xyz", "two_heads": folder / "two_heads.xyz"}
    for path, head in ((files["frames"], None), (files["two_heads"], "phonon")):
        new: list[ase.Atoms] = []
        for source in sorted(sources.glob("*.yaml*")):
            phonon = read_phonopy(source)
            new += displaced_frames(phonon, head)
        ase.io.write(path, [*new, *old], format="extxyz")
    return files


def frequency_mae(model: pft.EnergyModel, sources: list[Path]) -> float:
    """Mean absolute error of the frequencies on a 4 x 4 x 4 mesh, THz."""
    errors = []
    for source in sources:
        phonon = read_phonopy(source)
        phonon.produce_force_constants(fc_calculator="symfc")
        cell = phonon.supercell
        atoms = ase.Atoms(cell.symbols, cell.positions, cell=cell.cell, pbc=True)
        n_atoms, primitive = len(atoms), phonon.primitive.p2s_map
        reference = frequencies(phonon)
        columns = np.zeros((n_atoms, 3 * len(primitive), 3))
        for k, atom in enumerate(primitive):
            for axis in range(3):
                columns[atom, 3 * k + axis, axis] = 1
        hvp = pft.hessian_vector_product(
            model, atoms, columns, engine="reverse_over_reverse"
        )
        compact = hvp.reshape(n_atoms, len(primitive), 3, 3).transpose(1, 0, 2, 3)
        phonon.force_constants = np.ascontiguousarray(compact)
        errors.append(np.abs(frequencies(phonon) - reference).mean())
    return float(np.mean(errors))


def frequencies(phonon: Phonopy) -> np.ndarray:
    """On a 4 x 4 x 4 mesh, THz."""
    phonon.run_mesh([4, 4, 4], is_mesh_symmetry=False)
    return phonon.mesh.frequencies


def train(folder: Path, overrides: list[str]) -> dict:
    """Run one training in a process of its own; its summary with time and memory."""
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    # A fork has imported everything already, which would take a third of the time.
    if (child := os.fork()) == 0:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            status = 1
            try:
                _train_here([*overrides, f"paths.run={folder}"])
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
    _, status, usage = os.wait4(child, 0)
    if status != 0:
        raise SystemExit(f"a training failed; see {log}")
    summary = json.loads((folder / "summary.json").read_text())
    summary["wall_s"] = time.perf_counter() - start
    summary["peak_memory_mib"] = usage.ru_maxrss / 1024
    with (folder / "logs" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/time")]
    if len(rows) > 1:
        seconds = float(rows[-1]["train/time"]) - float(rows[0]["train/time"])
        summary["step_s"] = seconds / (int(rows[-1]["step"]) - int(rows[0]["step"]))
    return summary


def _train_here(overrides: list[str]) -> None:
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = compose("train", overrides=overrides)
    run_training(config, overrides)


def cases(options: argparse.Namespace):
    """(name, files, reference files) of every data set."""
    work = options.work
    if options.question == "many":
        train, val = options.phonons_train, options.phonons_val
        files = write_many(train, options.upstream_train, work / "data" / "many")
        files |= {"train": train, "val": val}
        yield "many", files, sorted(val.glob("*.yaml*"))
        return
    for pair in options.materials:
        name, _, source = pair.partition("=")
        for n in options.sizes:
            files = write_material(
                Path(source), work / "data" / f"{name}-{n}", n, options.replay
            )
            yield f"{name}-{n}", files, [files["val"]]


def run(options: argparse.Namespace) -> None:
    """Run what is missing."""
    options.work.mkdir(parents=True, exist_ok=True)
    results = options.work / "results.jsonl"
    lines = results.read_text().splitlines() if results.exists() else []
    done = {json.loads(line)["name"] for line in lines}
    base = pft.load_model(options.base, dtype="float64", head=options.head)
    for case, files, references in cases(options):
        before = frequency_mae(base, references)
        for method in options.methods:
            for loss in options.losses:
                name = f"{case}/{method}/{loss}/seed{options.seed}"
                if name in done:
                    continue
                frames = files["two_heads" if method == "multihead" else "frames"]
                overrides = [
                    f"model.checkpoint={options.base}",
                    f"data.phonons.train={files['train']}",
                    f"data.phonons.val={files['val']}",
                    "data.phonons.batch_size=1",
                    "data.phonons.options.max_asymmetry=1.0",
                    "data.phonons.options.max_relative_asymmetry=1.0",
                    f"data.upstream.train={frames}",
                    f"data.upstream.val={options.upstream_val}",
                    f"data.upstream.batch_size={options.batch_size}",
                    "data.mode=joint",
                    "optimizer.lr=1e-3",
                    "optimizer.weight_decay=0",
                    "engine=reverse_over_reverse",
                    f"trainer.max_steps={options.steps}",
                    "trainer.max_epochs=-1",
                    "trainer.check_val_every_n_epoch=null",
                    f"trainer.val_check_interval={options.steps}",
                    "trainer.log_every_n_steps=5",
                    "+trainer.enable_progress_bar=false",
                    "export=last",
                    f"seed={options.seed}",
                    *([f"model.head={options.head}"] if options.head else []),
                    *METHODS[method],
                    *LOSSES[loss],
                    *options.overrides,
                ]
                folder = options.work / "runs" / name
                summary = train(folder, overrides)
                head = "phonon" if method == "multihead" else options.head
                model = pft.load_model(
                    folder / summary["model"], dtype="float64", head=head
                )
                line = {
                    "name": name,
                    "frequency_mae_thz": {
                        "before": before,
                        "after": frequency_mae(model, references),
                    },
                    "device": "cuda" if torch.cuda.is_available() else "cpu",
                    **summary,
                }
                with results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                after = line["frequency_mae_thz"]["after"]
                print(f"{name}: {before:.3f} -> {after:.3f} THz", flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", choices=["few", "many"])
    parser.add_argument("materials", nargs="*", help="NAME=PHONOPY_YAML, for few")
    for name in ("base", "upstream-val", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("replay", "phonons-train", "phonons-val", "upstream-train"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--head", help="of the base model")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--losses", nargs="+", default=list(LOSSES))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overrides", nargs="*", default=[])
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if options.smoke:
        options.sizes, options.steps = options.sizes[:1], 1
        options.methods = options.methods[:2]
        options.losses = ["efs+hessian"]
    run(options)


if __name__ == "__main__":
    main()
