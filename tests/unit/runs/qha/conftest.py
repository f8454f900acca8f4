from __future__ import annotations

import shutil
from pathlib import Path

import ase.io
import pytest
from ase.build import bulk
from hydra import compose, initialize_config_module

from pft_lightning.cli import common  # noqa: F401  (registers the resolvers)
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.runs.evaluate import evaluate
from pft_lightning.testing import PairPotential


SMALL_CELL = SupercellOptions(supercell_matrix=[2, 2, 2])
COMPARED = ("thermal_expansion", "bulk_modulus", "heat_capacity_p")
SMALL = (
    *(
        "qha.supercell_matrix=[2,2,2]",
        "qha.n_volumes=5",
        "qha.volume_range=[0.96,1.08]",
    ),
    *("protocol.mesh=[4,4,4]", "protocol.temperatures=[0,400,20]"),
    "protocol.fmax=2e-3",
)


def start(*overrides: str, out: str = "run"):
    """Evaluate copper, or what else is asked for, in the folder that we are in."""
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = compose(
            "evaluate",
            overrides=[
                *("task=qha", "protocol=mdr_analytic", f"paths.run={out}"),
                *("accelerator=cpu", "progress=false", *SMALL),
                *("model.checkpoint=true.pair", *overrides),
            ],
        )
    return evaluate(config)


def write_inputs() -> None:
    PairPotential(4.0, (29, 79)).save(Path("true.pair"))
    ase.io.write("copper.cif", bulk("Cu", "fcc", a=3.35))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_inputs()
    return start


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """Folder of an evaluation of copper, and what it took."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_inputs()
        start("structures=copper.cif")
    return folder


@pytest.fixture
def again(run, finished, tmp_path):
    """``start`` where copper is done already: its volumes are kept."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return run
