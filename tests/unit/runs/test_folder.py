from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from pft_lightning.errors import PFTError, StorageError
from pft_lightning.runs.folder import RunFolder


@pytest.fixture
def config(tmp_path: Path):
    (tmp_path / "base.pair").write_bytes(b"weights")
    return OmegaConf.create(
        {
            "model": {
                "checkpoint": str(tmp_path / "base.pair"),
                "backend": "pair",
                "head": None,
            },
            "adaptation": {"_target_": "LoRA", "rank": 4},
            "loss": {"kind": "mae"},
            "data": {"seed": 0},
            "trainer": {"max_steps": 1},
            "optimizer": {"_target_": "AdamW", "lr": 1e-3},
            "scheduler": {"_target_": "ReduceLROnPlateau", "patience": 3},
        }
    )


@pytest.fixture
def folder(config, tmp_path: Path) -> RunFolder:
    """Of a run that was killed after a checkpoint."""
    folder = RunFolder(tmp_path / "run")
    folder.write_start(config)
    folder.before.write_text('{"phonon/hvp_mae": null}')
    folder.summary.write_text("{}")
    folder.checkpoints.mkdir()
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step")
    torch.save(dict.fromkeys(parts, 0), folder.last_checkpoint)
    return folder


HOLD = """
import os, sys, time
from pathlib import Path
from pft_lightning.locks import locked
with locked(Path(sys.argv[1]) / "run.lock", busy="busy"):
    if os.fork() == 0:  # a worker of a loader, which outlives the process for a while
        print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_for_one_process_until_that_ends(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        message = r"another process works in this folder now.*hydra\.run\.dir"
        with pytest.raises(StorageError, match=message), RunFolder(tmp_path).locked():
            pass
        process.kill()
        process.wait()
        with RunFolder(tmp_path).locked():
            pass
        os.killpg(process.pid, 9)
        process.stdout.close()


def test_other_ranks_of_a_run_share_the_lock_of_the_first(tmp_path, monkeypatch):
    with RunFolder(tmp_path).locked():
        with pytest.raises(StorageError), RunFolder(tmp_path).locked():
            pass
        monkeypatch.setenv("LOCAL_RANK", "1")
        with RunFolder(tmp_path).locked():
            pass


@pytest.mark.parametrize("below", ["", "run"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / below
    with pytest.raises(StorageError, match=f"{path}: cannot be written.*folder"):
        RunFolder(path).locked().__enter__()


def test_a_sound_run_can_be_resumed(folder: RunFolder, config) -> None:
    stale = folder.checkpoints / "last.ckpt.partial"
    stale.write_bytes(b"half")
    folder.check_resumable(config)
    assert not stale.exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("adaptation", {"_target_": "LoRA", "rank": 8}, "adaptation is.*8.*rank': 4"),
        ("adaptation", None, "adaptation is None.*started with"),
        ("model.head", "b", "model.head is 'b'.*None"),
        ("optimizer._target_", "SGD", "SGD.*AdamW"),
        ("optimizer.lr", 1e-6, "optimizer.lr is 1e-06, but .* with 0.001"),
        ("optimizer.amsgrad", True, "optimizer.amsgrad is True, but .* with None"),
        ("scheduler.patience", 5, "scheduler.patience is 5, but .* with 3"),
        ("scheduler", None, "scheduler._target_ is None, but .*ReduceLROnPlateau"),
        ("replay.n_frames", 40, "replay.n_frames is 40, but .* with 0"),
    ],
)
def test_a_run_is_not_resumed_as_another_one(folder, config, name, value, message):
    OmegaConf.update(config, name, value, merge=False)
    with pytest.raises(PFTError, match=message):
        folder.check_resumable(config)


def test_what_a_resumed_run_obeys_can_be_changed(folder, config) -> None:
    for name in ("trainer.max_steps", "trainer.devices", "loss.kind", "logger"):
        OmegaConf.update(config, name, 2)
    folder.check_resumable(config)


def test_a_run_without_a_checkpoint_begins_anew_as_it_is_told(folder, config) -> None:
    """As where it diverged before the first one: a lower rate has to be possible."""
    folder.last_checkpoint.unlink()
    OmegaConf.update(config, "optimizer.lr", 1e-6)
    folder.check_resumable(config)
    assert folder.started_rate() is None


def test_without_resume_the_base_model_is_the_one_of_now(folder, config, tmp_path):
    started = folder.base_model.read_bytes()
    (tmp_path / "base.pair").write_bytes(b"other weights")
    folder.write_start(OmegaConf.merge(config, {"resume": True}))
    assert folder.base_model.read_bytes() == started
    folder.write_start(config)
    assert folder.base_model.read_bytes() != started


def test_a_run_is_not_resumed_from_another_base_model(folder, config, tmp_path):
    (tmp_path / "base.pair").write_bytes(b"other weights")
    with pytest.raises(PFTError, match=r"base\.pair: is not the file.*SHA-256"):
        folder.check_resumable(config)


@pytest.mark.parametrize(
    "name",
    ["before.json", "summary.json", "base_model.json", "config.yaml", "last.ckpt"],
)
@pytest.mark.parametrize("content", [b"", b"[1", b"\xff\xfe\x00", b"3"])
def test_damaged_files_of_a_run_are_named(folder, config, name, content) -> None:
    (path,) = folder.path.rglob(name)
    path.write_bytes(content)
    with pytest.raises(PFTError) as caught:
        folder.check_resumable(config)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("before.json", b'{"phonon/hvp_mae": NaN}'),
        ("before.json", b'{"phonon/hvp_mae": "low"}'),
        ("before.json", b"{}"),
        ("base_model.json", b'{"file": "base.pair"}'),
        ("base_model.json", b'{"sha256": 5}'),
    ],
)
def test_values_that_no_run_writes_are_named(folder, config, name, content) -> None:
    (folder.path / name).write_bytes(content)
    with pytest.raises(PFTError, match=rf"{name}: .*(Delete it|Start another run)"):
        folder.check_resumable(config)


def test_the_best_checkpoint_is_the_way_out_of_a_damaged_last_one(folder, config):
    folder.last_checkpoint.rename(folder.best_checkpoint)
    folder.last_checkpoint.write_bytes(b"")
    message = f"cp {folder.best_checkpoint} {folder.last_checkpoint}"
    with pytest.raises(PFTError, match=message):
        folder.check_resumable(config)
