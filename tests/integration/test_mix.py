"""Potentials between a base model and fine-tuned weights: files, and a curve."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from pft_lightning import load_model
from pft_lightning.backends.pair import PairPotential
from pft_lightning.errors import ConfigError, PFTError
from pft_lightning.runs.evaluate import evaluate
from pft_lightning.runs.export import export
from pft_lightning.runs.train import train

from ..conftest import ELEMENTS, true_potential


STEPS = ("trainer.max_steps=2", "optimizer.lr=1e-2", "export=last")


def composed(command: str, *overrides: str):
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        return hydra_compose(command, overrides=list(overrides))


def exported(*overrides: str):
    return export(composed("export", "checkpoint=last", *overrides))


def told_of(out: Path) -> tuple[dict, str]:
    """The provenance and the card beside a file."""
    provenance = json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))
    return provenance, Path(f"{out}.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def finished(compose, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    lora = ("adaptation=lora", "adaptation.rank=1", "adaptation.targets=['*']")
    train(compose(folder, *STEPS, *lora))
    return folder


@pytest.fixture(scope="module")
def tuned(finished) -> dict[str, torch.Tensor]:
    return load_model(finished / "model.pt").state_dict()


@pytest.fixture(scope="module")
def base(world) -> dict[str, torch.Tensor]:
    return load_model(world.base).state_dict()


def test_mixes_of_a_run_are_files_whose_names_say_so(finished, base, tuned, tmp_path):
    exported(f"run={finished}", f"out={tmp_path}/a.pt", "mix=[0,0.25,1]")
    names = [f"a_mix{share}.pt" for share in ("0", "0.25", "1")]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        name + ending for name in names for ending in ("", ".json", ".md")
    )
    found = [load_model(tmp_path / name).state_dict() for name in names]
    for name, value in base.items():
        assert torch.equal(found[0][name], value), name
        assert torch.equal(found[2][name], tuned[name]), name
        line = value + 0.25 * (tuned[name] - value)
        # One rounding each way.
        assert torch.allclose(found[1][name], line, rtol=1e-15, atol=0), name
        assert not torch.equal(tuned[name], value), name
    for name, share in zip(names, (0, 0.25, 1), strict=True):
        provenance, card = told_of(tmp_path / name)
        assert provenance["mix"]["share"] == share
        assert provenance["mix"]["base"] == provenance["base_model"]
        assert provenance["metrics_are_of_this_file"] is (share == 1)
        assert f"| mix | {share} of the way from the base model `base.pair`" in card
        assert ("These numbers are not of this file" in card) is (share != 1)
        assert "base model (mix 0) | fine-tuned (mix 1)" in card


def test_the_other_weights_of_a_run_mix_too_and_claim_no_numbers(
    finished, base, tmp_path
):
    out = {kind: tmp_path / f"{kind}.pt" for kind in ("raw", "half")}
    exported(f"run={finished}", f"out={out['raw']}", "weights=raw")
    exported(f"run={finished}", f"out={out['half']}", "weights=raw", "mix=0.5")
    raw, half = (load_model(out[kind]).state_dict() for kind in ("raw", "half"))
    for name, value in base.items():
        assert torch.allclose(half[name], (value + raw[name]) / 2, rtol=1e-15, atol=0)
    provenance, card = told_of(out["half"])
    assert not provenance["metrics_are_of_this_file"]
    assert not provenance["mix"]["metrics_are_of_its_ends"]
    assert "(mix 1)" not in card
    assert "but of the weights that the run ended with." in card


def test_two_files_mix_without_a_run_and_keep_what_is_known(finished, world, tmp_path):
    first, half, again = (tmp_path / f"{name}.pt" for name in ("a", "half", "again"))
    exported(f"run={finished}", f"out={first}")
    files = (f"base={world.base}", "mix=0.5")
    exported(f"model.checkpoint={first}", f"out={half}", *files)
    exported(f"run={finished}", f"out={tmp_path / 'b.pt'}", "mix=0.5")
    states = [load_model(path).state_dict() for path in (half, tmp_path / "b.pt")]
    assert all(torch.equal(states[1][n], value) for n, value in states[0].items())
    provenance, _ = told_of(half)
    assert provenance["converted_from"]["file"] == "a.pt"
    assert provenance["mix"]["base"]["file"] == "base.pair"
    assert not provenance["metrics_are_of_this_file"]
    exported(f"model.checkpoint={half}", f"out={again}", *files)
    provenance, card = told_of(again)
    assert provenance["mix"]["fine_tuned_is_mix"]["share"] == 0.5
    assert "themselves a mix" in card


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run={run}", f"mix={mix}"], f"mix={shown}; expected a number from 0")
        for mix, shown in (
            ("1.5", r"1\.5"), ("-0.1", r"-0\.1"), ("half", "half"), ("true", "true"),
            ("[]", r"\[\]"), ("[0.5,0.5]", r"\[0\.5, 0\.5\]"), ("[0.5,2]", ".*"),
            ("nan", "nan"),
        )
    ] + [
        (["model.checkpoint={run}/model.pt", "mix=0.5"], "base is not given.*base="),
        (["model.checkpoint={run}/model.pt", "base={base}"], r"add mix=.*mix=0\.5"),
        (["run={run}", "mix=0.5", "base={base}"], "a run is mixed with the base"),
        (["model.checkpoint={alone}", "base={other}", "mix=0.5"],
         r"other\.pair and .*alone\.pt: .* cannot be mixed: .* cutoff of 5\.0 Å"),
    ],
)  # fmt: skip
def test_mixes_that_make_no_sense_are_named(
    finished, world, tmp_path, overrides, message
):
    other = world.base.with_name("other.pair")
    PairPotential(5.0, ELEMENTS).save(other)
    # What lies in no run, and has no card, says nothing of its base model.
    alone = world.base.with_name("alone.pt")
    shutil.copy(finished / "model.pt", alone)
    values = {"run": finished, "base": world.base, "other": other, "alone": alone}
    with pytest.raises(ConfigError, match=message):
        exported(f"out={tmp_path}/a.pt", *(o.format(**values) for o in overrides))
    assert not list(tmp_path.iterdir())


def test_a_base_model_that_is_known_to_be_another_one_is_refused(
    finished, world, tmp_path
):
    """It would be mixed without a word: it is the same network with other weights."""
    wrong, again = tmp_path / "wrong.pt", tmp_path / "base.pt"
    model = load_model(world.base)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.1)
    model.save(wrong)
    exported(f"model.checkpoint={world.base}", f"out={again}")
    exported(f"run={finished}", f"out={tmp_path}/tuned.pt")
    told = r"base=.*wrong\.pt: SHA-256 \w{12}….*fine-tuned from base\.pair, SHA-256 "
    for tuned in (finished / "model.pt", tmp_path / "tuned.pt"):
        options = (f"model.checkpoint={tuned}", "mix=0.5", f"out={tmp_path}/half.pt")
        with pytest.raises(ConfigError, match=told):
            exported(*options, f"base={wrong}")
        assert not (tmp_path / "half.pt").exists()
        exported(*options, f"base={again}")  # the right one in another form
        (tmp_path / "half.pt").unlink()
    (tmp_path / "tuned.pt.json").unlink()
    exported(*options, f"base={wrong}")  # nothing is known


def test_a_run_from_random_weights_has_nothing_to_be_mixed_with(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    config = OmegaConf.load(run / "config.yaml")
    config.adaptation = {"_target_": "pft_lightning.adaptation.Scratch", "seed": 0}
    OmegaConf.save(config, run / "config.yaml")
    with pytest.raises(ConfigError, match="started from random weights"):
        exported(f"run={run}", f"out={tmp_path}/a.pt", "mix=0.5")


@pytest.fixture
def unrendered(monkeypatch):
    """Leave the pixels of the report out: they are what takes time."""
    monkeypatch.setattr(
        Figure, "savefig", lambda self, path, **_: path.write_bytes(b"pixels")
    )


@pytest.fixture(scope="module")
def curve(finished, world, tmp_path_factory):
    """The trade-off of one mix and the ends, with a third potential, the true one."""
    folder = tmp_path_factory.mktemp("curve")
    true_potential().save(folder / "true.pair")

    def evaluated(*overrides: str) -> dict:
        run = folder / "evaluation"
        options = (
            "task=trade_off",
            f"phonons={world.phonons_val}",
            f"upstream={world.upstream_val}",
            *("protocol.mesh=[4,4,4]", "protocol.band_points=5", "accelerator=cpu"),
            f"paths.run={run}",
        )
        evaluate(composed("evaluate", *options, *overrides))
        return json.loads((run / "metrics.json").read_text()) | {"folder": run}

    evaluated.run = (
        f"run={finished}",
        "checkpoint=last",
        "mix=0.5",
        f"compare.true.checkpoint={folder}/true.pair",
    )
    return evaluated


@pytest.mark.usefixtures("unrendered")
def test_a_trade_off_is_a_curve_of_gain_against_forgetting(curve, capsys):
    found = curve(*curve.run)
    labels = ["mix_0", "true", "mix_0.5", "mix_1"]
    assert list(found["models"]) == labels
    points = {point["label"]: point for point in found["trade_off"]["points"]}
    assert list(points) == ["mix_0", "mix_0.5", "mix_1", "true"]
    assert points["mix_0"]["gain"] == points["mix_0"]["forgetting"] == 0
    frequencies, forces = (
        [found["models"][m]["mesh_frequency_mae"]["mean"] for m in labels],
        [found["forgetting"][m]["forces_mae"] for m in labels],
    )
    for label, ours, theirs in zip(labels, frequencies, forces, strict=True):
        changes = points[label]["changes"]
        assert changes["mesh_frequency_mae"] == pytest.approx(ours / frequencies[0] - 1)
        assert changes["forces_mae"] == pytest.approx(theirs / forces[0] - 1)
    # Its force constants are by finite displacements, its frames have eight decimals.
    assert points["true"]["gain"] > 0.95
    assert points["true"]["forgetting"] < -0.95
    assert points["true"]["mix"] is None
    printed = capsys.readouterr().out
    assert "Trade-off" in printed
    assert "nee" in printed.rpartition("Trade-off")[2]
    page = (found["folder"] / "report.html").read_text()
    assert 'id="trade_off"' in page
    assert (found["folder"] / "figures" / "trade_off.png").is_file()


@pytest.mark.usefixtures("unrendered")
def test_a_trade_off_goes_on_with_more_mixes_where_it_was(curve):
    files = list((curve(*curve.run)["folder"] / "forgetting").glob("*.json"))
    written = {path: path.stat().st_mtime_ns for path in files}
    more = curve(*curve.run[:2], "mix=[0.5,0.25]", curve.run[3])
    assert [p["mix"] for p in more["trade_off"]["points"]] == [0, 0.25, 0.5, 1, None]
    assert {p: p.stat().st_mtime_ns for p in written} == written


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["upstream=null", "run={run}"], "needs upstream=PATH"),
        ([], "either run=FOLDER"),
        (["model.checkpoint={base}", "run={run}"], "either run=FOLDER"),
        (["model.checkpoint={base}"], "base is not given"),
        (["run={run}", "calculator=a:b"], "calculator=a:b: has no weights"),
        (["run={run}", "mix=2"], "mix=2; expected a number from 0"),
        (["run={run}", "compare.mix_1.checkpoint={base}"], "label='mix_1' is also"),
        (["task=compare", "run={run}"], "run=.*is for task=trade_off"),
        (["task=compare", "model.checkpoint={base}", "mix=0.5"], "is for task=trade"),
        (["run={run}/checkpoints"], "holds no run"),
    ],
)
def test_a_trade_off_that_makes_no_sense_is_refused(
    curve, finished, world, overrides, message
):
    values = {"run": finished, "base": world.base}
    with pytest.raises(PFTError, match=message):
        curve(*(o.format(**values) for o in overrides))
