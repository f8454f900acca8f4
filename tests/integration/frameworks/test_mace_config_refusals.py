"""Files of mace_run_train that cannot be followed: named, before the first step."""

from __future__ import annotations

from pathlib import Path

import ase.io
import pytest
from commands import run_command
from mace_runs import E0S, run_pft, with_phonons

from pft_lightning.errors import ConfigError, DataFormatError, PFTError


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
        ({"learning_rate": 0.1}, r"no option 'learning_rate'"),
        ({"max_num_epoch": 3}, r"no option 'max_num_epoch'. Nearest: 'max_num_epochs'"),
        ({"batch_size": "many"}, r"invalid int value: 'many'"),
        ({"name": ""}, r"--name"),
        ({"lbfgs": True}, r"lbfgs=True: .*optimizer: adam"),
        ({"restart_latest": True}, r"restart_latest=True: .*resume=true"),
        ({"pseudolabel_replay": True}, r"pseudolabel_replay=True: .*pft-prepare"),
        ({"only_cueq": True}, r"only_cueq=True: .*no second derivatives"),
        ({"device": "xpu"}, r"device=xpu: use cpu"),
        ({"model": "PolarMACE"}, r"model=PolarMACE: "),
        ({"loss": "dipole"}, r"loss=dipole: .*universal"),
        ({"radial_type": "gaussian"}, r"radial_type=gaussian: .*bessel"),
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
        (["trainer.num_sanity_val_steps=2"], r"num_sanity_val_steps=... has no eff"),
        (["data.upstream_per_phonon=0"], r"upstream_per_phonon is 0"),
        (["data.upstream.batch_size=14"], r"Batch size \(14\) is larger than .*\(13\)"),
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


def test_the_command_reports_one_message_and_no_traceback(write_options, tmp_path):
    # What Hydra saw on the command line must reach MACE's parser.
    arguments = (f"mace_config={write_options()}", "optimizer.lr=fast")
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
    page = (Path(__file__).parents[3] / "docs" / "mace.md").read_text()
    assert options_table() in page
    for ours, theirs in REPLACES.items():
        assert f"| `{ours}` | `{theirs}` |" in page
        assert theirs in known
