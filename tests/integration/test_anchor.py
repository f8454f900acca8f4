"""Trainings whose weights are held at the base model by what it rests on."""

from __future__ import annotations

import json
import math

import lightning
import pytest
import torch
from commands import run_command

import pft_lightning as pft
from pft_lightning import load_model
from pft_lightning.callbacks.anchor import FisherAnchor, evenly
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.physics.probes import ColumnProbe
from pft_lightning.runs.train import train


RUN = ("trainer.max_steps=20", "optimizer.lr=1e-2", "export=last")


def held(strength: float) -> str:
    return f"callbacks.anchor.strength={strength:g}"


def weights(run):
    return load_model(run / "model.pt").state_dict()


def moved(world, run) -> dict[str, float]:
    base = load_model(world.base).state_dict()
    return {n: float((w - base[n]).abs().max()) for n, w in weights(run).items()}


def test_what_energies_rest_on_moves_less(compose, world, tmp_path):
    for name, strength in (("free", 0), ("held", 30)):
        train(compose(tmp_path / name, *RUN, held(strength)))
    checkpoint = tmp_path / "held" / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)["callbacks"]["FisherAnchor"]
    base = load_model(world.base).state_dict()
    assert all(torch.equal(start, base[n]) for n, (start, _) in saved.items())
    information = {name: f for name, (_, f) in saved.items()}
    everything = torch.cat([f.flatten() for f in information.values()])
    assert everything.mean().item() == pytest.approx(1.0, rel=1e-6)
    most, least = everything.argmax(), everything.argmin()
    change = [
        torch.cat([(weights(tmp_path / run)[n] - base[n]).flatten() for n in saved])
        for run in ("free", "held")
    ]
    # A step of Adam adds about lr, and what is there shrinks by exp(-lr strength f):
    # no more than 1 / (strength f) can stand, in which lr cancels.
    bound = 1.5 / (30 * everything[most].item())
    assert change[1][most].abs() < bound < change[0][most].abs()
    assert change[1][least].abs() > bound


def test_no_strength_changes_nothing(compose, world, tmp_path):
    train(compose(tmp_path / "with", *RUN, held(0)))
    train(compose(tmp_path / "without", *RUN, "~callbacks.anchor"))
    for name, value in weights(tmp_path / "with").items():
        assert torch.equal(value, weights(tmp_path / "without")[name]), name


@pytest.mark.parametrize("adaptation", ["none", "delta"])
def test_a_resumed_run_ends_with_the_same_bits(compose, tmp_path, adaptation):
    common = (*RUN, held(30), f"adaptation={adaptation}")
    train(compose(tmp_path / "whole", *common))
    train(compose(tmp_path / "parts", *common, "trainer.max_steps=10"))
    train(compose(tmp_path / "parts", *common, "resume=true"))
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "parts")[name]), name


def test_processes_share_the_frames(pft_train, compose, tmp_path):
    two = ("trainer.devices=2", "trainer.strategy=ddp")
    process = pft_train(tmp_path / "two", *RUN, held(30), *two)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    train(compose(tmp_path / "one", *RUN, held(30)))
    one, two = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)
        for run in ("one", "two")
    )
    for name, (start, f) in one["callbacks"]["FisherAnchor"].items():
        other_start, other = two["callbacks"]["FisherAnchor"][name]
        assert torch.equal(start, other_start)
        # The same squares, summed up in another order.
        torch.testing.assert_close(f, other, rtol=1e-12, atol=0)


def test_the_model_card_says_what_held_the_weights(compose, world, tmp_path):
    base = f"callbacks.anchor.base={world.base}"
    train(compose(tmp_path, *RUN, held(1e9), base, "trainer.max_steps=2"))
    out = tmp_path / "out.pt"
    options = (f"run={tmp_path}", "checkpoint=last", f"out={out}")
    done = run_command("pft-export", *options, merged=True)
    assert done.returncode == 0, done.stdout
    card = (tmp_path / "out.pt.md").read_text()
    assert "callbacks:\n  anchor:\n    strength: 1000000000.0\n" in card
    assert f"    base: {world.base.name}\n" in card


def test_a_second_fit_is_held_where_it_started(world, tmp_path):
    anchor = FisherAnchor(30.0)
    for depth in (0.0, 0.5):
        model = load_model(world.base)
        with torch.no_grad():
            model.depth += depth
        start = model.depth.detach().clone()
        fit(world, model, anchor)
        assert torch.equal(anchor.state_dict()["depth"][0], start)
        assert not anchor._hooks


def fit(world, model, anchor):
    data = pft.PhononDataModule(
        phonons=pft.PhononSource(train=world.phonons_train, val=world.phonons_val),
        upstream=pft.UpstreamSource(
            train=world.upstream_train, val=world.upstream_val, batch_size=4
        ),
        mode="joint",
    )
    trainer = lightning.Trainer(
        max_steps=2,
        accelerator="cpu",
        callbacks=[pft.HessianLoss(ColumnProbe()), anchor],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=False,
    )
    trainer.fit(pft.PhononFineTuning(model), data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["adaptation=scratch"], "adaptation=scratch throws away"),
        (["callbacks.anchor.max_atoms=1"], "every upstream frame has more atoms"),
        (["data.upstream.train=null"], r"there are none. Set .*replay.n_frames=50"),
        (["callbacks.anchor.base=gone.pt"], r"anchor.base=gone.pt: .*gone.pt"),
    ],
)
def test_what_cannot_be_held_is_named(compose, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        train(compose(tmp_path, *RUN, held(30), *options))


def test_a_run_that_began_without_goes_on_with_a_base_model_only(
    compose, world, tmp_path
):
    train(compose(tmp_path, *RUN, "trainer.max_steps=4"))
    again = (*RUN, held(30), "resume=true", "trainer.max_steps=6")
    with pytest.raises(CheckpointError, match=r"began without it.*anchor\.base="):
        train(compose(tmp_path, *again))
    assert "strength: 0.0" in (tmp_path / "config.yaml").read_text()
    train(compose(tmp_path, *again, f"callbacks.anchor.base={world.base}"))
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 6


def test_a_resumed_run_cannot_measure_otherwise(compose, tmp_path):
    train(compose(tmp_path, *RUN, held(30), "trainer.max_steps=4"))
    with pytest.raises(CheckpointError, match=r"n_frames is 5, but .* 60"):
        train(
            compose(
                tmp_path, *RUN, held(9), "resume=true", "callbacks.anchor.n_frames=5"
            )
        )


@pytest.mark.parametrize(
    "held",
    [
        3,
        (torch.ones(2),),
        (torch.ones(2), torch.ones(3)),
        (torch.ones(2), -torch.ones(2)),
        (torch.ones(2), torch.full((2,), torch.nan)),
    ],
)
def test_a_damaged_checkpoint_is_named(held):
    with pytest.raises(CheckpointError, match=r"damaged: .* of depth"):
        FisherAnchor(30.0).load_state_dict({"depth": held})


@pytest.mark.parametrize(
    "options", [{"strength": -1.0}, {"strength": math.inf}, {"n_frames": 0}]
)
def test_an_anchor_of_nothing_is_refused(options):
    with pytest.raises(ConfigError, match=f"anchor {next(iter(options))} is"):
        FisherAnchor(**options)


def test_frames_are_spread_from_the_first_to_the_last():
    assert evenly(179, 60)[[0, -1]].tolist() == [0, 178]
    assert len(set(evenly(179, 60))) == 60
    assert evenly(3, 60).tolist() == [0, 1, 2]


def test_a_second_stage_is_held_at_the_base_model(compose, world, tmp_path):
    train(compose(tmp_path / "first", *RUN))
    first = f"model.checkpoint={tmp_path / 'first' / 'model.pt'}"
    base = f"callbacks.anchor.base={world.base}"
    train(compose(tmp_path / "second", *RUN, held(1e9), first, base))
    start = load_model(world.base).state_dict()
    second = torch.load(
        tmp_path / "second" / "checkpoints" / "last.ckpt", weights_only=True
    )
    for name, (anchor, f) in second["callbacks"]["FisherAnchor"].items():
        assert torch.equal(anchor, start[name])
        change = (weights(tmp_path / "second")[name] - anchor).abs()
        assert (change[f > 1e-3] < 1e-6).all()


def test_a_base_model_of_another_kind_is_named(compose, world, tmp_path, backend_base):
    base = f"callbacks.anchor.base={backend_base}"
    with pytest.raises(ConfigError, match="has no weight depth"):
        train(compose(tmp_path, *RUN, held(30), base))


def test_factors_are_not_held(compose, tmp_path, backend_base):
    options = ("adaptation=lora", f"model.checkpoint={backend_base}")
    with pytest.raises(ConfigError, match="adaptation=lora trains factors"):
        train(compose(tmp_path, *RUN, held(30), *options))
