"""``pft-evaluate`` as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import Command, run_command
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from pft_lightning.cli.evaluate import evaluate
from pft_lightning.errors import PFTError
from pft_lightning.evaluation.protocols import PROTOCOLS, Protocol

from ..conftest import true_potential


FAST = ("protocol.mesh=[4,4,4]", "protocol.band_points=5", "accelerator=cpu")


@pytest.fixture(scope="module")
def true_model(world) -> Path:
    path = world.base.parent / "true.pair"
    true_potential().save(path)
    return path


@pytest.fixture
def start(world, true_model, tmp_path):
    """Start `pft-evaluate` in a folder of its own; give the running process."""

    def begin(run: Path | str, *overrides: str, launcher=()):
        arguments = (
            f"model.checkpoint={true_model}",
            f"phonons={world.phonons_train}",
            f"compare.base.checkpoint={world.base}",
            f"hydra.run.dir={run}",
            *FAST,
            *overrides,
        )
        if not launcher:
            return Command("pft-evaluate", *arguments, cwd=tmp_path)
        command = Path(sys.executable).with_name("pft-evaluate")
        return subprocess.Popen(
            [*launcher, command, *arguments],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        return compose("evaluate", overrides=list(overrides))


def finish(process) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


def totals(folder: Path) -> dict:
    """What must not depend on how the work was shared or interrupted."""
    summary = json.loads((folder / "metrics.json").read_text())
    for model in summary["models"].values():
        model.pop("seconds")
    return {key: summary[key] for key in ("models", "counts", "failures", "protocol")}


@pytest.fixture(scope="module")
def expected(world, true_model, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    done = run_command(
        "pft-evaluate",
        f"model.checkpoint={true_model}",
        f"phonons={world.phonons_train}",
        f"upstream={world.upstream_val}",
        "compare.base.model=pair",
        f"compare.base.checkpoint={world.base}",
        f"hydra.run.dir={run}",
        *FAST,
    )
    assert done.returncode == 0, done.stderr
    return run


def test_gain_and_forgetting_stand_side_by_side(expected):
    summary = json.loads((expected / "metrics.json").read_text())
    assert list(summary["models"]) == ["base", "model"]
    assert summary["failures"] == []
    base, model = summary["models"].values()
    for name in ("force_constants_mae", "mesh_frequency_mae", "entropy_error"):
        assert model[name]["n"] == 4
        # The reference is made with finite displacements of the same potential.
        assert model[name]["median"] < 0.01 * base[name]["median"]
    forgetting = summary["forgetting"]
    assert forgetting["base"]["forces_mae"] > 1e-3
    # Frames are written with eight decimals.
    assert forgetting["model"]["forces_mae"] < 1e-6
    assert forgetting["base"]["n_structures"] == 5
    assert summary["versions"]["phonopy"]
    for name in ("config.yaml", "versions.json", "command.txt", "per_material.csv"):
        assert (expected / name).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_two_processes_share_the_materials_and_agree_with_one(
    start, expected, tmp_path, launcher
):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2")
    process = start(
        tmp_path / "run",
        "devices=2",
        launcher=torchrun if launcher == "torchrun" else (),
    )
    finish(process)
    assert totals(tmp_path / "run") == totals(expected)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_evaluation_goes_on_where_it_was(start, expected, tmp_path):
    run = tmp_path / "run"
    process = start(run)
    deadline = time.monotonic() + 120
    while not list(run.glob("materials/*.json")):
        assert time.monotonic() < deadline, "no material was finished in two minutes"
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.communicate()
    done = {path: path.stat().st_mtime_ns for path in run.glob("materials/*.json")}
    assert not (run / "metrics.json").exists()
    finish(start(run))
    for path, written in done.items():
        assert path.stat().st_mtime_ns == written, f"{path.name} was computed twice"
    assert totals(run) == totals(expected)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_an_interrupt_ends_with_a_message_and_no_traceback(start, tmp_path):
    (tmp_path / "my_models.py").write_text(
        "import os, signal\n"
        "from ase.calculators.morse import MorsePotential\n"
        "class Interrupted(MorsePotential):\n"
        "    def calculate(self, *arguments):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        super().calculate(*arguments)\n"
    )
    process = start(
        tmp_path / "run",
        "compare.morse.calculator=my_models:Interrupted",
        "protocol.method=finite_displacement",
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors


def test_a_calculator_of_the_users_own_stands_beside_a_model(start, tmp_path):
    (tmp_path / "my_models.py").write_text(
        "from ase.calculators.morse import MorsePotential\n"
        "def make():\n"
        "    return MorsePotential(epsilon=0.5, r0=2.6, rho0=3.0)\n"
    )
    output = finish(
        start(
            tmp_path / "run",
            "compare.morse.calculator=my_models:make",
            "protocol.method=finite_displacement",
        )
    )
    summary = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(summary["models"]) == ["base", "morse", "model"]
    assert summary["failures"] == []
    assert summary["models"]["morse"]["entropy_error"]["n"] == 4
    assert "morse" in output


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["protocol.fmax=0"], "protocol.fmax=0"),
        (["compare.base.calculator=a:b"], "not both"),
        (["compare.base.weights=x"], "compare.base.weights"),
        (["label=base"], "label='base'"),
        (["compare.b.calculator=no_such_module:make"], "no_such_module"),
        (["compare.b.calculator=json"], "module:factory"),
        (["compare.b.model=abc", "compare.b.checkpoint=x"], "compare.b.model=abc"),
        (["compare.b.calculator=json:no_such"], "no_such"),
        (["compare.b.calculator=::"], "module:factory"),
        (["compare.b.calculator=json:loads"], "fails with TypeError"),
        (["compare.b.calculator=ase.calculators.emt:EMT"], "finite_displacement"),
        (["compare.b=1"], "compare.b=1; expected a block"),
        (["protocol.mesh=1e9"], "protocol.mesh=1000000000.0; expected a length in Å"),
        (["protocol.mesh=[1,1,1000000]"], "protocol.mesh"),
        (["protocol.dos_smearing=1e9"], "protocol.dos_smearing"),
        (["protocol.dos_pitch=1e-9"], "protocol.dos_pitch"),
        (["options.symprec=1e9"], "options.symprec"),
        (["devices=1000000000"], "devices=1000000000"),
        (["num_nodes=1000000000"], "num_nodes=1000000000"),
        (["devices=-1", "accelerator=cpu"], "devices=-1"),
        (["devices=[1]", "accelerator=cpu"], r"devices=\[1\]"),
        pytest.param(
            ["accelerator=gpu"],
            "accelerator=gpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU"),
        ),
    ],
)
def test_what_makes_no_sense_is_named(world, tmp_path, overrides, message):
    config = composed(
        f"model.checkpoint={world.base}",
        f"phonons={world.phonons_train}",
        f"compare.base.checkpoint={world.base}",
        f"paths.run={tmp_path}",
        *FAST,
        *overrides,
    )
    with pytest.raises(PFTError, match=message):
        evaluate(config)


def test_an_error_is_one_message_without_a_traceback(start, tmp_path):
    process = start(tmp_path / "run", "phonons=/nowhere")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert "error: /nowhere: no such file" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_the_group_of_protocols_is_that_of_the_package(name):

    config = composed(f"protocol={name}", "phonons=x", "paths.run=y")
    values = OmegaConf.to_container(config.protocol, resolve=True)
    assert Protocol(**values) == PROTOCOLS[name]
