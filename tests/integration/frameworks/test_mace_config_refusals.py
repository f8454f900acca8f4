"""Files of mace_run_train that cannot be followed: named, before the first step."""

from __future__ import annotations

import os
import warnings
from importlib import resources
from pathlib import Path

import ase.io
import pytest
import torch
from commands import run_command
from mace_runs import E0S, run_pft, with_phonons

from pft_lightning import load_model
from pft_lightning.errors import (
    CheckpointError,
    ConfigError,
    DataFormatError,
    PFTError,
)


pytest.importorskip("mace", reason="mace is not installed here")

# With these, MACE looks at no batch before it trains.
NO_STATISTICS = {
    "compute_avg_num_neighbors": False,
    "avg_num_neighbors": 10.0,
    "scaling": "no_scaling",
    "mean": 0.0,
    "std": 1.0,
}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.1}, r"no option 'learning_rate'. Nearest: 'lr'"),
        ({"max_num_epoch": 3}, r"no option 'max_num_epoch'. Nearest: 'max_num_epochs'"),
        ({"batch_size": "many"}, r"invalid int value: 'many'"),
        ({"name": ""}, r"--name"),
        ({"lbfgs": True}, r"lbfgs=True: .*optimizer: adam"),
        ({"compute_forces": False}, r"compute_forces=False: .*forces_weight: 0"),
        ({"pseudolabel_replay": True}, r"pseudolabel_replay=True: .*pft-prepare"),
        ({"device": "xpu"}, r"device=xpu: use cpu"),
        ({"model": "PolarMACE"}, r"model=PolarMACE: "),
        ({"loss": "dipole"}, r"loss=dipole: .*universal"),
        ({"radial_type": "gaussian"}, r"radial_type=gaussian: .*bessel"),
        ({"optimizer": "schedulefree"}, r"optimizer=schedulefree: "),
        ({"train_file": "nowhere.xyz"}, r"train_file=nowhere.xyz: no such file"),
        ({"train_file": ""}, r"names no training frames"),
        ({"foundation_model": "/nowhere/a.model"}, r"foundation_model=/nowhere"),
        ({"heads": "{'a': {'train_file': 'gone.xyz'}}"}, r"heads.a.train_file=gone"),
        ({"heads": 5}, r"heads=5: expected a dictionary of heads"),
        ({"heads": {"a": {"valid_file": "b.xyz"}}}, r"with a\s+train_file each"),
        ({"max_num_epochs": -1}, r"max_num_epochs=-1: expected at least 0"),
        ({"eval_interval": 0}, r"eval_interval=0: expected at least 1"),
        ({"lr": "nan"}, r"lr=nan: expected at least 0, and finite"),
        ({"forces_weight": -1}, r"forces_weight=-1.0: expected at least 0"),
        ({"r_max": -5.0}, r"r_max=-5.0: expected more than 0 and at most 50"),
        ({"ema_decay": 2}, r"ema_decay=2.0: expected at least 0 and below 1"),
        ({"scheduler": "cosine"}, r"scheduler=cosine: .*ExponentialLR"),
        ({"config_type_weights": "[1]"}, r"config_type_weights=\[1\]: expected weig"),
        ({"lr_params_factors": "{}x"}, r"lr_params_factors={}x: expected JSON"),
        ({"atomic_numbers": "[0]"}, r"atomic_numbers=\[0\]: expected a list"),
        ({"batch_size": [1, 2]}, r"MACE does not accept it: .*batch_size"),
    ],
)
def test_a_file_that_cannot_be_followed_is_refused_by_name(
    write_options, options, message
):
    from pft_lightning.integrations.mace.arguments import read_arguments

    with pytest.raises(PFTError, match=message):
        read_arguments(write_options(**options))


def read(path):
    """Options of a file, and the warnings that reading it gives."""
    from pft_lightning.integrations.mace.arguments import read_arguments

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        arguments = read_arguments(path)
    return arguments, [str(w.message) for w in caught if path.name in str(w.message)]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("restart_latest", "nothing to go on from"),
        ("enable_cueq", "trained without these kernels"),
        ("only_cueq", "trained without these kernels"),
        ("enable_oeq", "trained without these kernels"),
    ],
)
def test_what_changes_no_training_is_switched_off_with_one_warning(
    write_options, tmp_path, monkeypatch, option, said
):
    monkeypatch.chdir(tmp_path)
    arguments, warned = read(write_options(**{option: True}))
    assert getattr(arguments, option) is False
    (line,) = warned
    assert f"{option}: " in line
    assert said in line
    assert not read(write_options(**{option: False}))[1]


def test_a_checkpoint_that_mace_would_go_on_from_is_refused_by_name(
    write_options, tmp_path
):
    options = {"restart_latest": True, "work_dir": str(tmp_path), "name": "a[b]"}
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "other_run-7_epoch-3.pt").touch()
    assert not read(write_options(**options))[0].restart_latest
    (checkpoints / "a[b]_run-7_epoch-3.pt").touch()
    with pytest.raises(ConfigError, match=r"go on from .*run-7_epoch-3.pt.*=false"):
        read(write_options(**options))
    assert not read(write_options(**options, seed=8))[0].restart_latest


def test_a_device_that_is_not_there_is_refused_with_the_way_around(
    write_options, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device=cuda: .*trainer.accelerator=cpu"):
        read(write_options(device="cuda"))


@pytest.fixture(scope="session")
def example_base() -> str:
    return str(resources.files("pft_lightning") / "example" / "base.model")


# Every one of them would make another network from scratch.
UNREAD = {
    "r_max": 3.0,
    "pair_repulsion": True,
    "distance_transform": "Agnesi",
    "hidden_irreps": "8x0e",
    "max_ell": 1,
    "correlation": 1,
    "num_interactions": 1,
    "interaction": "RealAgnosticInteractionBlock",
    "radial_type": "gaussian",
    "num_radial_basis": 3,
    "avg_num_neighbors": 3.0,
    "compute_avg_num_neighbors": False,
    "mean": 1.0,
    "std": 3.0,
    "MLP_irreps": "2x0e",
    "gate": "tanh",
}


def test_options_that_mace_ignores_beside_a_foundation_model_are_named(
    write_options, world, example_base, tmp_path
):
    from pft_lightning.integrations.mace.prepare import prepare

    frames = tmp_path / "example.xyz"
    ase.io.write(frames, ase.io.read(world.upstream_val, ":4"), format="extxyz")
    common = {
        "foundation_model": example_base,
        "multiheads_finetuning": False,
        "train_file": str(frames),
        "valid_file": str(frames),
        "foundation_model_elements": True,
        "batch_size": 2,
    }
    arguments, warned = read(write_options(**common, **UNREAD, E0s="average"))
    (line,) = warned
    for name in UNREAD:
        assert f" {name}" in line
    with_them = prepare(arguments, tmp_path / "with")
    assert with_them.network.r_max == load_model(example_base).cutoff
    plain = {**dict.fromkeys(UNREAD, ""), "E0s": "foundation"}
    without = prepare(read(write_options(**common, **plain))[0], tmp_path / "without")
    state = without.network.state_dict()
    for name, value in with_them.network.state_dict().items():
        assert torch.equal(value, state[name]), name
    # Where elements and heads stay, E0s are ignored too; this depends on the frames.
    assert with_them.keeps_energies
    assert not without.keeps_energies
    assert with_them.network.interactions[0].avg_num_neighbors == (
        without.network.interactions[0].avg_num_neighbors
    )


def test_a_foundation_model_that_needs_charges_is_refused(write_options, tmp_path):
    from models import build_mace

    from pft_lightning.integrations.mace.prepare import prepare

    charge = {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 4}
    network = build_mace(
        "scale_shift",
        atomic_numbers=tuple(sorted(E0S)),
        embedding_specs={"total_charge": charge},
    )
    path = tmp_path / "charged.model"
    torch.save(network, path)
    arguments, _ = read(write_options(foundation_model=str(path)))
    with pytest.raises(
        CheckpointError, match=r"charged.model: .*takes total_charge as in"
    ):
        prepare(arguments, tmp_path / "mace")


class Call:
    """Pickled as a call."""

    def __reduce__(self):
        return os.system, ("touch called",)


def test_a_foundation_model_that_mace_downloads_is_data_too(
    write_options, tmp_path, monkeypatch
):
    from models import build_mace

    from pft_lightning.integrations.mace.prepare import prepare

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where MACE looks first
    monkeypatch.chdir(tmp_path)
    network = build_mace("scale_shift", atomic_numbers=tuple(sorted(E0S)))
    path = tmp_path / "mace" / "20231210mace128L0_energy_epoch249model"
    path.parent.mkdir()
    torch.save(network, path)
    options = {"foundation_model_elements": True, "multiheads_finetuning": False}
    arguments, _ = read(write_options(foundation_model="small", **options))
    prepared = prepare(arguments, tmp_path / "mace_run")
    assert prepared.arguments.foundation_model == "small"
    for name, weights in network.named_parameters():
        if name.startswith("interactions"):
            found = prepared.network.get_parameter(name)
            torch.testing.assert_close(found, weights.to(found), rtol=0, atol=0)
    network.note = Call()
    torch.save(network, path)
    with pytest.raises(
        CheckpointError, match=r"epoch249model: refers to posix\.system"
    ):
        prepare(arguments, tmp_path / "refused")
    assert not (tmp_path / "called").exists()
    prepare(arguments, tmp_path / "trusted", trust=True)
    assert (tmp_path / "called").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scheduler=cosine"], r"scheduler=... has no effect beside mace_config"),
        (["experiment=pft_paper"], r"experiment=... has no effect"),
        (["data.upstream.max_atoms=9"], r"data.upstream.max_atoms=... has no effect"),
        (["callbacks.anchor.strength=9"], r"anchor.strength=... has no effect"),
        (["adaptation=delta"], r"Delta.*none, lora, freeze"),
        (["+mace.emma=true"], r"mace.emma: .*Nearest: 'ema'"),
        (["trainer.num_sanity_val_steps=2"], r"num_sanity_val_steps=... has no eff"),
        (["data.upstream_per_phonon=0"], r"upstream_per_phonon is 0"),
        (["data.upstream.batch_size=14"], r"Batch size \(14\) is larger than .*\(13\)"),
        (["mace_config=gone.yaml"], r"gone.yaml: cannot be read"),
        (["+mace.E0s=isolated"], r"E0s is average, .*config_type=IsolatedAtom"),
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


def test_the_command_reports_one_message_and_no_traceback(write_options, tmp_path):
    # What Hydra saw on the command line must reach MACE's parser.
    arguments = (f"mace_config={write_options()}", "+mace.lr=fast")
    result = run_command(
        "pft-train",
        *arguments,
        "data.phonons.train=null",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert result.returncode == 2
    assert "error: mace.lr=fast: invalid float value: 'fast'." in result.stderr
    assert "Traceback" not in result.stderr


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


def test_every_option_of_mace_is_accounted_for_once_and_documented():
    from mace import tools

    from pft_lightning.integrations.mace.options import (
        GROUPS,
        NOT_IN_FILES,
        options_table,
    )
    from pft_lightning.integrations.mace.run import REPLACES

    known = {action.dest for action in tools.build_default_arg_parser()._actions}
    named = [name for group in GROUPS for name in group.names]
    assert len(named) == len(set(named))
    assert set(named) == known - set(NOT_IN_FILES)
    page = (Path(__file__).parents[3] / "docs" / "mace.md").read_text()
    assert options_table() in page
    for ours, theirs in REPLACES.items():
        assert f"| `{ours}` | `{theirs}` |" in page
        assert theirs in known
