"""The examples of the help pages, one after the other, in an empty folder.

The first is the quickstart, of which this tests more.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from commands import own_cache, run_command

from pft_lightning.options.commands import COMMANDS


pytest.importorskip("mace", reason="the example's base model is a MACE model")

# A few steps and one crystal show that they run; the whole trainings take minutes.
ONE_CRYSTAL = ["phonons=${pft_example:phonons/val/Si-1.015.yaml.xz}"]
SHORT = {
    "train": [
        ["trainer.max_steps=2", "trainer.val_check_interval=2"],
        ["trainer.max_steps=1", "trainer.val_check_interval=1"],
        ["trainer.max_steps=4", "trainer.val_check_interval=2"],
    ],
    "evaluate": [ONE_CRYSTAL, ONE_CRYSTAL, []],
}


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> tuple[Path, list]:
    """The folder that all of them ran in, and what each of them left."""
    folder = tmp_path_factory.mktemp("examples")
    environment = own_cache(tmp_path_factory.mktemp("cache") / "own")
    results = []
    for command, words in COMMANDS.items():
        for number, (_, text) in enumerate(words.examples):
            arguments = shlex.split(text)
            if command in SHORT:
                shorter = SHORT[command][number]
                names = {argument.partition("=")[0] for argument in shorter}
                arguments = [a for a in arguments if a.partition("=")[0] not in names]
                arguments += shorter
            result = run_command(
                f"pft-{command}", *arguments, cwd=folder, environment=environment
            )
            assert result.returncode == 0, f"{command} {text}\n{result.stderr}"
            results.append(result)
            if len(results) == 1:
                (folder / "first").mkdir()
                for name in ("summary.json", "model.model"):
                    made = folder / "runs" / "quickstart" / name
                    (folder / "first" / name).write_bytes(made.read_bytes())
    return folder, results


def test_the_examples_of_every_help_page_run(examples):
    folder, _ = examples
    for made in ("phonons.store", "rattled.xyz", "labelled.xyz", "better.model"):
        assert (folder / made).exists(), made


def test_the_quickstart_runs_offline_from_any_folder(examples):
    folder, (result, *_) = examples
    assert "experiment=quickstart" in result.args
    summary = json.loads((folder / "first" / "summary.json").read_text())
    assert summary["counts"] == {
        "phonon_train": 11, "upstream_train": 70, "phonon_val": 4, "upstream_val": 13,
    }  # fmt: skip
    assert "phonon/hvp_mae" in result.stdout
    # Nothing of libraries comes before what the command itself says.
    for text in ("Warning", "Tip:", "uequivariance"):
        assert text not in result.stdout + result.stderr
    assert (folder / "first" / "model.model").stat().st_size
