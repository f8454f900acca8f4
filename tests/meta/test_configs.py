from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pft_lightning.cli import common  # noqa: F401  (registers the resolvers)
from pft_lightning.losses.properties import Property
from pft_lightning.options.choices import first_choices, groups


CONF = Path(str(files("pft_lightning.conf")))
REQUIRED = ["model.checkpoint=x", "data.phonons.train=y", "paths.run=z"]
GROUPS = {
    group.name: sorted(f.stem for f in group.glob("*.yaml"))
    for group in CONF.iterdir()
    if group.is_dir() and any(group.glob("*.yaml"))
} | {group: sorted(groups()[group]) for group in first_choices("train")}


def composed(*overrides: str):
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        return compose("train", overrides=[*REQUIRED, *overrides])


@pytest.mark.parametrize(
    ("group", "option"), [(g, o) for g, options in GROUPS.items() for o in options]
)
def test_every_option_of_every_group_composes_and_resolves(group, option):
    resolved = OmegaConf.to_container(composed(f"{group}={option}"), resolve=True)
    assert group in resolved or group in ("experiment", "hparams")


@pytest.mark.parametrize("group", ["probe", "scheduler", "optimizer"])
def test_every_option_instantiates(group):
    for option in GROUPS[group]:
        assert callable(instantiate(composed(f"{group}={option}")[group])) or group == (
            "probe"
        )


def test_the_paper_recipe_is_the_published_one():
    config = composed("experiment=pft_paper")
    assert config.optimizer == {
        "_target_": "torch.optim.AdamW", "_partial_": True,
        "lr": 1e-4, "weight_decay": 1e-3,
    }  # fmt: skip
    assert config.trainer.gradient_clip_val == 100
    assert config.callbacks.ema.decay == 0.999
    assert config.trainer.max_epochs == 200
    assert config.data.phonons.batch_size == 16
    assert config.data.upstream.batch_size == 64
    assert config.data.upstream_per_phonon == 4
    assert config.loss.phonon == {
        "energy": 0, "forces": 20, "stress": 5, "hvp": 100, "third_order": 0,
        **dict.fromkeys(get_args(Property), 0),
    }  # fmt: skip
    assert config.loss.upstream == {"energy": 500, "forces": 200, "stress": 50}
    assert config.probe._target_.endswith("ColumnProbe")
    without = composed("experiment=pft_paper_no_cotraining")
    assert without.loss.phonon.energy == 20
    assert without.data.upstream.train is None


def test_the_paper_recipe_on_nequix_differs_in_the_model_only():
    for suffix in ("", "_no_cotraining"):
        plain = composed(f"experiment=pft_paper{suffix}")
        config = composed(f"experiment=pft_paper_nequix{suffix}")
        assert config.model.backend == "nequix"
        config.model.backend = None
        assert config == plain


def test_the_negative_control_takes_no_second_derivative():
    config = composed("experiment=pft_paper_nequix_efs", "data.upstream.train=d.xyz")
    assert config.loss.phonon.hvp == 0
    assert config.loss.upstream.forces == config.loss.phonon.forces > 0
    assert config.data.upstream.train == "d.xyz"


@pytest.mark.parametrize("experiment", ["quickstart", "measured"])
def test_examples_name_files_that_ship_in_the_package(experiment):
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = compose("train", overrides=[f"experiment={experiment}", "paths.run=z"])
    measured = config.data.measured
    for name in (
        config.model.checkpoint,
        config.data.phonons.train,
        config.data.phonons.val,
        config.data.upstream.train,
        config.data.upstream.val,
        *([measured.train, measured.structures] if experiment == "measured" else []),
    ):
        assert Path(name).exists(), name
