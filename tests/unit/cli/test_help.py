"""Help pages, explanations of options, and the user's own choices."""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path

import pytest
from commands import run_command

from pft_lightning.cli.help import answer, help_page, nothing_given
from pft_lightning.cli.own_choices import search_conf
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.errors import ConfigError
from pft_lightning.option_types import Options
from pft_lightning.options.blocks import block_of, describe_options
from pft_lightning.options.choices import COMMANDS, first_choices, groups
from pft_lightning.options.commands import COMMANDS as WORDS
from pft_lightning.options.reference import all_entries, reference


REFERENCE = Path(__file__).parents[3] / "docs" / "reference.md"


def test_the_reference_is_that_of_the_code():
    remedy = "python -m pft_lightning.options.reference > docs/reference.md"
    assert REFERENCE.read_text(encoding="utf-8") == reference(), remedy


def test_options_are_made_without_reading_the_code_that_describes_them(monkeypatch):
    """Half of what a command took to start went into what only help pages show."""
    monkeypatch.setattr(inspect, "getmodule", pytest.fail)
    monkeypatch.setattr(inspect, "findsource", pytest.fail)
    made = block_of.__wrapped__(PhononReadOptions)

    class Mine(Options):
        number: int = 1
        """Said here."""

    assert made.model_fields["max_force"].description
    monkeypatch.undo()
    assert describe_options(Mine) == {"number": "Said here."}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_ours_says_what_it_is_and_what_it_accepts(command):
    # Lightning's own arguments are Lightning's to explain.
    unsaid = {
        entry.name
        for _, entry in all_entries(command)
        if not (entry.meaning and entry.accepts)
    }
    assert unsaid <= {"trainer.default_root_dir"}


def test_the_reference_names_units():
    page = reference()
    for line in (
        "| `data.phonons.options.max_force` | `1000.0` | a number above 0 (eV/Å) |",
        "| `protocol.temperature` | `300.0` | a number above 0 (K) |",
        "| `cutoff` | `6.0` | a number above 0 and at most 100 (Å) |",
        "| `out` | **—** | the file to write, e.g. out=better.model |",
    ):
        assert line in page


@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_page_is_one_screen_with_three_examples_and_groups_of_its_own(command):
    page = help_page(command)
    assert len(page.splitlines()) <= 45
    assert page.count(f"\n  pft-{command} ") == 3
    for group in groups():
        assert (f"\n  {group} " in page) == (group in first_choices(command))
    assert "docs/reference.md" in page


def test_an_option_is_explained_with_unit_range_default_and_how_it_comes(capsys):
    assert answer("prepare", ["--info", "options.max_asymmetry"])
    text = capsys.readouterr().out
    assert "accepts  a number above 0 (eV/Å²)" in text
    assert "default  0.1\n" in text
    assert "five exceed the default" in text  # the whole docstring, not a sentence
    assert answer("train", ["-i", "adaptation.rank"])
    assert "comes with  adaptation=lora" in capsys.readouterr().out
    assert answer("train", ["--info", "trainer.num_nodes"])
    assert "added as  +trainer.num_nodes=..." in capsys.readouterr().out
    assert answer("train", ["--info"])
    assert "Examples" in capsys.readouterr().out
    assert answer("train", ["--info", "probe"])
    assert "commensurate_rademacher" in capsys.readouterr().out


def test_an_option_that_does_not_exist_is_not_explained():
    with pytest.raises(ConfigError, match=r"Nearest: optimizer\.lr\."):
        answer("train", ["--info", "optimizer.learning_rate"])
    assert not answer("train", ["--info", "defaults-tree"])  # Hydra's own


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_arguments_says_what_it_needs(command, monkeypatch):
    monkeypatch.setattr("sys.argv", [f"pft-{command}"])
    said = nothing_given(command)
    assert said == f"{WORDS[command].needs} pft-{command} --help has examples."
    monkeypatch.setattr("sys.argv", [f"pft-{command}", "seed=1"])
    assert nothing_given(command) is None


@pytest.fixture
def own(tmp_path, monkeypatch):
    file = tmp_path / "it's [mine]" / "conf" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\nseed: 7\noptimizer: {lr: 5.0e-5}\n")
    monkeypatch.chdir(file.parents[2])
    return file.parents[1]


def test_an_experiment_in_conf_of_the_working_folder_is_found(own):
    result = run_command(
        "pft-train", "--cfg", "job", "experiment=mine", "trainer.max_steps=3"
    )
    assert result.returncode == 0, result.stderr
    assert "\nseed: 7\n" in result.stdout
    assert "lr: 5.0e-05" in result.stdout


def test_conf_of_another_program_is_left_alone(own):
    (own / "trainer").mkdir()
    (own / "trainer" / "default.yaml").write_text("max_steps: 1\n")
    assert search_conf(["seed=1", "trainer=default"]) == ["seed=1", "trainer=default"]
    with pytest.raises(ConfigError, match=r"default\.yaml: has the name of trainer="):
        search_conf(["experiment=mine"])


def test_examples_are_words_of_a_shell():
    for words in WORDS.values():
        for _, arguments in words.examples:
            assert all("=" in argument for argument in shlex.split(arguments))
