"""MACE networks: exact derivatives, equality with MACE, files of any e3nn."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pft_lightning.backends.calculator import Calculator, hessian_vector_product
from pft_lightning.backends.registry import load_model
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.testing import (
    build_crystal_batch,
    build_tiny_crystals,
    check_backend_conformance,
)


pytest.importorskip("mace", reason="MACE is not installed here")
pytestmark = pytest.mark.filterwarnings("ignore")  # of MACE, e3nn and TorchScript

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from conftest import DATA, assert_same_as  # noqa: E402
from models import VARIANTS, build_mace  # noqa: E402


HEADS = {"heads": "Default"}


def stock_calculator(path: Path, **options):
    from mace.calculators import MACECalculator

    # MACE itself loads pickles only where this is set, which importing us undoes.
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    before = torch.get_default_dtype()
    try:
        return MACECalculator(
            str(path), device="cpu", default_dtype="float64", **options
        )
    finally:
        del os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"]
        torch.set_default_dtype(before)


@pytest.fixture(scope="session")
def files(mace_files) -> dict[str, Path]:
    return mace_files


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_derivatives_are_exact(files, variant):
    model = load_model(files[variant], head=HEADS.get(variant))
    structures = None
    if variant == "no_scale_zbl_agnesi":
        # Keep pairs away from the ends of the ZBL term, where it has one derivative.
        structures = build_tiny_crystals(
            model.atomic_numbers, model.cutoff, spacing=2.0
        )
    check_backend_conformance(model, structures)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_same_as_mace_calculator(files, variant, rattled):
    head = HEADS.get(variant)
    model = load_model(files[variant], head=head)
    options = {"head": head} if head else {}
    assert_same_as(stock_calculator(files[variant], **options), model, rattled)


def test_float32_is_upcast_as_mace_does(files, rattled):
    model = load_model(files["float32"], dtype="float64")
    assert model.dtype == torch.float64
    assert load_model(files["float32"]).dtype == torch.float32
    assert_same_as(stock_calculator(files["float32"]), model, rattled)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_saved_model_opens_in_mace(files, variant, rattled, tmp_path):
    head = HEADS.get(variant)
    model = load_model(files[variant], head=head)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter *= 1.01
    path = tmp_path / f"new{model.file_suffix}"
    model.save(path)
    assert_same_as(
        stock_calculator(path, **({"head": head} if head else {})), model, rattled
    )
    assert_same_as(Calculator(load_model(path, head=head)), model, rattled, 1e-14)
    assert os.listdir(tmp_path) == [path.name]


def test_copies_and_pickles_stay_exact(files, rattled):
    """They must not turn into TorchScript, whose derivatives are wrong when warm."""
    model = load_model(files["scale_shift"])
    tangents = np.random.default_rng(1).normal(size=(4, 3))
    expected = hessian_vector_product(model, rattled, tangents)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for _ in range(5):
            found = hessian_vector_product(twin, rattled, tangents)
        assert np.abs(found - expected).max() < 1e-13
        assert not any(isinstance(m, torch.jit.ScriptModule) for m in twin.modules())


def test_heads(files, rattled):
    with pytest.raises(ConfigError, match=r"several heads.*pt_head.*Default"):
        load_model(files["heads"])
    with pytest.raises(ConfigError, match="head='nope'"):
        load_model(files["heads"], head="nope")
    energies = []
    for head in ("pt_head", "Default"):
        model = load_model(files["heads"], head=head)
        assert model.head == head
        rattled.calc = Calculator(model)
        energies.append(rattled.get_potential_energy())
    assert abs(energies[0] - energies[1]) > 1e-3


def test_only_the_head_in_use_gets_gradients(files, rattled):
    model = load_model(files["heads"], head="Default")
    batch = build_crystal_batch([rattled], model.cutoff)
    tangents = torch.ones(4, 1, 3).double()
    tangents[0] = 0
    model.derivatives(batch, tangents=tangents).hvp.square().sum().backward()
    gradient = model.network.readouts[0].linear.weight.grad.reshape(-1, 2)
    assert gradient[:, 0].abs().max() == 0
    assert gradient[:, 1].abs().max() > 0


def test_envelope_zeroes_edges_beyond_the_cutoff(files, rattled):
    """Even where nobody drops them."""
    model = load_model(files["scale_shift"])
    strain = torch.zeros(1, 3, 3).double()
    energies = []
    for cutoff in (model.cutoff, model.cutoff + 1.5):
        batch = build_crystal_batch([rattled], cutoff)
        energies.append(model.energy(batch, batch.positions, strain))
    assert abs(float(energies[0] - energies[1])) < 1e-12


@pytest.mark.parametrize("suffix", [".model", ".safetensors"])
@pytest.mark.parametrize("e3nn", ["0.4.4", "0.6.0"])
def test_files_of_either_e3nn(e3nn, suffix):
    """Written by ``data/write_models.py`` in an environment with that e3nn."""
    expected = json.loads((DATA / f"mace_e3nn_{e3nn}.json").read_text())
    model = load_model(DATA / f"mace_e3nn_{e3nn}{suffix}")
    atoms = build_tiny_crystals([11, 17], model.cutoff)["small"]
    atoms.calc = Calculator(model)
    assert abs(atoms.get_potential_energy() - expected["energy"]) < 1e-10
    assert np.abs(atoms.get_forces() - expected["forces"]).max() < 1e-10
    assert np.abs(atoms.get_stress() - expected["stress"]).max() < 1e-10


def test_old_trained_model(shared_data):
    path = shared_data / "models" / "mace_aiida-mlip_test_HCOZr.model"
    model = load_model(path, dtype="float64")
    assert model.atomic_numbers == (1, 6, 8, 40)
    # Zr and O: the elements of which it saw crystals.
    crystals = build_tiny_crystals([40, 8], model.cutoff, spacing=2.3)
    check_backend_conformance(model, crystals)


def test_example_model():
    path = Path(__file__).parents[2] / "pft_lightning" / "example" / "base.model"
    if not path.exists():
        pytest.skip("the example's base model is not built")
    model = load_model(path, dtype="float64")
    crystals = build_tiny_crystals(model.atomic_numbers, model.cutoff)
    check_backend_conformance(model, {"small": crystals["small"]})


def test_bad_files(files, tmp_path):
    truncated = tmp_path / "a.model"
    truncated.write_bytes(files["float32"].read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"a\.model.*truncated"):
        load_model(truncated)
    weights = tmp_path / "b.model"
    torch.save({"model": {}, "note": "mace.modules"}, weights)
    with pytest.raises(CheckpointError, match=r"b\.model: not a model file"):
        load_model(weights)
    with pytest.raises(CheckpointError, match=r"is a MACE model.*backend='nequip'"):
        load_model(files["float32"], backend="nequip")
    dipoles = tmp_path / "c.model"
    network = build_mace("scale_shift")
    type(network)  # a class that MACE has, but that is no energy model
    network.__class__ = __import__("mace.modules").modules.AtomicDipolesMACE
    torch.save(network, dipoles)
    with pytest.raises(CheckpointError, match=r"AtomicDipolesMACE.*energy models"):
        load_model(dipoles)


def test_names_of_foundation_models(monkeypatch, files):
    from mace.calculators import foundations_models

    asked = []

    def download(name):
        asked.append(name)
        return str(files["float32"])

    monkeypatch.setattr(foundations_models, "download_mace_mp_checkpoint", download)
    assert load_model("small").dtype == torch.float32
    assert asked == ["small"]
    with pytest.raises(CheckpointError, match=r"'smal' is neither.*medium-mpa-0"):
        load_model("smal")

    def fail(name):
        raise RuntimeError("no network")

    monkeypatch.setattr(foundations_models, "download_mace_mp_checkpoint", fail)
    with pytest.raises(CheckpointError, match=r"(?s)'medium'.*no network.*https"):
        load_model("medium")


def test_import_leaves_torch_load_safe():
    """MACE switches ``torch.load`` to unsafe for the whole process; we switch back."""
    code = (
        "import os; import pft_lightning.backends.mace.model; "
        "print(os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'))"
    )
    environment = {
        k: v for k, v in os.environ.items() if k != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    }
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert result.stdout.split()[-1] == "None"
