"""Run folders and potentials of commit 8e53a36, with the frameworks."""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from earlier_files import (
    AFTER_STEPS,
    assert_predicts,
    check_export_of_the_run,
    check_goes_on,
    check_potentials,
    unpack,
)

from pft_lightning import Calculator, load_model
from pft_lightning.errors import BackendUnavailableError


SUFFIXES = {"mace": ".safetensors", "nequip": ".ckpt", "nequix": ".pt"}


@pytest.fixture(scope="module", params=SUFFIXES)
def written(request, tmp_path_factory) -> tuple[Path, str, str]:
    """Folder, name of the backend, ending of its files."""
    name = request.param
    folder = unpack(name, tmp_path_factory.mktemp("earlier"))
    try:
        load_model(folder / f"base{SUFFIXES[name]}")
    except BackendUnavailableError as error:
        pytest.skip(f"{name} is not installed here: {error}")
    return folder, name, SUFFIXES[name]


def test_potentials_of_the_earlier_version_have_its_numbers(written):
    check_potentials(*written)


def test_a_run_of_the_earlier_version_is_exported_and_goes_on(written):
    check_export_of_the_run(*written)
    check_goes_on(*written)


def test_a_pickled_mace_network_of_the_earlier_version_has_its_numbers(tmp_path):
    pytest.importorskip("mace", reason="MACE is not installed here")
    import e3nn

    if e3nn.__version__ != "0.4.4":
        pytest.skip("networks are pickled for one e3nn; this one for e3nn 0.4.4")
    folder = unpack("mace", tmp_path)
    path = folder / "base.model"
    path.write_bytes(lzma.decompress((folder / "base.model.xz").read_bytes()))
    assert_predicts(path, "mace", "base")


@pytest.fixture(scope="module")
def nequip_folder(tmp_path_factory) -> Path:
    pytest.importorskip("nequip", reason="NequIP is not installed here")
    return unpack("nequip", tmp_path_factory.mktemp("earlier"))


@pytest.mark.parametrize("name", ["callback", "module"])
def test_a_nequip_checkpoint_of_the_earlier_version_has_its_numbers(
    nequip_folder, name
):
    assert_predicts(nequip_folder / f"{name}.ckpt", "nequip", name)


# In one process, as a user would type it; nothing is imported that a user does not.
GO_ON = """
import sys
from nequip.scripts.train import main
sys.argv = ["nequip-train", "-cp", {here!r}, "-cn", "nequip_{name}",
            "+ckpt_path={name}.ckpt", "trainer.max_epochs=2", "hydra.run.dir={name}"]
main()
"""
OPEN = """
import ase.io, numpy as np
from nequip.integrations.ase import NequIPCalculator
calculator = NequIPCalculator._from_saved_model(
    "{name}.ckpt", device="cpu", chemical_species_to_atom_type_map=True
)
atoms = ase.io.read("frames.xyz", 0)
atoms.calc = calculator
np.save("{name}.npy", np.append(atoms.get_forces(), atoms.get_potential_energy()))
"""


@pytest.mark.parametrize("name", ["callback", "module"])
def test_nequip_itself_opens_and_goes_on_from_such_a_checkpoint(nequip_folder, name):
    import ase.io

    here = str(Path(__file__).parents[1] / "earlier")
    code = OPEN.format(name=name) + GO_ON.format(name=name, here=here)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=nequip_folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    atoms = ase.io.read(nequip_folder / "frames.xyz", 0)
    atoms.calc = Calculator(load_model(nequip_folder / f"{name}.ckpt"))
    expected = np.append(atoms.get_forces(), atoms.get_potential_energy())
    found = np.load(nequip_folder / f"{name}.npy")
    assert np.abs(found - expected).max() < AFTER_STEPS * np.abs(expected).max()
    # Two steps an epoch: it went on from the second, and trained.
    before, after = (
        torch.load(path, weights_only=False)
        for path in (
            nequip_folder / f"{name}.ckpt",
            nequip_folder / name / "last.ckpt",
        )
    )
    assert (before["global_step"], after["global_step"]) == (2, 4)
