"""What a training shows while it runs."""

from __future__ import annotations

import re

import pytest

from pft_lightning.callbacks import progress
from pft_lightning.runs.train import train


SHOWN = (
    "++trainer.enable_progress_bar=true",
    "trainer.check_val_every_n_epoch=null",
    "trainer.val_check_interval=4",
)


@pytest.fixture
def often(monkeypatch):
    """A line for every step."""
    monkeypatch.setattr(progress.RunProgress.__init__, "__defaults__", (0.0,))


def steps_of(output: str) -> list[str]:
    return re.findall(r"^step (\d+)/8, .* passed, .* left, loss of .*$", output, re.M)


def test_in_a_file_there_are_lines_with_steps_time_and_losses(
    compose, tmp_path, capsys, often
):
    train(compose(tmp_path, *SHOWN))
    output = capsys.readouterr().out
    assert steps_of(output) == [str(i) for i in range(1, 9)]
    assert "phonon" in output
    assert "upstream" in output


def test_each_validation_leaves_its_errors_beside_those_of_the_base_model(
    compose, tmp_path, capsys
):
    summary = train(compose(tmp_path, *SHOWN))
    output = capsys.readouterr().out
    before = {
        name: f"{summary[name]['before']:.4g}"
        for name in ("phonon/hvp_mae", "upstream/forces_mae")
    }
    found = re.findall(
        r"^step (\d): H v \S+ eV/Å² \(base (\S+)\), "
        r"upstream forces \S+ eV/Å \(base (\S+)\)$",
        output,
        re.M,
    )
    assert found == [(step, *before.values()) for step in ("4", "8")]
    assert output.count("before training: H v") == 1


def test_a_resumed_run_counts_on_and_knows_its_base_model(
    compose, tmp_path, capsys, often
):
    train(compose(tmp_path, *SHOWN, "trainer.max_steps=4"))
    first = capsys.readouterr().out
    train(compose(tmp_path, *SHOWN, "resume=true"))
    output = capsys.readouterr().out
    assert steps_of(output) == ["5", "6", "7", "8"]
    (base,) = set(re.findall(r"H v \S+ eV/Å² \(base (\S+)\)", first + output))
    assert f"before training: H v {base} eV/Å²" in first


def test_a_run_that_began_without_it_claims_no_base_model(compose, tmp_path, capsys):
    train(compose(tmp_path, "trainer.max_steps=4"))
    train(compose(tmp_path, *SHOWN, "resume=true"))
    output = capsys.readouterr().out
    assert re.search(r"^step 8: H v \S+ eV/Å², upstream", output, re.M)
    assert "before training" not in output


def test_in_a_terminal_one_line_changes(compose, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_is_watched", lambda: True)
    train(compose(tmp_path, *SHOWN))
    captured = capsys.readouterr()
    last = [part for part in captured.err.split("\r") if "training 8/8" in part][-1]
    assert "loss of" in last
    assert not steps_of(captured.out)
    # Nothing of Lightning's own bar.
    assert "Epoch" not in captured.out + captured.err


def test_the_weights_that_a_run_finds_are_said_once(compose, tmp_path, capsys):
    options = (*SHOWN, "loss=auto", "data.mode=joint")
    summary = train(compose(tmp_path, *options, "trainer.max_steps=9"))
    output = capsys.readouterr().out
    (found,) = re.findall(r"^weights of the loss, found: (.*)$", output, re.M)
    assert len(found.split()) == len(summary["loss_weights"]) == 5
    train(compose(tmp_path, *options, "resume=true", "trainer.max_steps=12"))
    assert "weights of the loss" not in capsys.readouterr().out


def test_a_rate_that_was_not_given_is_said_and_kept(compose, tmp_path, capsys):
    train(compose(tmp_path, "trainer.max_steps=1", "adaptation=delta"))
    assert "optimizer.lr=0.0001, which goes with" in capsys.readouterr().out
    config = (tmp_path / "config.yaml").read_text()
    assert re.search(r"^optimizer:\n(  .*\n)*  lr: 0\.0001$", config, re.M)
