"""Callbacks that add terms to the loss find the module that computes them."""

from __future__ import annotations

import lightning
import pytest

from pft_lightning import PhononDataModule, PhononSource
from pft_lightning.backends.pair import PairPotential
from pft_lightning.callbacks import (
    HessianLoss,
    MeasuredLoss,
    PropertyLoss,
    ThirdOrderLoss,
)
from pft_lightning.errors import ConfigError
from pft_lightning.training.module import PhononFineTuning
from tests.conftest import CUTOFF, ELEMENTS


TERMS = {
    "hessian": lambda: HessianLoss(weight=1.0),
    "third_order": lambda: ThirdOrderLoss(weight=1.0),
    "properties": lambda: PropertyLoss({"entropy": 1.0}),
    "measured": lambda: MeasuredLoss({"entropy": 1.0}),
}


@pytest.mark.parametrize("slot", TERMS)
def test_a_module_takes_one_callback_of_a_kind_and_lets_it_go(slot):
    module = PhononFineTuning(PairPotential(CUTOFF, ELEMENTS))
    trainer = lightning.Trainer(logger=False, accelerator="cpu")
    trainer.strategy.connect(module)
    first, second = TERMS[slot](), TERMS[slot]()
    first.setup(trainer, module, "fit")
    first.setup(trainer, module, "validate")
    assert getattr(module.targets, slot) is first
    with pytest.raises(ConfigError, match=f"Two {type(first).__name__} callbacks"):
        second.setup(trainer, module, "fit")
    first.teardown(trainer, module, "fit")
    assert getattr(module.targets, slot) is None


@pytest.mark.parametrize("slot", TERMS)
def test_another_module_is_refused(slot):
    callback = TERMS[slot]()
    module = lightning.LightningModule()
    with pytest.raises(ConfigError, match="cannot add its terms to a LightningModule"):
        callback.setup(lightning.Trainer(logger=False), module, "fit")
    callback.teardown(lightning.Trainer(logger=False), module, "fit")


def test_phonons_need_no_loss_where_each_step_has_measured_values(world, tmp_path):
    """In joint steps alone: else a step of phonons would have none."""

    def register(mode: str) -> None:
        module = PhononFineTuning(PairPotential(CUTOFF, ELEMENTS), phonon_weights={})
        phonons = PhononSource(world.phonons_train / "LiF.yaml")
        trainer = lightning.Trainer(logger=False, accelerator="cpu")
        trainer.datamodule = PhononDataModule(phonons, mode=mode, cache_dir=tmp_path)
        trainer.strategy.connect(module)
        MeasuredLoss({"frequencies": 1.0}).setup(trainer, module, "fit")
        HessianLoss(weight=0.0).setup(trainer, module, "fit")

    register("joint")
    with pytest.raises(ConfigError, match="Some phonon steps would have no loss"):
        register("alternate")
