"""``pft-train mace_config=run.yaml``: what mace_run_train does, with phonons."""

from __future__ import annotations

import csv
import json
import logging
from importlib import resources
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from pft_lightning import load_model
from pft_lightning.cli.train import train
from pft_lightning.errors import ConfigError, DataFormatError, PFTError


pytest.importorskip("mace", reason="mace is not installed here")

# Energies of free atoms, not far from those of the frames.
E0S = {3: -1.0, 8: -1.5, 9: -1.2, 11: -0.7, 12: -0.9, 14: -2.0, 17: -0.4}

# Thirteen frames in batches of four: three steps an epoch, one frame left out.
OPTIONS = {
    "name": "tiny",
    "seed": 7,
    "model": "ScaleShiftMACE",
    "energy_key": "energy",
    "forces_key": "forces",
    "stress_key": "stress",
    "E0s": str(E0S),
    "r_max": 4.0,
    "num_radial_basis": 4,
    "hidden_irreps": "4x0e + 4x1o",
    "max_ell": 2,
    "correlation": 2,
    "MLP_irreps": "4x0e",
    "radial_MLP": "[8]",
    "batch_size": 4,
    "valid_batch_size": 3,
    "max_num_epochs": 7,
    "lr": 0.01,
    "default_dtype": "float64",
}


# With these, MACE looks at no batch before it trains.
NO_STATISTICS = {
    "compute_avg_num_neighbors": False,
    "avg_num_neighbors": 10.0,
    "scaling": "no_scaling",
    "mean": 0.0,
    "std": 1.0,
}


@pytest.fixture
def write_options(world, tmp_path):
    """Write a file for mace_run_train."""

    def write(**options: object) -> Path:
        frames = {
            "train_file": str(world.upstream_train),
            "valid_file": str(world.upstream_val),
        }
        path = tmp_path / "run.yaml"
        content = {**OPTIONS, **frames, **options}
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v != ""}))
        return path

    return write


def run_mace(path: Path, folder: Path) -> tuple[list[float], list[float]]:
    """Losses of the steps and of the validations of mace_run_train."""
    from mace import tools
    from mace.cli import run_train

    parser = tools.build_default_arg_parser()
    arguments = ["--config", str(path), "--work_dir", str(folder), "--plot", "False"]
    root, dtype = logging.getLogger(), torch.get_default_dtype()
    handlers, level = list(root.handlers), root.level
    try:
        run_train.run(parser.parse_args(arguments))
    finally:
        torch.set_default_dtype(dtype)
        root.handlers[:] = handlers
        root.setLevel(level)
    (log,) = (folder / "results").glob("*_train.txt")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    last_head = [row["head"] for row in rows if row["mode"] == "eval"][-1]
    return (
        [row["loss"] for row in rows if row["mode"] == "opt"],
        # Of all heads, MACE looks at the last one.
        [row["loss"] for row in rows if row.get("head") == last_head],
    )


def run_pft(world, path: Path, folder: Path, *overrides: str) -> dict:
    """Summary of a training from the same file."""
    overrides = (
        f"mace_config={path}",
        f"data.cache_dir={world.base.parent / 'cache'}",
        "+trainer.enable_progress_bar=false",
        "trainer.log_every_n_steps=1",
        "callbacks.device_stats=null",
        f"paths.run={folder}",
        *overrides,
    )
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = compose("train", overrides=list(overrides))
    return train(config, overrides)


def logged(folder: Path, column: str) -> list[float]:
    with (folder / "logs" / "metrics.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


@pytest.fixture(scope="session")
def foundation(tmp_path_factory) -> Path:
    """Random network that knows one element more than the frames."""
    from models import build_mace

    path = tmp_path_factory.mktemp("foundation") / "foundation.model"
    torch.save(build_mace("scale_shift", atomic_numbers=(*sorted(E0S), 32)), path)
    return path


VARIANTS = {
    "average, plateau and stage two": {
        "loss": "stress",
        "forces_weight": 10.0,
        "lr": 0.1,
        "weight_decay": 1e-3,
        "lr_params_factors": '{"embedding_lr_factor": 0.5, "products_lr_factor": 2.0}',
        "scheduler_patience": 0,
        "ema": True,
        "ema_decay": 0.9,
        "clip_grad": 5.0,
        "swa": True,
        "start_swa": 5,
        "swa_energy_weight": 50.0,
    },
    "split, weights, seldom validations": {
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
    "patience starts stage two": {
        "loss": "universal",
        "lr": 0.5,
        "patience": 2,
        "max_num_epochs": 12,
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
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_without_phonons_the_losses_are_those_of_mace_run_train(
    write_options, world, foundation, tmp_path, name
):
    files = {"FOUNDATION": str(foundation), "REPLAY": str(world.upstream_train)}
    path = write_options(**{k: files.get(v, v) for k, v in VARIANTS[name].items()})
    steps, validations = run_mace(path, tmp_path / "mace")
    run_pft(world, path, tmp_path / "pft", "data.phonons.train=null")
    found = logged(tmp_path / "pft", "train/upstream_loss")
    # float64: the same operations, so that only the order of sums may differ.
    assert len(found) >= 20
    assert found == pytest.approx(steps, rel=1e-10)
    # What decides on schedule, patience and the best checkpoint; MACE, too, validates
    # once before the first step.
    losses = logged(tmp_path / "pft", "upstream/loss")
    assert losses[: len(validations)] == pytest.approx(validations, rel=1e-10)


PHONONS = (
    "data.phonons.batch_size=2",
    "data.upstream_per_phonon=2",
    "probe=irreducible",
    "engine=reverse_over_reverse",
)


def with_phonons(world, *overrides: str) -> tuple[str, ...]:
    return (
        f"data.phonons.train={world.phonons_train}",
        f"data.phonons.val={world.phonons_val}",
        *PHONONS,
        *overrides,
    )


@pytest.mark.parametrize("mode", ["alternate", "joint"])
def test_phonons_added_to_a_file_lower_the_curvature_error(
    write_options, world, tmp_path, mode
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
        f"data.mode={mode}",
        "engine=reverse_over_reverse",
    )
    # Thirteen frames make three batches.
    assert summary["steps"] == 4 * (3 if mode == "joint" else 6)
    assert summary["counts"] == {
        "phonon_train": 1, "phonon_val": 1, "upstream_train": 13, "upstream_val": 13
    }  # fmt: skip
    errors = summary["phonon/hvp_mae"]
    print(errors)
    assert errors["after"] < 0.9 * errors["before"]


def test_a_resumed_run_ends_with_the_same_bits(write_options, world, tmp_path):
    # It stops in mid-epoch, before the rate falls and stage two begins.
    path = write_options(**VARIANTS["average, plateau and stage two"])
    overrides = with_phonons(world, "export=last")
    run_pft(world, path, tmp_path / "whole", *overrides)
    run_pft(world, path, tmp_path / "parts", *overrides, "trainer.max_steps=13")
    run_pft(world, path, tmp_path / "parts", *overrides, "resume=true")
    whole, parts = (
        load_model(tmp_path / run / "model.model").state_dict()
        for run in ("whole", "parts")
    )
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


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


def test_lora_of_mace_trains_low_rank_differences_of_its_layers(
    write_options, foundation, world, tmp_path
):
    path = write_options(
        foundation_model=str(foundation),
        multiheads_finetuning=False,
        lora=True,
        lora_rank=1,
        max_num_epochs=1,
    )
    summary = run_pft(world, path, tmp_path, "data.phonons.train=null")
    trained = json.loads((tmp_path / "trainable.json").read_text())
    assert trained
    assert all("parametrizations" in name for name in trained)
    assert summary["upstream/loss"]["after"] != summary["upstream/loss"]["before"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.1}, r"no option 'learning_rate'"),
        ({"max_num_epoch": 3}, r"no option 'max_num_epoch'. Nearest: 'max_num_epochs'"),
        ({"batch_size": "many"}, r"invalid int value: 'many'"),
        ({"name": ""}, r"--name"),
        ({"lbfgs": True}, r"lbfgs=True: .*optimizer: adam"),
        ({"distributed": True}, r"distributed=True: .*trainer.devices"),
        ({"restart_latest": True}, r"restart_latest=True: .*resume=true"),
        ({"pseudolabel_replay": True}, r"pseudolabel_replay=True: .*pft-prepare"),
        ({"only_cueq": True}, r"only_cueq=True: .*no second derivatives"),
        ({"device": "xpu"}, r"device=xpu: use cpu"),
        ({"model": "PolarMACE"}, r"model=PolarMACE: "),
        ({"loss": "dipole"}, r"loss=dipole: .*universal"),
        ({"optimizer": "schedulefree"}, r"optimizer=schedulefree: "),
        ({"train_file": "nowhere.xyz"}, r"train_file=nowhere.xyz: no such file"),
        ({"train_file": ""}, r"names no training frames"),
        ({"foundation_model": "/nowhere/a.model"}, r"foundation_model=/nowhere"),
        ({"heads": "{'a': {'train_file': 'gone.xyz'}}"}, r"heads.a.train_file=gone"),
    ],
)
def test_a_file_that_cannot_be_followed_is_refused_by_name(
    write_options, options, message
):
    from pft_lightning.integrations.mace_arguments import read_arguments

    with pytest.raises(PFTError, match=message):
        read_arguments(write_options(**options))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scheduler=cosine"], r"scheduler=... has no effect beside mace_config"),
        (["experiment=pft_paper"], r"experiment=... has no effect"),
        (["data.upstream.max_atoms=9"], r"data.upstream.max_atoms=... has no effect"),
        (["adaptation=delta"], r"Delta.*none, lora, freeze"),
        (["+mace.emma=true"], r"mace.emma: .*Nearest: 'ema'"),
        (["data.upstream_per_phonon=0"], r"upstream_per_phonon is 0"),
        (["data.upstream.batch_size=14"], r"Batch size \(14\) is larger than .*\(13\)"),
        (["trainer.devices=2"], r"one process"),
        (["mace_config=gone.yaml"], r"gone.yaml: cannot be read"),
    ],
)
def test_an_override_without_a_place_is_refused(
    write_options, world, tmp_path, overrides, message
):
    with pytest.raises(PFTError, match=message):
        run_pft(world, write_options(), tmp_path, "data.phonons.train=null", *overrides)


def test_frames_that_make_no_batch_are_refused(write_options, world, tmp_path):
    path = write_options(**NO_STATISTICS, batch_size=14)
    with pytest.raises(ConfigError, match=r"13 training frames make no batch"):
        run_pft(world, path, tmp_path, "data.phonons.train=null")


def test_patience_ends_the_training(write_options, world, tmp_path):
    path = write_options(lr=0.5, patience=1, max_num_epochs=50)
    summary = run_pft(world, path, tmp_path, "data.phonons.train=null")
    losses = logged(tmp_path, "upstream/loss")[1:]
    n_epochs = summary["steps"] // 3
    assert n_epochs < 50
    # The first validation without a lower loss was the last.
    assert losses[n_epochs - 1] >= min(losses[: n_epochs - 1])
    assert losses[: n_epochs - 1] == sorted(losses[: n_epochs - 1], reverse=True)


def test_elements_of_phonons_that_the_frames_lack_are_named(
    write_options, world, tmp_path
):
    frames = [a for a in ase.io.read(world.upstream_train, ":") if 14 not in a.numbers]
    ase.io.write(tmp_path / "no_si.xyz", frames, format="extxyz")
    path = write_options(
        train_file=str(tmp_path / "no_si.xyz"),
        valid_file=str(tmp_path / "no_si.xyz"),
        E0s=str({z: e for z, e in E0S.items() if z != 14}),
    )
    with pytest.raises(DataFormatError, match=r"holds Si; .*foundation_model_elements"):
        run_pft(world, path, tmp_path / "run", *with_phonons(world))


def test_a_phonon_batch_comes_before_every_k_batches_of_frames():
    from pft_lightning.data.batching import BatchLimits, BatchStream
    from pft_lightning.integrations.mace_data import EpochSampler, ShuffledEpochs

    loader = torch.utils.data.DataLoader(
        range(6), batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(1)
    )
    order = ShuffledEpochs(loader)
    phonons = BatchStream(np.ones(5), None, BatchLimits(2, None, None), seed=0)
    sampler = EpochSampler(order, phonons, frames_per_phonon=2, joint=False)
    expected = [[int(i) for i in batch] for _ in range(2) for batch in loader]
    found = [sampler.at(position) for position in range(2 * len(sampler))]
    pattern = "".join(batch[0][0][0] for batch in found)
    assert pattern == "puupu" * 2
    frames = [[i for _, i in batch] for batch in found if batch[0][0] == "upstream"]
    assert frames == expected
    # Nothing of the phonons is skipped or repeated.
    taken = [i for batch in found for source, i in batch if source == "phonon"]
    assert sorted(taken[:5]) == list(range(5))
    # Any epoch can be asked for, as a resumed run does.
    assert sampler.at(1) == found[1]


def test_every_option_of_mace_is_accounted_for_once_and_documented():
    from mace import tools

    from pft_lightning.integrations.mace import REPLACES
    from pft_lightning.integrations.mace_options import (
        GROUPS,
        NOT_IN_FILES,
        options_table,
    )

    known = {action.dest for action in tools.build_default_arg_parser()._actions}
    named = [name for group in GROUPS for name in group.names]
    assert len(named) == len(set(named))
    assert set(named) == known - set(NOT_IN_FILES)
    page = (Path(__file__).parents[2] / "docs" / "mace.md").read_text()
    assert options_table() in page
    for ours, theirs in REPLACES.items():
        assert f"| `{ours}` | `{theirs}` |" in page
        assert theirs in known
