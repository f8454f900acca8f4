from __future__ import annotations

import csv
import json
from glob import glob

import pytest
from commands import Command

from pft_lightning.runs.train import train


# No key in the environment, none in a file, and nobody to ask.
NO_ACCOUNT = {"WANDB_API_KEY": "", "NETRC": "none", "WANDB_SILENT": "true"}


def test_csv_holds_losses_by_source_rate_and_throughput(compose, tmp_path):
    train(compose(tmp_path, "logger=csv", "trainer.max_steps=40"))
    with (tmp_path / "logs" / "metrics.csv").open() as file:
        columns = set(csv.DictReader(file).fieldnames or [])
    assert {
        "train/phonon_hvp",
        "train/phonon_forces",
        "train/upstream_energy",
        "train/upstream_forces",
        "train/upstream_stress",
        "train/device/samples_per_sec",
        "phonon/hvp_mae",
        "upstream/forces_mae",
    } <= columns
    assert any(column.startswith("lr-AdamW") for column in columns)


def test_a_resumed_run_keeps_the_log_of_its_first_part(compose, tmp_path):
    train(compose(tmp_path, "logger=csv", "trainer.max_steps=20"))
    first = (tmp_path / "logs" / "metrics.csv").read_bytes()
    train(compose(tmp_path, "logger=csv", "trainer.max_steps=40", "resume=true"))
    assert (tmp_path / "logs" / "metrics.csv").read_bytes() == first
    assert (tmp_path / "logs-1" / "metrics.csv").stat().st_size > 0


def test_wandb_works_offline_and_gets_the_final_table(pft_train, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    process = pft_train(
        tmp_path,
        "logger=wandb",
        "logger.offline=true",
        "trainer.log_every_n_steps=1",
    )
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    runs = glob(str(tmp_path / "wandb" / "offline-run-*" / "run-*.wandb"))
    assert len(runs) == 1
    with open(runs[0], "rb") as file:
        content = file.read()
    for text in (b"summary/before_after", b"train/phonon_hvp", b"upstream_per_phonon"):
        assert text in content, text


def test_an_evaluation_sends_its_means_its_materials_and_its_report(
    world, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    command = Command(
        "pft-evaluate",
        f"model.checkpoint={world.base}",
        f"phonons={world.phonons_val}",
        f"upstream={world.upstream_val}",
        "protocol.mesh=[4,4,4]",
        "protocol.band_points=5",
        "accelerator=cpu",
        "logger=wandb",
        "logger.offline=true",
        f"hydra.run.dir={tmp_path}",
        merged=True,
    )
    output, _ = command.communicate(timeout=300)
    assert command.returncode == 0, output
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (log,) = run.glob("run-*.wandb")
    content = log.read_bytes()
    means = json.loads((tmp_path / "metrics.json").read_text())["models"]["model"]
    assert means["force_constants_mae"]["n"] == 1
    texts = ("model/force_constants_mae/mean", "forgetting/model/forces_mae")
    for text in (*texts, "materials", "max_atoms"):
        assert text.encode() in content, text
    sent = run / "files" / "report.html"
    assert sent.read_bytes() == (tmp_path / "report.html").read_bytes()


@pytest.mark.parametrize("command", ["pft-train", "pft-evaluate"])
def test_without_an_account_nothing_begins(world, tmp_path, command):
    phonons = "data.phonons.train" if command == "pft-train" else "phonons"
    process = Command(
        command,
        f"model.checkpoint={world.base}",
        f"{phonons}={world.phonons_val}",
        "logger=wandb",
        f"hydra.run.dir={tmp_path / 'run'}",
        environment={"WANDB_MODE": "online", "HOME": str(tmp_path), **NO_ACCOUNT},
        merged=True,
    )
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2, output
    assert "logger.offline=true" in output
    assert "Traceback" not in output
