"""NequIP checkpoints and packages: exact derivatives, equality with NequIP."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
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


pytest.importorskip("nequip", reason="NequIP is not installed here")
pytestmark = pytest.mark.filterwarnings("ignore")  # of NequIP, Lightning, torch

sys.path.insert(0, str(Path(__file__).parent))

from conftest import assert_same_as  # noqa: E402
from nequip_models import (  # noqa: E402
    package,
    write_checkpoint,
)


@pytest.fixture(scope="session")
def files(nequip_files) -> dict[str, Path]:
    return nequip_files


def stock_calculator(path: Path):
    from nequip.integrations.ase import NequIPCalculator
    from nequip.utils import global_state

    from pft_lightning.backends.nequip.files import nequip_state

    with nequip_state():
        calculator = NequIPCalculator._from_saved_model(
            str(path), device="cpu", chemical_species_to_atom_type_map=True
        )
    assert not global_state.global_state_initialized()
    original = calculator.calculate

    def calculate(*args, **kwargs):
        # It takes torch's default dtype for positions, which has to be float64.
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        original(*args, **kwargs)
        torch.set_default_dtype(before)

    calculator.calculate = calculate
    return calculator


@pytest.mark.parametrize("name", ["float64", "float32", "cutoffs", "package"])
def test_derivatives_are_exact(files, name):
    model = load_model(files[name], dtype="float64")
    check_backend_conformance(model)


def test_derivatives_with_a_pair_potential(files):
    model = load_model(files["zbl_parity"])
    structures = build_tiny_crystals(model.atomic_numbers, model.cutoff, spacing=2.0)
    check_backend_conformance(model, {"small": structures["small"]})


@pytest.mark.parametrize("name", ["float64", "cutoffs", "zbl_parity"])
def test_same_as_nequip_calculator(files, name, rattled):
    """And so of the averaged weights, which NequIP takes where there are any."""
    assert_same_as(stock_calculator(files[name]), load_model(files[name]), rattled)


@pytest.mark.parametrize("name", ["float32", "package"])
def test_float32_same_as_nequip_calculator(files, name, rattled):
    model = load_model(files[name])
    assert model.dtype == torch.float32
    assert model.input_dtype == torch.float64
    assert_same_as(stock_calculator(files[name]), model, rattled, 1e-5)


@pytest.mark.parametrize("name", ["float64", "cutoffs"])
def test_saved_checkpoint_opens_in_nequip(files, name, rattled, tmp_path):
    model = load_model(files[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.01
    path = tmp_path / f"new{model.file_suffix}"
    model.save(path)
    assert_same_as(stock_calculator(path), model, rattled)
    assert_same_as(Calculator(load_model(path)), model, rattled, 1e-14)


def test_saved_checkpoint_can_be_packaged(files, rattled, tmp_path):
    model = load_model(files["float64"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.01
    model.save(tmp_path / "new.ckpt")
    package(tmp_path / "new.ckpt", tmp_path / "new.nequip.zip")
    assert_same_as(Calculator(load_model(tmp_path / "new.nequip.zip")), model, rattled)


def test_saved_package_opens_in_nequip(files, rattled, tmp_path):
    model = load_model(files["package"])
    assert model.file_suffix == ".nequip.zip"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.01
    path = tmp_path / "new.nequip.zip"
    model.save(path)
    assert_same_as(stock_calculator(path), model, rattled, 1e-5)
    assert_same_as(Calculator(load_model(path)), model, rattled, 1e-5)


def test_change_of_dtype(files, rattled):
    """Loaded in float64, or converted later as Lightning's precision plugins do."""
    model = load_model(files["float32"], dtype="float64")
    later = load_model(files["float32"]).double()
    assert later.dtype == torch.float64
    assert_same_as(Calculator(later), model, rattled, 1e-13)
    single = load_model(files["float64"], dtype=torch.float32)
    double = load_model(files["float64"])
    assert single.dtype == torch.float32
    assert_same_as(Calculator(single), double, rattled, 1e-4)
    with pytest.raises(AssertionError):
        assert_same_as(Calculator(single), double, rattled, 1e-12)


def test_a_copy_has_the_buffers_of_the_model(files, tmp_path, rattled):
    # e3nn alone adds constants of products of a higher degree; Lightning's moving
    # average pairs the buffers of both by their order.
    path, frames = tmp_path / "degrees.ckpt", files["float64"].parent / "frames.xyz"
    from pft_lightning.backends.nequip.files import nequip_state

    with nequip_state():
        write_checkpoint(path, frames, num_layers=3, l_max=2)
    model = load_model(path)
    twin = copy.deepcopy(copy.deepcopy(model))
    for found in (model.named_buffers, model.named_parameters):
        names = [name for name, _ in getattr(twin, found.__name__)()]
        assert names == [name for name, _ in found()]
    twin.load_state_dict(model.state_dict())
    model.load_state_dict(twin.state_dict())
    atoms = rattled.copy()
    assert Calculator(twin).get_potential_energy(atoms) == pytest.approx(
        Calculator(model).get_potential_energy(atoms), abs=1e-12
    )


def test_copies_and_pickles(files, rattled):
    model = load_model(files["float64"])
    tangents = np.random.default_rng(1).normal(size=(4, 3))
    expected = hessian_vector_product(model, rattled, tangents)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        found = hessian_vector_product(twin, rattled, tangents)
        assert np.abs(found - expected).max() < 1e-13


def test_envelope_zeroes_edges_beyond_the_cutoffs(files, rattled):
    """Even where nobody drops them."""
    model = load_model(files["cutoffs"])
    prepared = model.prepare(build_crystal_batch([rattled], model.cutoff))
    longer = build_crystal_batch([rattled], model.cutoff + 1.5)
    assert prepared.num_edges < build_crystal_batch([rattled], model.cutoff).num_edges
    strain = torch.zeros(1, 3, 3).double()
    energies = [model.energy(b, b.positions, strain) for b in (prepared, longer)]
    assert abs(float(energies[0] - energies[1])) < 1e-12


def test_recognised_by_content(files, rattled, tmp_path):
    for name in ("package", "float64"):
        path = tmp_path / f"{name}.bin"
        shutil.copy(files[name], path)
        assert load_model(path).name == "nequip"


def test_bad_files(files, tmp_path):
    with pytest.raises(CheckpointError, match=r"NequIP checkpoint.*backend='mace'"):
        load_model(files["float64"], backend="mace")
    with pytest.raises(ConfigError, match="no heads"):
        load_model(files["float64"], head="Default")
    truncated = tmp_path / "a.ckpt"
    truncated.write_bytes(files["float64"].read_bytes()[:20000])
    with pytest.raises(CheckpointError, match=r"a\.ckpt.*truncated"):
        load_model(truncated)
    content = torch.load(files["float64"], weights_only=False)
    training = content["hyper_parameters"]["info_dict"]["training_module"]
    training["_target_"] = "absent_extension.Module"
    torch.save(content, tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match=r"absent_extension\.Module.*trust=true"):
        load_model(tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match=r"(?s)absent_extension.*extensions"):
        load_model(tmp_path / "b.ckpt", trust=True)
    model = load_model(files["package"])
    model.origin = tmp_path / "gone.nequip.zip"
    with pytest.raises(CheckpointError, match=r"gone\.nequip\.zip, is gone"):
        model.save(tmp_path / "c.nequip.zip")


def edited(files, path: Path, edit) -> Path:
    """A checkpoint with other content."""
    content = torch.load(files["float64"], weights_only=False)
    edit(content["hyper_parameters"])
    torch.save(content, path)
    return path


CALL = {"_target_": "pathlib.Path.touch", "_args_": ["called"]}


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("model", {"_target_": "os.system", "command": "touch called"}),
        ("loss", CALL),
        ("val_metrics", {"metrics": [{"metric": CALL}]}),
        ("_instantiator", "os.system"),
        # Found through what a module of NequIP imports.
        ("model", {"_target_": "nequip.model.utils.torch.hub.load"}),
        ("model", {"_target_": "nequip.model.modify", "model": CALL}),
        ("train_metrics", {"_target_": "${oc.env:HOME}"}),
        ("model", {"_target_": "nequip.model.ModelFromPackage", "package_path": "a"}),
    ],
)
def test_nothing_but_parts_of_nequip_is_called(
    files, tmp_path, monkeypatch, section, value
):
    monkeypatch.chdir(tmp_path)
    path = edited(files, tmp_path / "a.ckpt", lambda h: h.update({section: value}))
    with pytest.raises(CheckpointError, match=r"a\.ckpt.*model\.trust=true"):
        load_model(path)
    assert not (tmp_path / "called").exists()


def test_pickles_of_checkpoints_are_data(files, tmp_path, monkeypatch):
    """Also in the checkpoint that another was fine-tuned from."""
    monkeypatch.chdir(tmp_path)

    class Hostile:
        def __reduce__(self):
            return os.system, ("touch called",)

    content = torch.load(files["float64"], weights_only=False)
    torch.save({**content, "note": Hostile()}, "hostile.ckpt")
    model = {
        "_target_": "nequip.model.ModelFromCheckpoint",
        "checkpoint_path": str(tmp_path / "hostile.ckpt"),
    }
    tuned = edited(files, tmp_path / "tuned.ckpt", lambda h: h.update(model=model))
    for path in (tmp_path / "hostile.ckpt", tuned):
        with pytest.raises(CheckpointError, match=r"system.*model\.trust=true"):
            load_model(path)
    assert not (tmp_path / "called").exists()
    model["checkpoint_path"] = str(files["float64"])
    edited(files, tuned, lambda h: h.update(model=model))
    assert load_model(tuned).cutoff == load_model(files["float64"]).cutoff


def test_a_package_says_once_that_it_runs_code(files, tmp_path, caplog):
    path = shutil.copy(files["package"], tmp_path / "a.nequip.zip")
    for _ in range(2):
        load_model(path)
    ours = [r.message for r in caplog.records if r.name.startswith("pft_lightning")]
    assert ours == [
        f"{path} is a package: its own Python code builds the network, and runs now."
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_layers", 10**6),
        ("l_max", 50),
        ("num_features", 10**9),
        ("radial_mlp_width", 10**9),
        ("r_max", 1e9),
        ("r_max", float("nan")),
        ("num_bessels", 10**9),
    ],
)
def test_sizes_are_refused_before_anything_is_built(files, tmp_path, name, value):
    path = edited(
        files, tmp_path / "a.ckpt", lambda h: h["model"].update({name: value})
    )
    with pytest.raises(CheckpointError, match=rf"{name}=.*expected"):
        load_model(path)


def test_a_network_without_parameters_is_refused(files, tmp_path):
    def edit(parameters):
        kept = ("seed", "model_dtype", "type_names", "r_max")
        parameters["model"] = {
            "_target_": "nequip.model.ZBLPairPotential",
            **{key: parameters["model"][key] for key in kept},
            "chemical_species": parameters["model"]["type_names"],
            "units": "metal",
        }

    path = edited(files, tmp_path / "a.ckpt", edit)
    content = torch.load(path, weights_only=False)
    content["hyper_parameters"]["info_dict"]["training_module"]["_target_"] = (
        "nequip.train.NequIPLightningModule"
    )
    content["hyper_parameters"].pop("ema_decay")
    from nequip.model import ZBLPairPotential

    from pft_lightning.backends.nequip.files import nequip_state

    with nequip_state():
        options = dict(content["hyper_parameters"]["model"])
        del options["_target_"]
        state = ZBLPairPotential(**options).state_dict()
    kept = {
        key: value
        for key, value in content["state_dict"].items()
        if not key.startswith(("model.", "ema."))
    }
    named = {f"model.sole_model.{key}": value for key, value in state.items()}
    content["state_dict"] = {**kept, **named}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="no parameters"):
        load_model(path)
