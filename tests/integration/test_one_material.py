"""``experiment=one_material``: a phonon calculation, a base model, and no frames."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
from commands import own_cache, run_command

from pft_lightning import Calculator, load_model
from pft_lightning.errors import PFTError
from pft_lightning.runs.replay import TRAIN, VAL
from pft_lightning.runs.train import train as train_here
from tests.conftest import true_potential


def train(world, folder: Path, environment, *overrides: str, steps: int):
    (phonons, *_) = sorted(world.phonons_train.glob("*.yaml"))
    result = run_command(
        "pft-train",
        "experiment=one_material",
        f"model.checkpoint={world.base}",
        f"data.phonons.train={phonons}",
        "optimizer.lr=5e-3",  # of a network of a few numbers
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={steps // 2}",
        "replay.n_frames=10",
        "+trainer.enable_progress_bar=false",
        "hydra.run.dir=run",
        *overrides,
        cwd=folder,
        environment=environment,
    )
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """Folder of a finished run, environment, and what the run printed."""
    folder = tmp_path_factory.mktemp("one_material")
    environment = own_cache(folder / "cache")
    result = train(world, folder, environment, steps=40)
    return folder, environment, (result.stdout + result.stderr).splitlines()


def read_summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_the_crystal_gets_better_and_the_next_command_shows_what_was_forgotten(
    finished,
):
    folder, environment, output = finished
    summary = read_summary(folder / "run")
    assert summary["counts"] == {
        "phonon_train": 1, "upstream_train": 8, "phonon_val": 1, "upstream_val": 2,
    }  # fmt: skip
    errors = summary["phonon/hvp_mae"]
    assert errors["after"] < 0.5 * errors["before"]
    forgotten = summary["upstream/forces_mae"]
    # The frames hold the base model's own labels; the run computes in float32.
    assert forgotten["before"] < 1e-5
    assert forgotten["after"] > 1e-4

    line = next(text for text in output if text.strip().startswith("pft-evaluate"))
    evaluation = run_command(
        *shlex.split(line), "hydra.run.dir=seen", cwd=folder, environment=environment
    )
    assert evaluation.returncode == 0, evaluation.stderr
    assert (folder / "seen" / "report.html").is_file()
    seen = json.loads((folder / "seen" / "metrics.json").read_text())["forgetting"]
    # In float64, as the labels; positions of the file are rounded at 5e-9 Å, times the
    # 100 eV/Å² of a bond that is strained.
    assert seen["base"]["forces_mae"] < 1e-6
    assert seen["model"]["forces_mae"] == pytest.approx(forgotten["after"], abs=1e-5)


def test_labels_are_those_of_the_base_model(world, finished):
    folder, *_ = finished
    model = load_model(world.base)
    for name in (TRAIN, VAL):
        for frame in ase.io.read(folder / "run" / name, ":"):
            energy, forces = frame.get_potential_energy(), frame.get_forces()
            frame.calc = Calculator(model)
            # Each of 24 coordinates is rounded at 5e-9 Å in the file; forces reach
            # 20 eV/Å, and stiffnesses 100 eV/Å².
            assert energy == pytest.approx(frame.get_potential_energy(), abs=3e-6)
            assert np.allclose(forces, frame.get_forces(), rtol=0, atol=5e-6)


def test_a_run_that_goes_on_keeps_its_frames(world, finished, tmp_path):
    folder, environment, _ = finished
    shutil.copytree(folder / "run", tmp_path / "run")
    files = [tmp_path / "run" / name for name in (TRAIN, VAL)]
    written = [path.stat().st_mtime_ns for path in files]
    train(world, tmp_path, environment, "resume=true", steps=42)
    assert read_summary(tmp_path / "run")["steps"] == 42
    assert [path.stat().st_mtime_ns for path in files] == written


def test_a_run_that_failed_leaves_nothing_to_the_next(compose, tmp_path):
    options = ("replay.n_frames=5", "data.phonons.val=/nowhere")
    failing = compose(tmp_path / "run", *options)
    with pytest.raises(PFTError, match="/nowhere"):
        train_here(failing)
    assert (tmp_path / "run" / TRAIN).is_file()
    other = true_potential()
    other.save(tmp_path / "other.pair")
    config = compose(
        tmp_path / "run",
        f"model.checkpoint={tmp_path / 'other.pair'}",
        "replay.n_frames=10",
        "trainer.max_steps=1",
    )
    train_here(config)
    frames = [
        frame
        for name in (TRAIN, VAL)
        for frame in ase.io.read(tmp_path / "run" / name, ":")
    ]
    assert len(frames) == 10
    for frame in frames:
        energy = frame.get_potential_energy()
        frame.calc = Calculator(other)
        assert energy == pytest.approx(frame.get_potential_energy(), abs=3e-6)
    recorded = json.loads((tmp_path / "run" / "base_model.json").read_text())
    assert recorded["file"] == "other.pair"


def test_frames_join_those_that_are_given(world, finished, tmp_path):
    _, environment, _ = finished
    given = [world.upstream_train, world.upstream_val]
    overrides = [
        f"data.upstream.{name}={path}"
        for name, path in zip(("train", "val"), given, strict=True)
    ]
    train(world, tmp_path, environment, *overrides, steps=2)
    counts = read_summary(tmp_path / "run")["counts"]
    n_given = [len(ase.io.read(path, ":")) for path in given]
    assert counts["upstream_train"] == n_given[0] + 8
    assert counts["upstream_val"] == n_given[1]


def test_a_network_of_a_framework_is_trained_the_same_way(
    backend_base, world, tmp_path
):
    checkpoint = f"model.checkpoint={backend_base}"
    train(world, tmp_path, own_cache(tmp_path / "cache"), checkpoint, steps=2)
    summary = read_summary(tmp_path / "run")
    assert summary["counts"]["upstream_train"] == 8
    # float32 of labels of float64, and of a network that drew its weights.
    assert summary["upstream/forces_mae"]["before"] < 1e-4
    assert (tmp_path / "run" / summary["model"]).is_file()
