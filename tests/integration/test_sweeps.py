"""Several runs by one command: Hydra multiruns, W&B sweeps, jobs of a cluster."""

from __future__ import annotations

import importlib.util
import runpy
from glob import glob
from pathlib import Path

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module

from pft_lightning.evaluation.folder import COLUMNS
from pft_lightning.integrations.nequip.term import VALIDATION_METRIC
from pft_lightning.training.validation import METRICS, MONITOR


DOCS = Path(__file__).parents[2] / "docs"


def finish(process) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def test_a_multirun_has_a_folder_and_a_wandb_run_for_each_combination(
    pft_train, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    finish(
        pft_train(
            tmp_path,
            "hydra.mode=MULTIRUN",
            f"hydra.sweep.dir={tmp_path}",
            "paths.run=${hydra:runtime.output_dir}",
            "optimizer.lr=1e-3,1e-2",
            "trainer.max_steps=1",
            "logger=wandb",
            "logger.offline=true",
        )
    )
    for number in ("0", "1"):
        assert (tmp_path / number / "summary.json").is_file()
        runs = glob(str(tmp_path / number / "wandb" / "offline-run-*" / "*.wandb"))
        assert len(runs) == 1
        content = Path(runs[0]).read_bytes()
        # Each has its own learning rate in its own record, and its final table.
        assert b"before/phonon/hvp_mae" in content
    assert not glob(str(tmp_path / "wandb"))


@pytest.mark.parametrize(("name", "n_runs"), [("paper", 9), ("lora", 6)])
def test_shipped_searches_name_options_that_exist(name, n_runs):
    required = ["model.checkpoint=x", "data.phonons.train=y", "paths.run=z"]
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = hydra_compose(
            "train",
            overrides=[*required, f"hparams={name}"],
            return_hydra_config=True,
        )
        searched = config.hydra.sweeper.params
        assert config.hydra.mode.name == "MULTIRUN"
        values = {key: str(text).split(",") for key, text in searched.items()}
        last = [f"{key}={choices[-1]}" for key, choices in values.items()]
        hydra_compose("train", overrides=[*required, f"hparams={name}", *last])
    product = 1
    for choices in values.values():
        product *= len(choices)
    assert product == n_runs


def test_the_sweep_of_the_docs_becomes_a_command_of_pft_train(monkeypatch):
    """By the functions that a W&B agent calls."""
    utils = pytest.importorskip(
        "wandb.sdk.launch.sweeps.utils", reason="not a public part of wandb"
    )
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    sweep = yaml.safe_load((DOCS / "sweep.yaml").read_text())
    chosen = {
        name: {"value": options.get("values", [options.get("min")])[0]}
        for name, options in sweep["parameters"].items()
    }
    arguments = utils.create_sweep_command_args({"args": chosen})
    command = []
    for part in utils.create_sweep_command(list(sweep["command"])):
        if part == "${args_no_hyphens}":
            command += arguments["args_no_hyphens"]
        elif part == "${program}":
            command.append(sweep["program"])
        else:
            command.append(part)
    assert command[0] == "pft-train"
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = hydra_compose(
            "train", overrides=[*command[1:], "paths.run=z"], return_hydra_config=True
        )
    assert config.hydra.run.dir == "runs/sweep/abc123"
    assert config.optimizer.lr == 1e-5
    assert config.loss.phonon.hvp == 30
    assert config.callbacks.ema.decay == 0.99
    prefix, _, metric = sweep["metric"]["name"].partition("/")
    assert (prefix, metric in METRICS) == ("after", True)


def test_the_dashboard_shows_metrics_that_are_logged():
    layout = runpy.run_path(str(DOCS / "wandb_workspace.py"))["LAYOUT"]
    shown = {m for plots in layout.values() for names in plots.values() for m in names}
    known = {*METRICS, *(f"phonon/{column}" for column in COLUMNS)}
    unknown = {m for m in shown if m.startswith(("phonon/", "upstream/"))} - known
    assert not unknown
    # Of pft-train and of nequip-train.
    gains = layout["Gain: curvature"]["Hessian-vector products, MAE (eV/Å²)"]
    assert gains == [MONITOR, VALIDATION_METRIC]


@pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins") is None
    or importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None,
    reason="hydra-submitit-launcher is not installed here",
)
def test_a_multirun_can_be_jobs_of_submitit(pft_train, tmp_path):
    finish(
        pft_train(
            tmp_path,
            "hydra.mode=MULTIRUN",
            f"hydra.sweep.dir={tmp_path}",
            "paths.run=${hydra:runtime.output_dir}",
            "hydra/launcher=submitit_local",
            "hydra.launcher.timeout_min=5",
            "optimizer.lr=1e-3,1e-2",
            "trainer.max_steps=1",
        )
    )
    for number in ("0", "1"):
        assert (tmp_path / number / "summary.json").is_file()
