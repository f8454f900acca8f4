from __future__ import annotations

import csv
import json
import math
import signal
from glob import glob
from types import SimpleNamespace

import lightning
import pytest
import torch

import pft_lightning as pft
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.errors import ConfigError
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.runs.train import train


MONITOR = "phonon/mesh_frequency_mae"
MATERIALS = ("LiF", "MgO", "NaCl")
# The tiny world has one material for validation, too few to share.
ON = (
    "callbacks=phonon_validation",
    "callbacks.phonon_validation.phonons=${data.phonons.train}",
    f"callbacks.phonon_validation.names=[{','.join(MATERIALS)}]",
    "callbacks.phonon_validation.mesh=12",
)
EVERY_FOUR_STEPS = (
    "trainer.check_val_every_n_epoch=null",
    "trainer.val_check_interval=4",
    "optimizer.lr=1e-2",
)


def finish(process) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def summary_of(run) -> dict:
    return json.loads((run / "summary.json").read_text())


def weights(run) -> dict[str, torch.Tensor]:
    (result,) = run.glob("model.*")
    return pft.load_model(result).state_dict()


def logged(run) -> list[tuple[str, str]]:
    """Step and value of what the log of a run says of the monitored metric."""
    with (run / "logs" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [(row["step"], row[MONITOR]) for row in rows if row.get(MONITOR)]


def check_same_bits(one, other) -> None:
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A training of eight steps with three evaluations, before, within and after."""
    from hydra import compose, initialize_config_module

    from .conftest import arguments

    folder = tmp_path_factory.mktemp("phonon_validation") / "run"
    overrides = (*ON, *EVERY_FOUR_STEPS, "logger=csv", "export=last")
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = compose("train", overrides=arguments(world, folder, *overrides))
    train(config)
    return folder


def test_the_numbers_are_those_of_an_evaluation_of_the_exported_model(run, world):
    (model,) = run.glob("model.*")
    found = pft.evaluate_phonons(
        pft.load_model(model),
        [world.phonons_train / f"{name}.yaml" for name in MATERIALS],
        protocol=Protocol(mesh=12.0, band_points=0),
        progress=False,
    )
    expected, summary = found.summary["models"]["model"], summary_of(run)
    for name in ("force_constants_mae", "mesh_frequency_mae", "entropy_error"):
        after = summary[f"phonon/{name}"]["after"]
        # The same weights in float64; the references were symmetrised once more.
        assert after == pytest.approx(expected[name]["mean"], rel=1e-9), name
        assert after < summary[f"phonon/{name}"]["before"], name


def test_every_validation_is_in_the_log(run):
    # Before training, after four steps, after eight and of the exported weights.
    assert len(logged(run)) == 4


def test_training_ends_with_the_same_bits_as_without(compose, run, tmp_path):
    train(compose(tmp_path, *EVERY_FOUR_STEPS, "export=last"))
    check_same_bits(run, tmp_path)


def test_training_in_single_precision_ends_with_the_same_bits_as_without(
    compose, tmp_path
):
    common = (*EVERY_FOUR_STEPS, "model.dtype=float32", "trainer.max_steps=5")
    train(compose(tmp_path / "on", *common, *ON))
    train(compose(tmp_path / "off", *common))
    assert MONITOR in summary_of(tmp_path / "on")
    check_same_bits(tmp_path / "on", tmp_path / "off")


def test_the_moving_average_is_evaluated_whatever_the_order_of_callbacks(
    compose, run, tmp_path
):
    train(
        compose(
            tmp_path,
            *(*ON, *EVERY_FOUR_STEPS, "logger=csv", "export=last"),
            "callbacks.ema=null",
            "+callbacks.later._target_=pft_lightning.callbacks.RampedEMA",
        )
    )
    assert logged(tmp_path) == logged(run)


def test_between_two_evaluations_monitors_keep_the_last_value(compose, tmp_path):
    train(
        compose(
            tmp_path,
            *(*ON, *EVERY_FOUR_STEPS, "logger=csv", "trainer.max_steps=12"),
            "callbacks.phonon_validation.every_n_validations=2",
            f"callbacks.best.monitor={MONITOR}",
            "+callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStopping",
            f"+callbacks.stop.monitor={MONITOR}",
        )
    )
    steps = [step for step, _ in logged(tmp_path)]
    # At the first and third of three validations, and of the weights at both ends.
    assert steps[1:3] == ["3", "11"]
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    (stop,) = (s for name, s in state["callbacks"].items() if "EarlyStopping" in name)
    # The last validation comes after the last checkpoint.
    assert stop["wait_count"] == 1
    assert float(stop["best_score"]) == pytest.approx(float(logged(tmp_path)[1][1]))


def test_two_processes_log_the_numbers_of_one(pft_train, tmp_path):
    common = (*ON, "trainer.max_steps=2", "export=last")
    finish(pft_train(tmp_path / "one", *common, "data.phonons.batch_size=4"))
    two = ("trainer.devices=2", "trainer.strategy=ddp")
    finish(pft_train(tmp_path / "two", *common, *two))
    expected, found = (summary_of(tmp_path / name) for name in ("one", "two"))
    names = [name for name in expected if name.startswith("phonon/")]
    assert MONITOR in names
    for name in names:
        # Whoever computes a material, the arithmetic is the same.
        assert found[name]["before"] == expected[name]["before"], name


def test_a_run_killed_in_a_validation_ends_with_the_same_bits(pft_train, tmp_path):
    """Also where the best checkpoint and the schedule hang on the metrics."""
    schedule = (
        *(*ON, *EVERY_FOUR_STEPS, "trainer.max_steps=24", "export=best"),
        "callbacks.phonon_validation.every_n_validations=2",
        "callbacks.last.every_n_steps=3",
        f"callbacks.best.monitor={MONITOR}",
        "scheduler=plateau",
        "scheduler.patience=0",
    )
    finish(pft_train(tmp_path / "whole", *schedule))
    killer = (
        "trust_config=true",
        "+callbacks.killer._target_=pft_test_plugins.KillInValidation",
        "+callbacks.killer.step=16",
    )
    process = pft_train(tmp_path / "killed", *schedule, *killer)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    finish(pft_train(tmp_path / "killed", *schedule, "resume=true"))
    check_same_bits(tmp_path / "whole", tmp_path / "killed")
    best = [
        torch.load(tmp_path / name / "checkpoints" / "best.ckpt", weights_only=True)
        for name in ("whole", "killed")
    ]
    assert best[0]["global_step"] == best[1]["global_step"]


def test_wandb_gets_the_table_and_the_band_structures(pft_train, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    finish(
        pft_train(
            tmp_path,
            *(*ON, "logger=wandb", "logger.offline=true", "trainer.max_steps=1"),
            "callbacks.phonon_validation.n_figures=2",
        )
    )
    (file,) = glob(str(tmp_path / "wandb" / "offline-run-*" / "run-*.wandb"))
    with open(file, "rb") as stream:
        content = stream.read()
    for text in (b"phonon/materials", b"phonon/bands", b"phonon/heat_capacity_error"):
        assert text in content, text
    media = tmp_path.glob("wandb/offline-run-*/files/media/images/phonon/bands_*.png")
    # Two materials, before the training and after it.
    assert len(list(media)) == 4


@pytest.fixture
def module(world) -> pft.PhononFineTuning:
    return pft.PhononFineTuning(pft.load_model(world.base))


def test_a_diverged_potential_has_no_numbers(world, module, tmp_path):
    with torch.no_grad():
        module.model.depth.fill_(math.nan)
    trainer = lightning.Trainer(
        callbacks=[pft.PhononValidation(world.phonons_train, n=1, mesh=4)],
        inference_mode=False,
        use_distributed_sampler=False,
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
    )
    source = pft.PhononSource(train=world.phonons_train, val=world.phonons_val)
    data = pft.PhononDataModule(
        source,
        cutoff=module.model.cutoff,
        atomic_numbers=module.model.atomic_numbers,
        cache_dir=tmp_path,
    )
    with pytest.warns(UserWarning, match="LiCl|LiF.*failed"):
        trainer.validate(module, data, verbose=False)
    others = ("entropy_error", "instability_error", "imaginary_missed")
    for name in (MONITOR, *(f"phonon/{other}" for other in others)):
        assert math.isnan(trainer.callback_metrics[name]), name


def test_materials_that_cannot_be_compared_are_named_and_left_out(world, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("phonopy: {}\n")
    model = SimpleNamespace(atomic_numbers=(3, 9, 11, 17))
    module = pft.PhononFineTuning(pft.load_model(world.base))
    module.model.atomic_numbers = model.atomic_numbers
    files = [world.phonons_train / "LiF.yaml", world.phonons_train / "MgO.yaml", broken]
    callback = pft.PhononValidation(files, options=PhononReadOptions())
    with pytest.warns(UserWarning, match=r"2 of 3.*Mg, O|2 of 3.*O, Mg.*broken"):
        callback.setup(None, module, "fit")
    with pytest.raises(ConfigError, match="none of 1 materials"):
        pft.PhononValidation(broken).setup(None, module, "fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phonons": None}, "data.phonons.val"),
        ({"n": 0}, "n=0; at least 1"),
        ({"every_n_validations": 0}, "every_n_validations=0"),
        ({"protocol": "paper"}, "dft_cell"),
        ({"names": ["KCl"]}, "'KCl'.*LiF"),
    ],
)
def test_options_that_make_no_sense_are_named(world, module, options, message):
    with pytest.raises(ConfigError, match=message):
        pft.PhononValidation(**{"phonons": world.phonons_train, **options}).setup(
            None, module, "fit"
        )


def test_another_module_is_refused(world):
    callback = pft.PhononValidation(world.phonons_train)
    with pytest.raises(ConfigError, match="LightningModule"):
        callback.setup(None, lightning.LightningModule(), "fit")


def test_materials_are_spread_over_the_list(world, module):
    callback = pft.PhononValidation(world.phonons_train, n=2)
    callback.setup(None, module, "fit")
    # Of LiF, MgO, NaCl, Si.
    assert list(callback._references) == ["LiF", "NaCl"]
