"""The examples of the help pages, one after the other, in an empty folder."""

from __future__ import annotations

import shlex

import pytest
from commands import own_cache, run_command

from pft_lightning.options.commands import COMMANDS


pytest.importorskip("mace", reason="the example's base model is a MACE model")

# A few steps show that they run; the whole trainings take minutes.
SHORT = {
    "train": [
        ["trainer.max_steps=2", "trainer.val_check_interval=2"],
        ["trainer.max_steps=1", "trainer.val_check_interval=1"],
        ["trainer.max_steps=4", "trainer.val_check_interval=2"],
    ]
}


def test_the_examples_of_every_help_page_run(tmp_path):
    cache = own_cache(tmp_path / "cache")
    for command, words in COMMANDS.items():
        for number, (_, text) in enumerate(words.examples):
            arguments = shlex.split(text)
            if command in SHORT:
                shorter = SHORT[command][number]
                names = {argument.partition("=")[0] for argument in shorter}
                arguments = [a for a in arguments if a.partition("=")[0] not in names]
                arguments += shorter
            result = run_command(
                f"pft-{command}", *arguments, cwd=tmp_path, environment=cache
            )
            assert result.returncode == 0, f"{command} {text}\n{result.stderr}"
    for made in ("phonons.store", "rattled.xyz", "labelled.xyz", "better.model"):
        assert (tmp_path / made).exists(), made
