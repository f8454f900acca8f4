"""Adapted trainings: what moves, what stays, what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import run_command

from pft_lightning import load_model
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.runs.export import export
from pft_lightning.runs.train import train


ADAPTATIONS = {
    "none": (),
    "scratch": (),
    "delta": ("adaptation.decay=1", "optimizer.lr=1e-2"),
    "freeze": ("adaptation.train=[bonds]", "optimizer.weight_decay=0.1"),
}


def exported(run: Path, out: Path, checkpoint: str = "best"):
    from hydra import compose, initialize_config_module

    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = compose(
            "export", overrides=[f"run={run}", f"out={out}", f"checkpoint={checkpoint}"]
        )
    export(config)
    return load_model(out).state_dict()


@pytest.mark.parametrize("name", sorted(ADAPTATIONS))
def test_every_adaptation_trains_and_says_what_moved(compose, world, tmp_path, name):
    run = tmp_path / "run"
    overrides = (f"adaptation={name}", "optimizer.lr=1e-2", *ADAPTATIONS[name])
    summary = train(compose(run, *overrides, "trainer.max_steps=100"))
    assert summary["phonon/hvp_mae"]["after"] < summary["phonon/hvp_mae"]["before"]
    trained = json.loads((run / "trainable.json").read_text())
    assert summary["trainable"]["trainable_parameters"] == sum(trained.values())
    assert summary["trainable"]["trainable_tensors"] == len(trained)


def test_frozen_weights_do_not_move_by_a_bit(compose, world, tmp_path):
    """Under weight decay, a moving average and the Hessian loss."""
    overrides = ("adaptation=freeze", *ADAPTATIONS["freeze"], "optimizer.lr=1e-2")
    train(compose(tmp_path, *overrides, "trainer.max_steps=40"))
    base, found = load_model(world.base), load_model(tmp_path / "model.pt")
    for name, value in base.state_dict().items():
        assert torch.equal(found.state_dict()[name], value) == (name == "shift"), name


def test_frozen_weights_do_not_move_by_a_bit_on_two_processes(
    pft_train, world, tmp_path
):
    process = pft_train(
        tmp_path,
        "adaptation=delta",
        "adaptation.targets=[bonds]",
        "trainer.devices=2",
        "trainer.strategy=ddp",
        "optimizer.lr=1e-2",
        "export=last",
        "trainer.max_steps=20",
    )
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "75.00 % of the 28" in output
    assert "parametrizations.depth.0.difference" in output
    base, found = load_model(world.base), load_model(tmp_path / "model.pt")
    for name, value in base.state_dict().items():
        assert torch.equal(found.state_dict()[name], value) == (name == "shift"), name


def test_a_checkpoint_holds_what_is_trained_and_export_merges_it(compose, tmp_path):
    run = tmp_path / "run"
    overrides = ("adaptation=freeze", "adaptation.train=[depth]", "optimizer.lr=1e-2")
    train(compose(run, *overrides, "trainer.max_steps=30", "export=last"))
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for state in ("state_dict", "current_model_state"):
        assert set(last[state]) == {"model.depth"}
    moments = last["optimizer_states"][0]["state"]
    assert len(moments) == 1
    # The last checkpoint of the average is what export=last writes.
    final = load_model(run / "model.pt").state_dict()
    for name, value in exported(run, tmp_path / "out.pt", "last").items():
        assert torch.equal(value, final[name]), name


def test_the_best_weights_of_a_delta_are_exported_merged(compose, world, tmp_path):
    run = tmp_path / "run"
    overrides = ("adaptation=delta", *ADAPTATIONS["delta"], "trainer.max_steps=30")
    train(compose(run, *overrides, "export=best"))
    written = load_model(run / "model.pt")
    assert set(written.state_dict()) == {"depth", "stiffness", "radius", "shift"}
    out, base = exported(run, tmp_path / "out.pt"), load_model(world.base)
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    for name, value in base.state_dict().items():
        key = f"model.parametrizations.{name}.0.difference"
        assert torch.equal(out[name], value + best["state_dict"][key]), name


def test_decay_pulls_towards_the_base_model(compose, world, tmp_path):
    """A step of Adam adds at most about lr, and decay takes lr * decay away."""
    base = load_model(world.base).state_dict()
    distances = []
    for name, decay in (("free", 0), ("held", 50)):
        train(
            compose(
                tmp_path / name,
                "adaptation=delta",
                f"adaptation.decay={decay}",
                "optimizer.lr=1e-2",
                "trainer.max_steps=40",
                "export=last",
            )
        )
        found = load_model(tmp_path / name / "model.pt").state_dict()
        distances.append(max(float((found[n] - base[n]).abs().max()) for n in base))
    assert distances[1] < 1.5 / 50 < distances[0]


def test_an_l2_sp_penalty_is_part_of_the_loss(compose, world, tmp_path):
    base = load_model(world.base).state_dict()
    distances = []
    for decay in (0, 1e6):
        run = tmp_path / str(decay)
        train(
            compose(
                run,
                "adaptation=delta",
                "adaptation.form=l2_sp",
                f"adaptation.decay={decay}",
                "optimizer.lr=1e-3",
                "trainer.max_steps=40",
                "export=last",
            )
        )
        found = load_model(run / "model.pt").state_dict()
        distances.append(sum(float((found[n] - base[n]).norm()) for n in base))
    assert distances[1] < 0.2 * distances[0]


def test_a_resumed_adaptation_ends_with_the_same_bits(compose, tmp_path):
    common = ("adaptation=delta", *ADAPTATIONS["delta"], "export=last")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(compose(whole, *common, "trainer.max_steps=20"))
    train(compose(parts, *common, "trainer.max_steps=10"))
    train(compose(parts, *common, "trainer.max_steps=20", "resume=true"))
    expected = load_model(whole / "model.pt").state_dict()
    for name, value in load_model(parts / "model.pt").state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("adaptation.decay=2",), "was started with .*'decay': 1"),
        (("model.dtype=float32",), "original base model"),
    ],
)
def test_a_resume_from_another_base_or_adaptation_is_refused(
    compose, tmp_path, change, message
):
    common = ("adaptation=delta", *ADAPTATIONS["delta"])
    train(compose(tmp_path, *common, "trainer.max_steps=4"))
    again = (*common, "resume=true", "trainer.max_steps=8", *change)
    with pytest.raises(CheckpointError, match=message):
        train(compose(tmp_path, *again))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adaptation=freeze"], "exactly one"),
        (["adaptation=freeze", "adaptation.train=[dpth]"], "Nearest: depth"),
        (["adaptation=lora"], "no matrices"),
        (["adaptation=lora", "adaptation.rank=0"], "rank=0"),
        (["adaptation=delta", "adaptation.form=l1"], "form=l1"),
        (["adaptation=delta", "adaptation.decay=1e5"], "well below 1"),
        (["adaptation=multihead"], "pair models have no heads"),
    ],
)
def test_an_adaptation_that_makes_no_sense_is_named(
    compose, tmp_path, overrides, message
):
    with pytest.raises(Exception, match=message) as caught:
        train(compose(tmp_path, *overrides))
    cause: BaseException | None = caught.value
    while cause is not None and not isinstance(cause, ConfigError):
        cause = cause.__cause__
    assert isinstance(cause, ConfigError)


def test_export_without_a_run_says_so(tmp_path):
    result = run_command("pft-export", f"run={tmp_path}", f"out={tmp_path / 'a.model'}")
    assert result.returncode == 2
    assert "holds no run" in result.stderr
