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


@pytest.mark.parametrize("change", [{"val": None}, {"adaptation": "MultiHead"}])
def test_where_nothing_can_be_compared_no_command_is_given(change):
    """Nothing was kept back; heads of another number."""
    assert next_commands(config(**change), Path("model.model")) == {}
