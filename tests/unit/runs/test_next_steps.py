from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from pft_lightning.runs.next_steps import next_commands


def config(adaptation: str = "LoRA", **phonons: object):
    return OmegaConf.create(
        {
            "adaptation": {"_target_": f"pft_lightning.adaptation.{adaptation}"},
            "model": {"checkpoint": "a base's (old) [1].model", "head": None},
            "data": {
                "phonons": {"val": ["x, y.yaml", "z"], **phonons},
                "upstream": {"val": "f=1.xyz"},
            },
        }
    )


def values(command: str) -> dict[str, object]:
    """What Hydra takes from a line typed into a shell."""
    name, *words = shlex.split(command)
    assert name == "pft-evaluate"
    parser = OverridesParser.create()
    return {o.key_or_group: o.value() for o in parser.parse_overrides(words)}


def test_paths_come_through_shell_and_hydra_as_they_are():
    compared, mixed = next_commands(config(), Path("runs/é 1/model.model")).values()
    assert values(compared) == {
        "model.checkpoint": "runs/é 1/model.model",
        "phonons": ["x, y.yaml", "z"],
        "upstream": "f=1.xyz",
        "compare.base.checkpoint": "a base's (old) [1].model",
    }
    assert values(mixed) == {
        "task": "trade_off",
        "model.checkpoint": "runs/é 1/model.model",
        "base": "a base's (old) [1].model",
        "phonons": ["x, y.yaml", "z"],
        "upstream": "f=1.xyz",
    }


def test_every_command_names_the_head_of_the_run():
    run = config()
    run.model.head = "omat"
    run.data.measured = {"train": "a.csv", "val": None, "structures": "x.cif"}
    commands = next_commands(run, Path("better.model"))
    assert len(commands) == 3
    for command in commands.values():
        assert values(command)["model.head"] == "omat"


def test_measured_values_are_read_as_in_the_run():
    run = config(val=None)
    run.data.upstream = None
    run.data.measured = {
        "train": "a.csv",
        "val": None,
        "structures": ["x.cif", "y"],
        "relax": True,
        "frequency_unit": "meV",
        "max_order": 8,
        "supercell_matrix": [2, 2, 2],
        "min_length": 10.0,
    }
    ((name, command),) = next_commands(run, Path("better.model")).items()
    assert name == "measured values before and after"
    assert values(command) == {
        "task": "measured",
        "model.checkpoint": "better.model",
        "measured.files": "a.csv",
        "structures": ["x.cif", "y"],
        "measured.frequency_unit": "meV",
        "measured.supercell_matrix": [2, 2, 2],
        "protocol": "mdr_analytic",
        "compare.base.checkpoint": "a base's (old) [1].model",
    }


@pytest.mark.parametrize("change", [{"val": None}, {"adaptation": "MultiHead"}])
def test_where_nothing_can_be_compared_no_command_is_given(change):
    """Nothing was kept back; heads of another number."""
    assert next_commands(config(**change), Path("model.model")) == {}
