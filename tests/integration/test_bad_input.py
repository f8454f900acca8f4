"""What a user sees who gives something that cannot work: file, value, remedy."""

from __future__ import annotations

import lzma
import shutil
import subprocess

import ase.io
import lightning
import pytest
from commands import run_command

import pft_lightning as pft
from pft_lightning.data.store import PhononStore
from pft_lightning.errors import CheckpointError, ConfigError, DataFormatError
from pft_lightning.runs.train import train


def prepare(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command("pft-prepare", *arguments)


def test_prepare_builds_a_store_and_names_what_it_skips(world, tmp_path):
    folder = tmp_path / "phonons"
    shutil.copytree(world.phonons_train, folder)
    packed = lzma.compress((folder / "Si.yaml").read_bytes())
    (folder / "truncated.yaml.xz").write_bytes(packed[: len(packed) // 2])
    store = tmp_path / "train.store"
    result = prepare(f"phonons={folder}", f"out={store}", "cutoff=4.5")
    assert result.returncode == 0, result.stderr
    assert "4 structures" in result.stdout
    assert "1 skipped" in result.stdout
    assert "truncated.yaml.xz" in result.stdout
    assert len(PhononStore(store)) == 4


@pytest.mark.parametrize("content", [None, b"not yaml: ["])
def test_prepare_fails_where_nothing_can_be_read(tmp_path, content):
    folder = tmp_path / "phonons"
    folder.mkdir()
    if content is not None:
        (folder / "broken.yaml").write_bytes(content)
    result = prepare(f"phonons={folder}", f"out={tmp_path / 'a.store'}")
    assert result.returncode == 2
    assert str(folder) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_store_with_shorter_graphs_than_the_cutoff_is_refused(
    compose, world, tmp_path
):
    store = tmp_path / "short.store"
    assert prepare(
        f"phonons={world.phonons_train}", f"out={store}", "cutoff=3.0"
    ).returncode == 0  # fmt: skip
    with pytest.raises(DataFormatError, match=r"3 Å.*cutoff is 4 Å.*pft-prepare"):
        train(compose(tmp_path / "run", f"data.phonons.train={store}"))


def test_the_command_line_reports_one_message_and_no_traceback(pft_train, tmp_path):
    process = pft_train(tmp_path / "run", "data.phonons.train=/nowhere/at/all")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "error: /nowhere/at/all: no such file or folder" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"PK\x03\x04 cut short", r"."),
        (b"just some text", r"."),
    ],
)
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "model.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        pft.load_model(path)
    assert str(path) in str(caught.value)


def test_a_model_of_another_framework_is_refused_by_name(world):
    with pytest.raises(CheckpointError, match="pair"):
        pft.load_model(world.base, backend="mace")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: pft.read_phonopy(5), "path is 5"),
        (lambda model: pft.evaluate_phonons(model, None), "expected a path"),
        (lambda model: pft.evaluate_phonons(model, [5]), "data: 5; expected a path"),
        (lambda model: pft.PhononFineTuning("model.pt"), "model is a str"),
        (lambda model: pft.PhononDataModule("train"), r"expected pft\.PhononSource"),
    ],
)
def test_a_wrong_argument_in_python_is_named(world, call, message):
    with pytest.raises(ConfigError, match=message):
        call(pft.load_model(world.base))


def test_a_device_that_holds_no_numbers_is_refused(world):
    with pytest.raises(ConfigError, match=r"meta.*not available"):
        pft.load_model(world.base, device="meta")


def test_upstream_frames_without_stress_train_and_say_so(compose, world, tmp_path):
    frames = ase.io.read(world.upstream_train, ":")
    for frame in frames:
        del frame.calc.results["stress"]
    ase.io.write(tmp_path / "no_stress.xyz", frames, format="extxyz")
    config = compose(
        tmp_path / "run", f"data.upstream.train={tmp_path / 'no_stress.xyz'}"
    )
    with pytest.warns(UserWarning, match="stress: 0 of 13 frames"):
        summary = train(config)
    assert summary["upstream/stress_mae"]["after"] >= 0


def test_an_upstream_file_with_unknown_keys_lists_what_it_has(compose, world, tmp_path):
    config = compose(tmp_path, "data.upstream.energy_key=dft_total")
    with pytest.raises(DataFormatError, match="dft_total"):
        train(config)


def test_a_trainer_left_in_inference_mode_is_refused_before_the_first_step(world):
    module = pft.PhononFineTuning(pft.load_model(world.base))
    data = pft.PhononDataModule(
        pft.PhononSource(world.phonons_train, world.phonons_val),
        cache_dir=world.base.parent / "cache",
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        callbacks=[pft.HessianLoss()],
    )
    with pytest.raises(ConfigError, match="inference_mode=False"):
        trainer.fit(module, data)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.mode=random"], "random"),
        (["data.phonons.batch_size=0"], r"batch_size=0; .*at least 1"),
        (["probe.n_probes=0"], r"n_probes=0; .*from 1"),
        (["loss.reduction=sum"], "sum"),
        (["loss.hvp_schedule=linear"], "warmup_steps"),
        (["export=newest"], "newest"),
        (["data.val_fraction=2"], "val_fraction"),
        (["+trainer.precision=bf16-mixed"], "bf16-mixed.*32-true"),
        (
            ["loss.phonon.forces=0", "loss.phonon.stress=0", "loss.phonon.hvp=0"],
            "no loss at all",
        ),
    ],
)
def test_an_option_that_makes_no_sense_is_named(compose, tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        train(compose(tmp_path, *overrides))
