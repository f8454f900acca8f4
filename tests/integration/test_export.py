"""Exported potentials: whose weights they hold, what is checked, what is said."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from omegaconf import OmegaConf

from pft_lightning import load_model
from pft_lightning.backends.pair import PairPotential
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.runs.export import export
from pft_lightning.runs.train import train


STEPS = ("trainer.max_steps=2", "optimizer.lr=1e-2", "export=last")


def exported(*overrides: str):
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        return export(hydra_compose("export", overrides=list(overrides)))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def finished(compose, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    train(compose(folder, *STEPS))
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_average_and_raw_weights_are_those_of_the_training(compose, run, tmp_path):
    """The average by hand, from trainings without one that took one and two steps."""
    raw = []
    for steps in (1, 2):
        folder = tmp_path / str(steps)
        options = ("callbacks.ema=null", f"trainer.max_steps={steps}")
        train(compose(folder, *STEPS, *options))
        raw.append(load_model(folder / "model.pt").state_dict())
    kinds = {}
    for weights in ("ema", "raw"):
        out = tmp_path / f"{weights}.pt"
        exported(f"run={run}", f"out={out}", "checkpoint=last", f"weights={weights}")
        kinds[weights] = load_model(out).state_dict()
    for name, value in kinds["raw"].items():
        assert torch.equal(value, raw[1][name]), name
        # The average starts as the first weights; its decay is then (1 + 1) / (10 + 1).
        average = raw[1][name] + 2 / 11 * (raw[0][name] - raw[1][name])
        # Rounding of one multiplication and addition.
        assert torch.allclose(kinds["ema"][name], average, rtol=1e-15, atol=0), name
        assert not torch.equal(kinds["ema"][name], value), name


def change(run: Path, **values: object) -> None:
    config = OmegaConf.load(run / "config.yaml")
    for name, value in values.items():
        OmegaConf.update(config, name.replace("__", "."), value, force_add=True)
    OmegaConf.save(config, run / "config.yaml")


def test_a_run_of_others_runs_no_code(run, tmp_path):
    """Only what makes the potential is made of its configuration."""
    code = {"_target_": "os.mkdir", "_args_": [str(tmp_path / "ran")]}
    for name in ("optimizer", "scheduler", "probe", "trainer", "logger"):
        change(run, **{name: code})
    change(run, callbacks__mine=code, trust_config=True, model__trust=True)
    out = tmp_path / "a.pt"
    exported(f"run={run}", f"out={out}", "checkpoint=last")
    assert out.is_file()
    change(run, data__phonons__options=code)
    exported(f"run={run}", f"out={out}", "checkpoint=last")
    assert "os.mkdir" in json.loads(Path(f"{out}.json").read_text())["check"]["remark"]
    change(run, adaptation=code)
    with pytest.raises(
        CheckpointError, match=r"adaptation\._target_=os.mkdir.*trust_c"
    ):
        exported(f"run={run}", f"out={out}", "checkpoint=last")
    assert not (tmp_path / "ran").exists()


def test_a_package_that_a_run_names_needs_trust(run, tmp_path):
    """A NequIP package is code; only the user can say that it may run."""
    for name in ("evil.nequip.zip", "model.pt"):
        with zipfile.ZipFile(run / name, "w") as file:
            file.writestr("evil/model/package_metadata.txt", "atom_types: H")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "model": "model.pt"}))
    out = tmp_path / "a.pt"
    exported(f"run={run}", f"out={out}", "checkpoint=last")
    made = json.loads(Path(f"{out}.json").read_text())
    assert made["metrics_are_of_this_file"] is False
    package = str(run / "evil.nequip.zip")
    change(run, model__checkpoint=package, model__backend=None, model__trust=True)
    (run / "base_model.json").unlink()
    with pytest.raises(CheckpointError, match=r"evil\.nequip\.zip.*model\.trust=true"):
        exported(f"run={run}", f"out={out}", "checkpoint=last")


def test_a_checkpoint_that_a_run_did_not_keep_is_named_with_those_it_did(run, tmp_path):
    (run / "checkpoints" / "best.ckpt").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"best\.ckpt: .* kept checkpoint=last"):
        exported(f"run={run}", f"out={tmp_path / 'a.pt'}", "checkpoint=best")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": "${oc.env:HOME}"}, "refers to another value"),
        ({"seed": "abc"}, "seed=abc; expected a whole number"),
        ({"model": 5}, "model=5"),
        ({"loss__kind__hvp": "foo"}, "loss.kind.hvp=foo"),
        ({"adaptation": {"rank": 4}}, "adaptation"),
    ],
)
def test_a_damaged_configuration_of_a_run_is_named(run, tmp_path, values, message):
    change(run, **values)
    with pytest.raises(CheckpointError, match=message.replace("$", r"\$")) as caught:
        exported(f"run={run}", f"out={tmp_path / 'a.pt'}", "checkpoint=last")
    assert str(run) in str(caught.value)


def test_a_run_without_average_has_raw_weights_only(compose, tmp_path):
    train(compose(tmp_path / "run", *STEPS, "callbacks.ema=null"))
    out = tmp_path / "a.pt"
    common = (f"run={tmp_path / 'run'}", f"out={out}", "checkpoint=last")
    with pytest.raises(ConfigError, match="the run kept none"):
        exported(*common, "weights=ema")
    exported(*common)
    assert json.loads(Path(f"{out}.json").read_text())["run"]["weights"] == "raw"


def test_the_provenance_says_what_can_be_checked(run, world, tmp_path):
    out = tmp_path / "new" / "better.pt"
    exported(f"run={run}", f"out={out}", "checkpoint=last")
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "better.pt",
        "better.pt.json",
        "better.pt.md",
    ]
    told = json.loads(Path(f"{out}.json").read_text())
    assert told["file"]["sha256"] == sha256(out)
    assert told["file"]["dtype"] == "float64"
    assert told["base_model"] == {"file": "base.pair", "sha256": sha256(world.base)}
    assert told["run"]["checkpoint"] == "last.ckpt"
    assert told["run"]["weights"] == "ema"
    assert told["run"]["steps"] == 2
    assert told["recipe"] == OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert told["data"]["phonons"] == {"train": ["train"], "val": ["val"]}
    assert told["versions"]["torch"] == version("torch")
    summary = json.loads((run / "summary.json").read_text())
    assert told["metrics"]["phonon/hvp_mae"] == summary["phonon/hvp_mae"]
    assert told["metrics_are_of_this_file"]
    assert told["data"]["counts"] == summary["counts"]
    # LiCl is the only crystal for validation.
    assert told["check"]["structures"][-1] == "crystal of all elements"
    assert any("LiCl" in name for name in told["check"]["structures"])
    assert max(told["check"]["errors"].values()) <= told["check"]["tolerance"] == 1e-10


def test_the_card_tells_people_the_same(run, tmp_path):
    out = tmp_path / "better.pt"
    exported(f"run={run}", f"out={out}", "checkpoint=last")
    card = Path(f"{out}.md").read_text()
    summary = json.loads((run / "summary.json").read_text())
    for metric in ("phonon/hvp_mae", "upstream/forces_mae"):
        values = summary[metric]
        assert f"{values['before']:.4g} | {values['after']:.4g}" in card, metric
    for text in (
        "base.pair",
        "2601.07742",
        "## Forgetting",
        "lr: 0.01",
        sha256(out),
        'pft.load_model("better.pt")',
        "moving average",
    ):
        assert text in card, text
    assert "not of this file" not in card
    # A card is handed on: nothing of the machine's folders may be in it.
    assert str(tmp_path.parent) not in card


def test_numbers_of_other_weights_are_not_claimed(run, tmp_path):
    out = tmp_path / "raw.pt"
    exported(f"run={run}", f"out={out}", "checkpoint=last", "weights=raw")
    assert not json.loads(Path(f"{out}.json").read_text())["metrics_are_of_this_file"]
    assert "not of this file" in Path(f"{out}.md").read_text()


def test_an_unfinished_run_can_be_exported_and_claims_nothing(run, tmp_path):
    for name in ("summary.json", "model.pt"):
        (run / name).unlink()
    out = tmp_path / "a.pt"
    exported(f"run={run}", f"out={out}", "checkpoint=last")
    told = json.loads(Path(f"{out}.json").read_text())
    assert told["metrics"]["phonon/hvp_mae"]["after"] is None
    assert "Not measured" in Path(f"{out}.md").read_text()


def test_a_file_that_predicts_otherwise_is_not_kept(run, tmp_path, monkeypatch):
    out = tmp_path / "out" / "a.pt"
    out.parent.mkdir()
    out.write_text("an older file")
    save = PairPotential.save

    def wrong(self, path):
        with torch.no_grad():
            # 1e-8 relative in one parameter of one element.
            self.depth[0] *= 1 + 1e-8
            save(self, path)
            self.depth[0] /= 1 + 1e-8

    monkeypatch.setattr(PairPotential, "save", wrong)
    with pytest.raises(CheckpointError, match="does not predict what"):
        exported(f"run={run}", f"out={out}", "checkpoint=last")
    assert [p.name for p in out.parent.iterdir()] == ["a.pt"]
    assert out.read_text() == "an older file"


def test_without_the_validation_data_a_crystal_of_all_elements_is_compared(
    run, tmp_path, capsys
):
    config = OmegaConf.load(run / "config.yaml")
    config.data.phonons.val = str(tmp_path / "gone")
    OmegaConf.save(config, run / "config.yaml")
    out = tmp_path / "a.pt"
    model = exported(f"run={run}", f"out={out}", "checkpoint=last")
    check = json.loads(Path(f"{out}.json").read_text())["check"]
    assert check["structures"] == ["crystal of all elements"]
    assert "no such file" in check["remark"]
    assert "not compared on the run's validation data" in capsys.readouterr().out
    card = Path(f"{out}.md").read_text()
    assert "could not be read any more" in card
    assert str(tmp_path) not in card
    assert len(model.atomic_numbers) == 7


def test_another_form_of_a_file_keeps_its_history(run, tmp_path):
    first, second = tmp_path / "a.pt", tmp_path / "b.pt"
    exported(f"run={run}", f"out={first}", "checkpoint=last")
    exported(f"model.checkpoint={first}", f"out={second}", "model.dtype=float32")
    assert load_model(second).dtype == torch.float32
    told = [json.loads(Path(f"{p}.json").read_text()) for p in (first, second)]
    assert told[1]["recipe"] == told[0]["recipe"]
    assert told[1]["metrics"] == told[0]["metrics"]
    assert told[1]["converted_from"] == {"file": "a.pt", "sha256": sha256(first)}
    assert told[1]["file"]["sha256"] == sha256(second)
    # What lies beside a file that has changed since says nothing about it.
    load_model(second).double().save(first)
    exported(f"model.checkpoint={first}", f"out={second}")
    assert "recipe" not in json.loads(Path(f"{second}.json").read_text())
    assert "Nothing was beside the file" in Path(f"{second}.md").read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"base_model": {"file": "a"}},
        {"base_model": "a"},
        {"metrics": []},
        {"metrics": {"phonon/hvp_mae": {"before": "small", "after": 1.0}}},
        {"recipe": {"data": 1}},
        {"data": {"phonons": None}},
    ],
)
def test_a_history_that_is_none_is_named(world, tmp_path, change):
    first, second = tmp_path / f"a{Path(world.base).suffix}", tmp_path / "b.pt"
    first.write_bytes(Path(world.base).read_bytes())
    told = {
        "format": "pft_lightning.provenance",
        "file": {"sha256": sha256(first)},
        "run": {"folder": "a", "checkpoint": "b", "weights": "ema", "steps": 1},
        **change,
    }
    Path(f"{first}.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match=r"a\.\w+\.json: does not say where"):
        exported(f"model.checkpoint={first}", f"out={second}")
    assert not second.exists()


def damage(run: Path, kind: str) -> None:
    last = run / "checkpoints" / "last.ckpt"
    if kind == "truncated":
        last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    elif kind == "a model file":
        shutil.copy(run / "model.pt", last)
        content = torch.load(last, weights_only=True)
        torch.save(content["state_dict"], last)
    elif kind == "another model":
        content = torch.load(last, weights_only=True)
        content["state_dict"].pop("model.depth")
        torch.save(content, last)
    elif kind == "base model":
        config = OmegaConf.load(run / "config.yaml")
        other = run / "base.pair"
        model = load_model(config.model.checkpoint)
        with torch.no_grad():
            model.depth *= 2
        model.save(other)
        config.model.checkpoint = str(other)
        OmegaConf.save(config, run / "config.yaml")
    elif kind == "no base model":
        config = OmegaConf.load(run / "config.yaml")
        config.model.checkpoint = str(run / "gone.pair")
        OmegaConf.save(config, run / "config.yaml")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "truncated"),
        ("a model file", "has no state_dict"),
        ("another model", "not a checkpoint of the run"),
        ("base model", "not the file that the run"),
        ("no base model", "is not there"),
    ],
)
def test_what_does_not_belong_to_the_run_is_refused(run, tmp_path, kind, message):
    damage(run, kind)
    out = tmp_path / "out" / "a.pt"
    with pytest.raises(CheckpointError, match=message):
        exported(f"run={run}", f"out={out}", "checkpoint=last")
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["out={out}"], ConfigError, "give either run=FOLDER"),
        (["run={run}", "model.checkpoint=x", "out={out}"], ConfigError, "give either"),
        (["run={run}", "out={out}.onnx"], ConfigError, "end in .pt"),
        (["run={run}", "out={run}"], ConfigError, "is a folder"),
        (["run={run}", "out={out}", "weights=swa"], ConfigError, "one of ema, raw"),
        (["run={run}", "out={out}", "checkpoint=x"], CheckpointError, "expected check"),
        (["run={run}/checkpoints", "out={out}"], CheckpointError, "holds no run"),
        (["model.checkpoint={run}/no", "out={out}"], CheckpointError, "no such file"),
        (["model.checkpoint={run}/model.pt", "out={out}", "weights=ema"],
         ConfigError, "weights of a run"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_named(
    finished, tmp_path, overrides, error, message
):
    values = {"run": str(finished), "out": str(tmp_path / "a.pt")}
    checkpoint = (
        [] if any("checkpoint=" in o for o in overrides) else ["checkpoint=last"]
    )
    with pytest.raises(error, match=message):
        exported(*checkpoint, *(o.format(**values) for o in overrides))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "out"),
    [
        (["run={run}", "checkpoint=last"], "{run}/../base.pt"),
        (["run={run}", "checkpoint=last"], "{run}/link.pt"),
        (["run={run}", "checkpoint=last"], "{run}/model.pt"),
        (["run={run}", "checkpoint=last", "mix=[0.5,1]"], "{run}/../base.pt"),
        (["model.checkpoint={run}/model.pt"], "{run}/checkpoints/../model.pt"),
        (["model.checkpoint={run}/model.pt", "base={base}", "mix=0.5"], "{base}"),
    ],
)
def test_an_export_replaces_nothing_that_it_comes_from(run, tmp_path, options, out):
    base = tmp_path / "base.pt"
    shutil.copy(OmegaConf.load(run / "config.yaml").model.checkpoint, base)
    shutil.copy(base, tmp_path / "base_mix1.pt")
    if "[" in options[-1]:  # of which one name is taken
        base = tmp_path / "base_mix1.pt"
    change(run, model__checkpoint=str(base))
    (run / "link.pt").symlink_to(base)
    before = {path: sha256(path) for path in (base, run / "model.pt")}
    values = {"run": run, "base": base}
    words = (o.format(**values) for o in (*options, f"out={out}"))
    with pytest.raises(ConfigError, match=r"out=.*: is the file .*Choose another out"):
        exported(*words)
    assert {path: sha256(path) for path in before} == before


def test_weights_are_those_that_the_run_wrote_unless_others_are_asked_for(
    run, tmp_path
):
    """The run was told export=last, and its best weights are others."""
    folder = run / "checkpoints"
    best = torch.load(folder / "last.ckpt", weights_only=True)
    for value in best["state_dict"].values():
        value.mul_(1.5)
    torch.save(best, folder / "best.ckpt")
    states = []
    for i, options in enumerate(([], ["checkpoint=last"], ["checkpoint=best"])):
        states.append(
            exported(f"run={run}", f"out={tmp_path}/{i}.pt", *options).state_dict()
        )
    change(run, export="best")
    states.append(exported(f"run={run}", f"out={tmp_path}/3.pt").state_dict())
    (folder / "best.ckpt").unlink()
    states.append(exported(f"run={run}", f"out={tmp_path}/4.pt").state_dict())
    written = load_model(run / "model.pt").state_dict()
    for state, is_last in zip(states, (True, True, False, False, True), strict=True):
        same = all(torch.equal(state[name], value) for name, value in written.items())
        assert same == is_last
