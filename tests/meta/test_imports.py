from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import pft_lightning


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in result.stdout.split()}


def test_importing_the_package_loads_no_backend_no_trainer_and_no_logger():
    modules = loaded_after("import pft_lightning")
    assert not modules & {"mace", "nequip", "e3nn", "wandb", "lightning", "torch"}


def test_training_classes_and_the_callback_for_nequip_train_load_no_backend():
    """Nor wandb; all in one process, since it loads more than for each of them."""
    modules = loaded_after(
        "import pft_lightning as p; p.PhononFineTuning, p.PhononDataModule, "
        "p.HessianLoss, p.load_model, p.Calculator\n"
        "import pft_lightning.integrations.nequip"
    )
    assert not modules & {"mace", "nequip", "e3nn", "wandb"}


@pytest.mark.parametrize("name", pft_lightning.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(pft_lightning, name).__doc__


def test_public_names_are_sorted_and_complete():
    assert pft_lightning.__all__ == sorted(pft_lightning._HOMES)


def test_the_wheel_holds_every_folder_of_the_package():
    root = Path(__file__).parents[2]
    with (root / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    folders = {file.parent for file in root.glob("pft_lightning/**/__init__.py")}
    found = {".".join(folder.relative_to(root).parts) for folder in folders}
    assert found | {"pft_lightning.conf"} <= set(listed)


# A fork of a process that has what else they import is a fresh one for the frameworks.
EACH_FIRST = """
import importlib, os, pkgutil, sys
import ase.io, lightning.pytorch, torch, torch_geometric.data
import pft_lightning.backends
folder = f"{pft_lightning.backends.__path__[0]}/{sys.argv[1]}"
for module in pkgutil.iter_modules([folder]):
    name = f"pft_lightning.backends.{sys.argv[1]}.{module.name}"
    child = os.fork()
    if child == 0:
        importlib.import_module(name)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        print(name)
"""


@pytest.mark.parametrize(
    ("backend", "library"),
    [
        ("mace", "mace"),
        ("nequip", "nequip"),
        ("sevennet", "sevenn"),
        ("nequix", "e3nn"),
    ],
)
def test_any_module_of_a_framework_can_be_the_first_that_is_imported(backend, library):
    if find_spec(library) is None or (backend == "nequix" and find_spec("mace")):
        pytest.skip(f"{backend} cannot be used here")
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EACH_FIRST, backend],
        capture_output=True,
        text=True,
        check=True,
    )
    names = [n for n in result.stdout.splitlines() if n.startswith("pft_lightning.")]
    assert not names, result.stderr
