from __future__ import annotations

import subprocess
import sys

import pytest

import pft_lightning


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in result.stdout.split()}


def test_importing_the_package_loads_no_backend_no_trainer_and_no_logger():
    modules = loaded_after("import pft_lightning")
    assert not modules & {"mace", "nequip", "e3nn", "wandb", "lightning", "torch"}


def test_the_training_classes_load_no_backend_and_no_wandb():
    modules = loaded_after(
        "import pft_lightning as p; p.PhononFineTuning, p.PhononDataModule, "
        "p.HessianLoss, p.load_model, p.Calculator"
    )
    assert not modules & {"mace", "nequip", "e3nn", "wandb"}


def test_the_callback_for_nequip_train_loads_no_nequip_and_no_wandb():
    modules = loaded_after("import pft_lightning.integrations.nequip")
    assert not modules & {"mace", "nequip", "e3nn", "wandb"}


@pytest.mark.parametrize("name", pft_lightning.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(pft_lightning, name).__doc__


def test_public_names_are_sorted_and_complete():
    assert pft_lightning.__all__ == sorted(pft_lightning._HOMES)
