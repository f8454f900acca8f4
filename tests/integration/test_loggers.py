from __future__ import annotations

import csv
from glob import glob

from pft_lightning.runs.train import train


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
