"""Configurations are data: what they may name, and what is never made."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from pft_lightning.errors import ConfigError
from pft_lightning.physics.probes import SparseProbe
from pft_lightning.training.instantiation import instantiate


def made(node: dict, **options):
    root = OmegaConf.create({"block": node, "word": "os.system"})
    return instantiate(root.block, where="block", **options)


def marker(tmp_path) -> dict:
    """A node that leaves a file behind when it is made."""
    return {"_target_": "os.mkdir", "_args_": [str(tmp_path / "ran")]}


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.load",
        "hydra.utils.get_method",
        "subprocess.Popen",
        "mypackage.Callback",
        "lightningx.Callback",
        # Functions of the packages that are listed, and what these have imported.
        "lightning.fabric.utilities.cloud_io._load",
        "pft_lightning.load_model",
        "pft_lightning.cli.command.os.system",
        "torch.optim.optimizer.torch.load",
        "torch.nn.init.zeros_",
        # Classes that run or read what they are told to.
        "lightning.pytorch.cli.LightningCLI",
        "lightning.LightningModule.load_from_checkpoint",
        "pft_lightning.data.store.PhononStore",
        "lightning.nowhere.Callback",
        7,
        "",
    ],
)
def test_what_could_run_code_is_not_made(target):
    with pytest.raises(ConfigError, match=r"^block\._target_="):
        made({"_target_": target})


@pytest.mark.parametrize(
    "around",
    [
        lambda node: {"lr": node},
        lambda node: {"_partial_": True, "betas": [0.9, node]},
        lambda node: {"_args_": [node]},
        lambda node: {"deep": {"deeper": [{"_target_": "torch.optim.SGD", "x": node}]}},
    ],
)
def test_nor_is_what_is_nested_in_it(tmp_path, around):
    with pytest.raises(ConfigError, match=r"_target_=os\.mkdir"):
        made({"_target_": "torch.optim.AdamW", **around(marker(tmp_path))})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text", ["${word}", "os.${oc.decode:system}", "\\${word}", "${..word}"]
)
def test_references_do_not_hide_what_is_made(text):
    with pytest.raises(ConfigError, match=r"_target_=.*trust_config|refers to another"):
        made({"_target_": text})


def test_a_module_outside_of_the_listed_packages_is_not_even_imported(
    tmp_path, monkeypatch
):
    (tmp_path / "foreign_module.py").write_text(
        "import pathlib\n"
        f"pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class Callback: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="trust_config=true"):
        made({"_target_": "foreign_module.Callback"})
    assert not (tmp_path / "ran").exists()
    assert made({"_target_": "foreign_module.Callback"}, trust=True) is not None


def test_listed_classes_are_made_with_what_is_nested_in_them():
    assert instantiate(None, where="scheduler") is None
    probe = made({"_target_": f"{SparseProbe.__module__}.SparseProbe", "n_probes": 2})
    assert (type(probe), probe.n_probes) == (SparseProbe, 2)
    partial = made({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5})
    optimizer = partial([torch.nn.Parameter(torch.ones(1))])
    assert (type(optimizer), optimizer.defaults["lr"]) == (torch.optim.SGD, 0.5)
    strategy = {"_target_": "lightning.pytorch.strategies.SingleDeviceStrategy"}
    trainer = made(
        {"_target_": "lightning.Trainer", "strategy": strategy, "logger": False}
    )
    assert type(trainer.strategy).__name__ == "SingleDeviceStrategy"


def test_values_that_a_class_does_not_take_are_an_error_of_the_configuration():
    with pytest.raises(ConfigError, match=r"block: lightning.Trainer .*max_stepz"):
        made({"_target_": "lightning.Trainer", "max_stepz": 1})
