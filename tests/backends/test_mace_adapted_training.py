"""Trainings of an adapted MACE network from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import pytest
import torch
from commands import run_command

from pft_lightning import Calculator
from pft_lightning.backends.registry import load_model
from pft_lightning.data.upstream import UpstreamFrames
from pft_lightning.evaluation.forgetting import collect_errors, merge
from pft_lightning.runs.replay import TRAIN, VAL


pytest.importorskip("mace", reason="MACE is not installed here")

EXAMPLE = Path(__file__).parents[2] / "pft_lightning" / "example" / "base.model"


def run(command: str, *arguments: str) -> str:
    n_processes = 2 if "trainer.devices=2" in arguments else 1
    result = run_command(command, *arguments, n_processes=n_processes)
    assert result.returncode == 0, result.stderr
    return result.stdout


def train(world, folder: Path, *overrides: str) -> str:
    return run(
        "pft-train",
        f"model.checkpoint={EXAMPLE}",
        f"data.phonons.train={world.phonons_train / 'MgO.yaml'}",
        f"data.phonons.val={world.phonons_val}",
        f"data.upstream.train={world.upstream_train}",
        f"data.upstream.val={world.upstream_val}",
        "data.upstream.batch_size=2",
        f"data.cache_dir={world.base.parent / 'cache'}",
        "engine=reverse_over_reverse",
        "trainer.accelerator=cpu",
        "trainer.max_steps=3",
        "+trainer.enable_progress_bar=false",
        "optimizer.lr=1e-2",
        "optimizer.weight_decay=0.1",
        "export=last",
        "logger=none",
        f"hydra.run.dir={folder}",
        *overrides,
    )


def test_lora_on_two_processes_moves_nothing_outside_its_targets(world, tmp_path):
    folder = tmp_path / "run"
    output = train(
        world,
        folder,
        "adaptation=lora",
        "adaptation.rank=1",
        "adaptation.targets=[interaction_1]",
        "trainer.devices=2",
        "trainer.strategy=ddp",
    )
    assert "tensors are trained" in output
    base = load_model(EXAMPLE).state_dict()
    found = load_model(folder / "model.model").state_dict()
    for name, value in base.items():
        is_target = name.startswith("network.interactions.1.") and value.numel() > 0
        is_weight = name.endswith("weight")
        assert torch.equal(found[name], value) != (is_target and is_weight), name
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    n_trained = sum(v.numel() for v in last["state_dict"].values())
    # Rank 1 of blocks of 16 x 16 and more: far below a tenth of the model.
    assert n_trained < 0.1 * sum(p.numel() for p in load_model(EXAMPLE).parameters())
    assert set(last["state_dict"]) == set(last["current_model_state"])
    out = tmp_path / "exported.model"
    run("pft-export", f"run={folder}", f"out={out}", "checkpoint=last")
    for name, value in load_model(out).state_dict().items():
        assert torch.equal(value, found[name]), name


def test_two_heads_train_on_their_own_data(world, tmp_path):
    """The old head sees no phonons: without upstream steps its readout stays."""
    train(
        world,
        tmp_path,
        "adaptation=multihead",
        "adaptation.targets=[readout]",
        "data.upstream_per_phonon=0",
        "optimizer.weight_decay=0",
    )
    path = tmp_path / "model.model"
    old = load_model(path, head="Default")
    assert old.heads == ("Default", "phonon")
    base = load_model(EXAMPLE).network.readouts[0].linear.weight
    weights = old.network.readouts[0].linear.weight.reshape(-1, 2)
    assert torch.equal(weights[:, 0], base)
    assert not torch.equal(weights[:, 1], base)

    # Nothing is forgotten, as the head of the upstream frames tells.
    run(
        *("pft-evaluate", "task=trade_off", f"run={tmp_path}", "mix=0.5"),
        *("checkpoint=last", f"phonons={world.phonons_val}", "accelerator=cpu"),
        *(f"upstream={world.upstream_val}", f"hydra.run.dir={tmp_path}/seen"),
        *("protocol.mesh=[2,2,2]", "protocol.band_points=0"),
    )
    found = json.loads((tmp_path / "seen" / "metrics.json").read_text())
    frames = UpstreamFrames(world.upstream_val, cutoff=old.cutoff)
    expected = merge([collect_errors(load_model(EXAMPLE), frames)])
    for label in ("mix_0", "mix_0.5", "mix_1"):
        for name in ("energy_mae", "forces_mae"):
            told = found["forgetting"][label][name]
            # The run is in float32.
            assert told == pytest.approx(expected[name], rel=1e-6), (label, name)
    changes = found["trade_off"]["points"][-1]["changes"]
    assert changes["force_constants_mae"] != 0


@pytest.mark.parametrize(
    "adaptation",
    [
        ("adaptation=multihead", "+adaptation.atomic_energies={Mg: -100, O: -200}"),
        (
            "adaptation=multihead",
            "adaptation.phonon_head=Default",
            "adaptation.upstream_head=phonon",
        ),
        ("adaptation=scratch",),
    ],
    ids=["new head", "heads exchanged", "scratch"],
)
def test_frames_of_replay_carry_the_labels_of_the_base_model(
    world, tmp_path, adaptation
):
    """Not those of the head, or of the weights, that begin to be trained."""
    train(
        world,
        tmp_path,
        "replay.n_frames=5",
        "data.upstream.train=null",
        "data.upstream.val=null",
        "trainer.max_steps=1",
        *adaptation,
    )
    model = load_model(EXAMPLE, dtype="float64")
    for name in (TRAIN, VAL):
        for frame in ase.io.read(tmp_path / name, ":"):
            energy = frame.get_potential_energy()
            frame.calc = Calculator(model)
            # Positions of the file are rounded at 5e-9 Å.
            assert energy == pytest.approx(frame.get_potential_energy(), abs=3e-6)
