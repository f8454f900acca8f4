"""``pft-train mace_config=run.yaml``: what mace_run_train does, with phonons."""

from __future__ import annotations

import json
import warnings
from importlib import resources
from pathlib import Path

import ase.io
import pytest
import torch
from ase import Atoms
from hydra import compose, initialize_config_module
from mace_runs import (
    E0S,
    OPTIONS,
    common,
    logged,
    run_mace,
    run_pft,
    with_phonons,
)
from omegaconf import OmegaConf

from pft_lightning import keys, load_model
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.runs.export import export


pytest.importorskip("mace", reason="mace is not installed here")

from pft_lightning.integrations.mace.run import MACERun


VARIANTS = {
    "average and stage two": {
        "loss": "stress",
        "forces_weight": 10.0,
        "lr": 0.1,
        "weight_decay": 1e-3,
        "lr_params_factors": '{"embedding_lr_factor": 0.5, "products_lr_factor": 2.0}',
        "ema": True,
        "ema_decay": 0.9,
        "clip_grad": 5.0,
        "swa": True,
        "start_swa": 5,
        "swa_energy_weight": 50.0,
    },
    "split, weights, isolated atoms, seldom validations": {
        "train_file": "WEIGHTED",
        "energy_key": "REF_energy",
        "forces_key": "REF_forces",
        "stress_key": "REF_stress",
        "E0s": "",  # those of the isolated atoms
        "model": "MACE",
        "loss": "weighted",
        "valid_file": "",
        "valid_fraction": 0.35,
        "config_type_weights": '{"Default": 0.5}',
        "optimizer": "adamw",
        "scheduler": "ExponentialLR",
        "lr_scheduler_gamma": 0.8,
        "eval_interval": 2,
        "max_num_epochs": 10,
        "clip_grad": None,
    },
    "plateau, and patience starts stage two": {
        "loss": "universal",
        "lr": 0.5,
        "scheduler_patience": 0,
        "patience": 2,
        "max_num_epochs": 12,
        "start_swa": 9,
    },
    "patience between seldom validations": {
        "loss": "universal",
        "lr": 0.5,
        "patience": 2,
        "eval_interval": 2,
        "max_num_epochs": 12,
        "swa": True,
        "start_swa": 9,
    },
    "foundation model with replay": {
        "foundation_model": "FOUNDATION",
        "foundation_model_elements": True,
        "multiheads_finetuning": True,
        "pt_train_file": "REPLAY",
        "atomic_numbers": str(sorted(E0S)),
        "force_mh_ft_lr": True,
        "lr": 0.002,
        "max_num_epochs": 4,
        "weight_pt_head": 0.5,
        "freeze": 5,
        # Low enough to act: what MACE counts in the norm must be counted here.
        "clip_grad": 1e-3,
    },
}


def write_weighted(source: Path, path: Path) -> str:
    """Frames with weights as MACE reads them, and isolated atoms."""
    frames = []
    for i, atoms in enumerate(ase.io.read(source, ":")):
        frame = atoms.copy()
        frame.info["REF_energy"] = atoms.get_potential_energy()
        frame.info["REF_stress"] = atoms.get_stress(voigt=False)
        frame.arrays["REF_forces"] = atoms.get_forces()
        frame.info["config_weight"] = (1.0, 0.0, 2.5)[i % 3]
        frame.info["config_forces_weight"] = (1.0, 0.25)[i % 2]
        frame.info["config_energy_weight"] = (1.0, 1.0, 1.0, 0.0)[i % 4]
        frames.append(frame)
    for symbol, energy in E0S.items():
        atom = Atoms([symbol], [[0.0, 0.0, 0.0]], cell=[20.0] * 3)
        atom.info.update(REF_energy=energy, config_type="IsolatedAtom")
        frames.append(atom)
    ase.io.write(path, frames, format="extxyz")
    return str(path)


@pytest.mark.parametrize("name", VARIANTS)
def test_without_phonons_the_losses_are_those_of_mace_run_train(
    write_options, world, foundation, tmp_path, name
):
    files = {
        "FOUNDATION": str(foundation),
        "REPLAY": str(world.upstream_train),
        "WEIGHTED": write_weighted(world.upstream_train, tmp_path / "weighted.xyz"),
    }
    path = write_options(**{k: files.get(v, v) for k, v in VARIANTS[name].items()})
    steps, validations = run_mace(path, tmp_path / "mace")
    run_pft(world, path, tmp_path / "pft", "data.phonons.train=null")
    found = logged(tmp_path / "pft", "train/upstream_loss")
    # float64: the same operations, so that only the order of sums may differ. Steps of
    # a high rate enlarge that: by the 28th to 4e-10 on one kind of processor.
    assert len(found) >= 20
    assert found[:20] == pytest.approx(steps[:20], rel=1e-10)
    assert found == pytest.approx(steps, rel=1e-8)
    if "scheduler_patience" in VARIANTS[name]:
        assert 0.5 * 0.8 in logged(tmp_path / "pft", "lr-Adam/readouts")
    # What decides on schedule, patience and the best checkpoint; MACE, too, validates
    # once before the first step.
    losses = logged(tmp_path / "pft", "upstream/loss")
    assert losses[: len(validations)] == pytest.approx(validations, rel=1e-8)


def test_phonons_added_to_a_file_lower_the_curvature_error(
    write_options, world, tmp_path
):
    # The model of the example, which knows energies and forces, not curvatures.
    example = resources.files("pft_lightning") / "example"
    path = write_options(
        foundation_model=str(example / "base.model"),
        multiheads_finetuning=False,
        train_file=str(example / "upstream_val.xyz.xz"),
        valid_file=str(example / "upstream_val.xyz.xz"),
        E0s="foundation",
        loss="universal",
        forces_weight=10.0,
        lr=3e-3,
        max_num_epochs=4,
        default_dtype="float32",
    )
    summary = run_pft(
        world,
        path,
        tmp_path / "run",
        f"data.phonons.train={example}/phonons/train/Si.yaml.xz",
        f"data.phonons.val={example}/phonons/val/Si-1.015.yaml.xz",
        "data.phonons.options.relaxed=positions",
        "data.upstream_per_phonon=1",
        "engine=reverse_over_reverse",
    )
    # Thirteen frames make three batches, with one of phonons before each.
    assert summary["steps"] == 4 * 6
    assert summary["counts"] == {
        "phonon_train": 1, "phonon_val": 1, "upstream_train": 13, "upstream_val": 13
    }  # fmt: skip
    errors = summary["phonon/hvp_mae"]
    print(errors)
    assert errors["after"] < 0.9 * errors["before"]


# In mid-epoch, or at the end of an epoch, after a validation that decides on the
# learning rate; before stage two begins. Fine-tuning, with gradients that stay.
@pytest.mark.parametrize(
    ("stop", "fine_tunes"),
    [("trainer.max_steps=13", False), ("trainer.max_steps=15", True)],
)
def test_a_resumed_run_ends_with_the_same_bits(
    write_options, world, foundation, tmp_path, stop, fine_tunes
):
    changes = {"lr": 0.5, "scheduler_patience": 0, "ema_decay": 0.5}
    if fine_tunes:
        changes |= {
            "foundation_model": str(foundation),
            "multiheads_finetuning": False,
            "clip_grad": 1e-3,
        }
    path = write_options(**VARIANTS["average and stage two"] | changes)
    overrides = with_phonons(world, "export=last")
    run_pft(world, path, tmp_path / "whole", *overrides)
    run_pft(world, path, tmp_path / "parts", *overrides, stop)
    run_pft(world, path, tmp_path / "parts", *overrides, "resume=true")
    whole, parts = (
        load_model(tmp_path / run / "model.model").state_dict()
        for run in ("whole", "parts")
    )
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name

    # The checkpoints of such a run can be exported as those of any other, also where
    # its frames are gone: what they gave the network is kept.
    path.unlink()
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = compose(
            "export",
            overrides=[
                f"run={tmp_path / 'parts'}",
                "checkpoint=last",
                f"out={tmp_path / 'exported.model'}",
            ],
        )
    for name, value in export(config).state_dict().items():
        assert torch.equal(value, whole[name]), name
    card = (tmp_path / "exported.model.md").read_text()
    assert f"| {world.upstream_train.name} | {world.upstream_val.name} |" in card


def test_resuming_with_other_frames_is_refused(write_options, world, tmp_path):
    path = write_options()
    overrides = with_phonons(world, "trainer.max_steps=3")
    run_pft(world, path, tmp_path / "run", *overrides)
    frames = ase.io.read(world.upstream_train, ":")
    ase.io.write(tmp_path / "fewer.xyz", frames[1:], format="extxyz")
    path = write_options(train_file=str(tmp_path / "fewer.xyz"))
    with pytest.raises(ConfigError, match=r"changed since .* avg_num_neighbors"):
        run_pft(world, path, tmp_path / "run", *overrides, "resume=true")


def test_resuming_with_another_rate_is_refused(write_options, world, tmp_path):
    overrides = with_phonons(world, "trainer.max_steps=3")
    run_pft(world, write_options(lr=0.1), tmp_path / "run", *overrides)
    path = write_options(lr=0.5)
    with pytest.raises(CheckpointError, match=r"mace\.lr is 0\.5, but .* 0\.1"):
        run_pft(world, path, tmp_path / "run", *overrides, "resume=true")


def test_resuming_into_a_stage_two_that_was_not_there_is_refused(
    write_options, world, tmp_path
):
    path = write_options(swa=True, start_swa=3, max_num_epochs=5)
    overrides = with_phonons(world)
    run_pft(world, path, tmp_path / "run", *overrides, "trainer.max_epochs=2")
    with pytest.raises(ConfigError, match="start_swa is not below"):
        run_pft(world, path, tmp_path / "run", *overrides, "resume=true")


@pytest.mark.parametrize("adaptation", ["none", "lora"])
def test_an_adaptation_of_the_command_line_wins_over_freezing(
    write_options, world, tmp_path, adaptation
):
    path = write_options(freeze=5, max_num_epochs=1)
    run_pft(world, path, tmp_path, *with_phonons(world, f"adaptation={adaptation}"))
    trained = json.loads((tmp_path / "trainable.json").read_text())
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    moved = checkpoint["optimizer_states"][0]["state"]
    assert len(moved) == len(trained)
    assert any("interactions" in name for name in trained)


def test_the_run_records_the_options_that_mace_has_chosen(
    write_options, world, foundation, tmp_path
):
    path = write_options(
        foundation_model=str(foundation),
        foundation_model_elements=True,
        multiheads_finetuning=True,
        pt_train_file=str(world.upstream_train),
        atomic_numbers=str(sorted(E0S)),
        force_mh_ft_lr=True,
        lr=0.002,
        max_num_epochs=1,
        freeze=5,
    )
    with pytest.warns(UserWarning, match=r"MACE takes loss=universal in place of wei"):
        run_pft(world, path, tmp_path / "run", "data.phonons.train=null")
    recorded = OmegaConf.load(tmp_path / "run" / "config.yaml").mace
    assert recorded.loss == "universal"
    assert recorded.lr == 0.002
    assert recorded.freeze == 5
    with pytest.raises(ConfigError, match="takes loss=universal always"):
        run_pft(
            world,
            path,
            tmp_path / "other",
            "data.phonons.train=null",
            "+mace.loss=stress",
        )


def test_several_heads_need_one_to_be_chosen_for_phonons_only(
    write_options, world, tmp_path
):
    frames = {
        "train_file": str(world.upstream_train),
        "valid_file": str(world.upstream_val),
    }
    path = write_options(heads=str({"one": frames, "two": frames}), max_num_epochs=1)

    def build(*overrides: str):
        overrides = (*common(world, path, tmp_path), *overrides)
        with initialize_config_module("pft_lightning.conf", version_base="1.3"):
            config = compose("train", overrides=list(overrides))
        return MACERun(config, overrides, tmp_path).build_module()

    assert build("data.phonons.train=null").model.heads == ("one", "two")
    with pytest.raises(ConfigError, match=r"several heads, .*one.*two.*model.head="):
        build(f"data.phonons.train={world.phonons_train}")


def test_frames_that_a_foundation_model_finds_absurd_are_told_once(
    write_options, world, tmp_path
):
    base = str(resources.files("pft_lightning") / "example" / "base.model")
    frames = ase.io.read(world.upstream_val, ":4")
    for atoms in frames:  # all-electron energies
        atoms.calc.results["energy"] -= 7888.0 * len(atoms)
    ase.io.write(tmp_path / "frames.xyz", frames, format="extxyz")
    path = write_options(
        foundation_model=base,
        foundation_model_elements=True,
        multiheads_finetuning=False,
        E0s="foundation",
        train_file=str(tmp_path / "frames.xyz"),
        valid_file=str(tmp_path / "frames.xyz"),
        batch_size=2,
        valid_batch_size=2,
    )
    overrides = (*common(world, path, tmp_path), "data.phonons.train=null")
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = compose("train", overrides=list(overrides))
    run = MACERun(config, overrides, tmp_path)
    module = run.build_module()
    (loader,) = run.build_datamodule(module.model).val_dataloader()
    batch = next(iter(loader))[keys.UPSTREAM]
    output = module._predict(batch, training=False)
    for stage in ("training", "validation"):
        said = (
            rf"Upstream {stage} data against the base model, first 2 .*energy differ "
            r"by 78.*\+mace\.energy_weight=0"
        )
        with pytest.warns(UserWarning, match=said):
            module._judge_frames(batch, output, stage)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            module._judge_frames(batch, output, stage)


def test_the_command_line_wins_over_the_file(write_options, world, tmp_path):
    run_pft(
        world,
        write_options(lora=True, wandb=True),
        tmp_path,
        "data.phonons.train=null",
        "optimizer.lr=0.003",
        "seed=3",
        "trainer.max_epochs=1",
        "adaptation=none",
        "logger=csv",
        "+mace.valid_batch_size=5",
        "+mace.ema=true",
    )
    config = OmegaConf.load(tmp_path / "config.yaml")
    assert config.mace.lr == 0.003
    assert config.mace.seed == config.seed == 3
    assert config.mace.valid_batch_size == 5
    assert config.mace.batch_size == OPTIONS["batch_size"]
    assert config.callbacks.ema.decay == 0.99  # MACE's default
    assert logged(tmp_path, "lr-Adam/readouts") == [0.003] * 3
    trained = json.loads((tmp_path / "trainable.json").read_text())
    assert not any("parametrizations" in name for name in trained)
