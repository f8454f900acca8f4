"""Two crystals with measured values, and potentials to compare with them."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from hydra import compose, initialize_config_module

from pft_lightning.cli import common  # noqa: F401  (registers the resolvers)
from pft_lightning.runs.evaluate import evaluate
from pft_lightning.testing import PairPotential
from tests.conftest import CRYSTALS, CUTOFF, ELEMENTS, true_potential


MESH = "[3,3,3]"
SUPERCELL = "[2,2,2]"

FREQUENCIES = """structure,q1,q2,q3,frequency,unit,branch,degeneracy,uncertainty
LiF,0,0,0,8.0,THz,TO,3,0.5
LiF,1/2,0,0,5.0,THz,,,0.25
LiF,1/2,0,0,6.0,THz,LO,1,
NaCl,1/2,1/2,0,100,cm-1,1,2,5
"""
HEATS = """structure,temperature,heat_capacity,unit,uncertainty
LiF,300,20,J/K/mol-atom,0.5
LiF,100,8,J/K/mol-atom,
"""


def write_inputs() -> None:
    """Write everything into the folder that we are in."""
    for name in ("LiF", "NaCl"):
        Path(name).mkdir()
        ase.io.write(f"{name}/POSCAR", CRYSTALS[name])
    Path("modes.csv").write_text(FREQUENCIES)
    Path("heats.csv").write_text(HEATS)
    points = np.arange(0.0, 9.1, 0.5)
    lines = [f"{f:.1f} {f**2 * (9 - f):.4f}" for f in points]
    Path("LiF/total_dos.dat").write_text("\n".join(lines))
    true_potential().save(Path("true.pair"))
    PairPotential(CUTOFF, ELEMENTS).save(Path("base.pair"))
    PairPotential(CUTOFF, (3, 9)).save(Path("few.pair"))


ALL = "measured.files=[modes.csv,heats.csv,LiF/total_dos.dat]"


def start(*overrides: str, out: str = "run", values: str = ALL):
    """Compare with all measured values, or with what else is asked for."""
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = compose(
            "evaluate",
            overrides=[
                *("task=measured", values, f"paths.run={out}"),
                *("structures=[LiF/POSCAR,NaCl/POSCAR]", "accelerator=cpu"),
                *(f"protocol.mesh={MESH}", f"measured.supercell_matrix={SUPERCELL}"),
                *("progress=false", "model.checkpoint=true.pair", *overrides),
            ],
        )
    return evaluate(config)


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> Path:
    """The folder of all inputs, in which we are."""
    monkeypatch.chdir(tmp_path)
    write_inputs()
    return tmp_path


@pytest.fixture(scope="session")
def compared(tmp_path_factory) -> Path:
    """Folder of the inputs, and in ``run`` of two potentials beside all values."""
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_inputs()
        start("compare.base.checkpoint=base.pair")
    return folder


@pytest.fixture
def finished(compared, monkeypatch) -> Path:
    """Folder of that evaluation; we are beside it, where the inputs are."""
    monkeypatch.chdir(compared)
    return compared / "run"
