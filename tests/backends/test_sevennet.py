"""SevenNet checkpoints: exact derivatives, equality with SevenNet, files, refusals."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import ase
import pytest
import torch

from pft_lightning.adaptation import Delta, MultiHead, Scratch
from pft_lightning.backends.calculator import Calculator
from pft_lightning.backends.registry import load_model
from pft_lightning.errors import CheckpointError, ConfigError
from pft_lightning.testing import (
    build_crystal_batch,
    build_tiny_crystals,
    check_backend_conformance,
)


pytest.importorskip("sevenn", reason="SevenNet is not installed here")
pytestmark = pytest.mark.filterwarnings("ignore")  # of SevenNet, e3nn, torch

sys.path.insert(0, str(Path(__file__).parent))

from adapted import ADAPTATIONS, check_adapted, coverage, randomise  # noqa: E402
from conftest import assert_same_as  # noqa: E402
from sevennet_models import VARIANTS, XPLOR, config_of, write_checkpoint  # noqa: E402


HEADS = {"modalities": "R2SCAN"}


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sevennet")
    return {
        name: write_checkpoint(folder / f"{name}.pth", config_of(**options))
        for name, options in VARIANTS.items()
    }


@pytest.fixture
def load(files):
    def load(name: str, path: Path | None = None, dtype: str | None = "float64"):
        return load_model(path or files[name], dtype=dtype, head=HEADS.get(name))

    return load


def stock_calculator(path: Path, name: str):
    from sevenn.calculator import SevenNetCalculator

    with torch.random.fork_rng():
        return SevenNetCalculator(str(path), device="cpu", modal=HEADS.get(name))


@pytest.fixture
def in_float64(monkeypatch):
    """Let SevenNet's calculator, which is float32 throughout, compute in float64."""
    from sevenn import util

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    dtypes = torch.float64, torch.int64
    monkeypatch.setattr(util.dtype_correct, "__defaults__", dtypes)


def bond(r: float) -> ase.Atoms:
    return ase.Atoms("NaCl", positions=[[0.0, 0.0, 0.0], [r, 0.0, 0.0]])


def slope(model, r: float) -> float:
    """dE/dr of two atoms, eV/Å."""
    found = model.derivatives(build_crystal_batch([bond(r)], model.cutoff))
    return -float(found.forces[1, 0])


def curvature(model, r: float) -> float:
    """d²E/dr² of two atoms, eV/Å²."""
    tangents = torch.zeros(2, 1, 3, dtype=torch.float64)
    tangents[1, 0, 0] = 1.0
    batch = build_crystal_batch([bond(r)], model.cutoff)
    return float(model.derivatives(batch, tangents=tangents).hvp[1, 0, 0])


def test_derivatives_are_exact(load):
    check_backend_conformance(load("plain"))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "plain"])
def test_derivatives_of_other_networks_are_exact(load, name):
    model = load(name)
    crystals = build_tiny_crystals(model.atomic_numbers, model.cutoff)
    check_backend_conformance(model, {"small": crystals["small"]})


def test_its_smooth_cutoff_has_a_second_derivative_that_jumps(load):
    """XPLOR's, where it sets in: the analytic one is that of its side, exactly."""
    model, other = load("plain"), load("parity_nequip")
    jumps = [
        abs(curvature(each, 3.7 + 1e-6) - curvature(each, 3.7 - 1e-6))
        for each in (model, other)
    ]
    assert jumps[0] > 1e-4
    assert jumps[1] < 1e-6
    for r in (3.69, 3.71):
        step = 1e-4
        slopes = [slope(model, r + sign * step) for sign in (1, -1)]
        difference = (slopes[0] - slopes[1]) / (2 * step)
        assert abs(curvature(model, r) - difference) < 1e-7


@pytest.mark.parametrize("name", VARIANTS)
def test_same_as_the_calculator_of_sevennet(files, load, name, rattled, in_float64):
    calculator = stock_calculator(files[name], name)
    calculator.model.double()
    assert_same_as(calculator, load(name), rattled)


@pytest.mark.parametrize("name", VARIANTS)
def test_float32_same_as_the_calculator_of_sevennet(files, load, name, rattled):
    model = load(name, dtype=None)
    assert model.dtype == torch.float32
    assert_same_as(stock_calculator(files[name], name), model, rattled, 1e-5)


def test_modalities_are_different_potentials(files, rattled):
    energies = []
    for head in ("PBE", "R2SCAN"):
        rattled.calc = Calculator(load_model(files["modalities"], head=head))
        energies.append(rattled.get_potential_energy())
    assert abs(energies[0] - energies[1]) > 1.0


def test_published_names_are_found_in_the_package(rattled):
    model = load_model("7net-0")
    assert model.name == "sevennet"
    assert_same_as(stock_calculator(Path("7net-0"), "plain"), model, rattled, 1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_saved_checkpoint_opens_in_sevennet(load, name, rattled, tmp_path):
    model = load(name, dtype=None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.01
    path = tmp_path / f"new{model.file_suffix}"
    model.save(path)
    assert_same_as(stock_calculator(path, name), model, rattled, 1e-5)
    assert_same_as(Calculator(load(name, path, None)), model, rattled, 1e-14)


def test_weights_in_double_precision_are_kept(load, tmp_path):
    model = load("plain")
    randomise(model)
    model.save(tmp_path / "new.pth")
    again = load_model(tmp_path / "new.pth")
    assert again.dtype == torch.float64
    expected = model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in again.state_dict().items())


def test_saved_checkpoint_tells_the_shifts_that_it_holds(load, tmp_path):
    from sevenn.checkpoint import SevenNetCheckpoint

    model = load("plain", dtype=None)
    with torch.no_grad():
        model.network.rescale_atomic_energy.shift += 1.0
    model.save(tmp_path / "new.pth")
    found = SevenNetCheckpoint(tmp_path / "new.pth").config["shift"]
    assert [found[z] for z in (17, 14, 11)] == [0.0, -2.0, -1.0]


def test_saved_checkpoint_becomes_a_potential_of_lammps(load, tmp_path):
    from sevenn.scripts.deploy import deploy

    model = load("plain", dtype=None)
    model.save(tmp_path / "new.pth")
    with torch.random.fork_rng():
        deploy(str(tmp_path / "new.pth"), str(tmp_path / "deployed.pt"))
    assert torch.jit.load(tmp_path / "deployed.pt") is not None


@pytest.mark.parametrize("adaptation", sorted(ADAPTATIONS))
def test_adapted_derivatives_are_exact_and_merge_exactly(load, adaptation):
    check_adapted(load("plain"), ADAPTATIONS[adaptation])


@pytest.mark.parametrize("name", ["plain", "parity_nequip"])
def test_lora_reaches_every_linear_and_radial_weight(load, name):
    found = coverage(load(name))
    assert found["linear"] == 1.0
    assert found["radial"] == 1.0


def test_an_adapted_model_is_saved_merged(load, tmp_path):
    model = load("plain", dtype=None)
    Delta().apply(model)
    randomise(model)
    model.save(tmp_path / "merged.pth")
    again = load("plain", tmp_path / "merged.pth", None).state_dict()
    assert set(again) == set(load("plain").state_dict())
    name = "network.0_self_interaction_1.linear.weight"
    weight = model.network.get_submodule("0_self_interaction_1").linear.weight
    assert torch.equal(again[name], weight)
    assert not torch.equal(weight, load("plain", dtype=None).state_dict()[name])


def test_scratch_draws_weights_anew_and_keeps_statistics(load):
    model, base = (dict(load("plain").named_parameters()) for _ in range(2))
    fresh = load("plain")
    Scratch(seed=3).apply(fresh)
    model = dict(fresh.named_parameters())
    kept = {n for n, value in base.items() if torch.equal(model[n], value)}
    assert kept == {
        "network.edge_embedding.basis_function.coeffs",  # the same in every draw
        "network.rescale_atomic_energy.shift",
        "network.rescale_atomic_energy.scale",
        *(f"network.{i}_convolution.denominator" for i in range(2)),
        *(n for n, value in base.items() if value.numel() == 0),
    }


def test_every_weight_belongs_to_a_part(load):
    from pft_lightning.adaptation import describe_weights

    assert {w.part for w in describe_weights(load("plain"))} == {
        "embedding",
        "interaction_0",
        "interaction_1",
        "readout",
    }


@pytest.mark.parametrize(
    ("name", "head", "words"),
    [
        ("modalities", None, r"modalities\.pth: .*PBE, R2SCAN"),
        ("modalities", "SCAN", "PBE, R2SCAN"),
        ("plain", "PBE", "no modalities"),
    ],
)
def test_a_modality_that_is_not_there_is_refused(files, name, head, words):
    with pytest.raises(ConfigError, match=words):
        load_model(files[name], head=head)


def test_a_new_modality_is_left_to_sevennet(load):
    with pytest.raises(ConfigError, match="append_modal_yaml"):
        MultiHead(new_head="new").apply(load("modalities"))


def test_a_name_that_is_not_published_is_refused():
    with pytest.raises(CheckpointError, match="Known: 7net-0"):
        load_model("7net-9")


def changed(path: Path, tmp_path: Path, **config) -> Path:
    content = torch.load(path, weights_only=False)
    content["config"] |= config
    torch.save(content, tmp_path / "changed.pth")
    return tmp_path / "changed.pth"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"version": "99.0.0"}, "was written by SevenNet 99.0.0"),
        ({"version": None}, "version=None"),
        ({"version": 0.13}, "version=0.13"),
        ({"channel": 10**12}, "channel=1000000000000"),
        ({"channel": 100}, "channel=100; expected 1 to 36"),
        ({"channel": 7}, "7 features of degree"),
        ({"weight_nn_hidden_neurons": [5]}, "cannot build its network"),
        ({"channel": True}, "channel=True"),
        ({"num_convolution_layer": 10**6}, "num_convolution_layer=1000000"),
        ({"num_convolution_layer": 64}, "but weights of 2"),
        ({"lmax": 40}, "lmax=40"),
        ({"lmax": 8}, "degree 8"),
        ({"lmax": torch.zeros(3)}, "lmax=tensor"),
        ({"cutoff": float("nan")}, "cutoff=nan"),
        ({"cutoff": True}, "cutoff=True"),
        ({"cutoff": "4.5"}, "cutoff='4.5'"),
        ({"_type_map": {11: 0, 14: 0, 17: 1}}, "the places"),
        ({"_type_map": {11: 0.0, 14: 1.0, 17: 2.0}}, "the places"),
        ({"_type_map": {"Na": 0}}, "atomic_numbers"),
        ({"_number_of_species": torch.zeros(3)}, "of tensor"),
        ({"irreps_manual": ["6x0e", "99999999x3e", "6x0e"]}, "99999999x3e"),
        ({"irreps_manual": True}, "irreps_manual=True"),
        ({"irreps_manual": [1]}, r"irreps_manual=\[1\]"),
        ({"radial_basis": {"radial_basis_name": "none"}}, "expected bessel"),
        ({"radial_basis": {}}, "radial_basis_name=None"),
        ({"cutoff_function": XPLOR}, "cutoff_on=None"),
        ({"cutoff_function": XPLOR | {"cutoff_on": -1.0}}, "cutoff_on=-1.0"),
        ({"cutoff_function": XPLOR | {"cutoff_on": 4.5}}, "to less than 4.5"),
        ({"cutoff_function": {"cutoff_function_name": "x"}}, "poly_cut or XPLOR"),
        ({"weight_nn_hidden_neurons": [10**12]}, "hidden layers"),
        ({"weight_nn_hidden_neurons": [100, 100]}, "hidden layers"),
        ({"weight_nn_hidden_neurons": 3}, "hidden layers of 3"),
        (
            {"readout_as_fcn": True, "readout_fcn_hidden_neurons": [10**6] * 2},
            "readout_fcn_hidden_neurons: hidden layers",
        ),
        ({"is_parity": "no"}, "is_parity='no'; expected False or True"),
        ({"use_flash_tp": 1}, "use_flash_tp=1"),
        ({"cuequivariance_config": {"use": "no"}}, "cuequivariance_config.use='no'"),
        ({"act_gate": {"e": "relu"}}, "act_gate.e='relu'; expected ssp or silu"),
        ({"act_radial": None}, "act_radial=None"),
        ({"self_connection_type": ["linear"]}, "expected one a layer"),
        ({"use_modality": True}, "_modal_map"),
    ],
)
def test_a_configuration_that_lies_is_refused(files, tmp_path, config, words):
    with pytest.raises(CheckpointError, match=words):
        load_model(changed(files["plain"], tmp_path, **config))


@pytest.mark.parametrize(
    "config",
    [
        {"_modal_map": {"PBE": 0, "R2SCAN": 0}},
        {"_modal_map": {"PBE": 0, "R2SCAN": -1}},
        {"_modal_map": {"PBE": 0}},
        {"_modal_map": None},
        {"_number_of_modalities": 10**12},
    ],
)
def test_modalities_have_each_a_place_of_their_own(files, tmp_path, config):
    with pytest.raises(CheckpointError, match="_modal_map"):
        load_model(changed(files["modalities"], tmp_path, **config), head="PBE")


def test_names_of_modalities_that_are_not_used_are_none(files, tmp_path):
    path = changed(files["plain"], tmp_path, _modal_map={"PBE": 0})
    assert load_model(path).heads == ()


WEIGHT = "0_self_interaction_1.linear.weight"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (WEIGHT, [1.0], "something else than tensors"),
        (WEIGHT, torch.zeros(36, dtype=torch.complex64), "complex64, no real number"),
        (WEIGHT, torch.zeros(36, device="meta"), "no plain array"),
        ("0_convolution.denominator", torch.zeros(1), "denominator is 0; a positive"),
        ("0_convolution.denominator", torch.full((1,), torch.nan), "NaN or infinity"),
    ],
)
def test_weights_that_are_none_are_refused(files, tmp_path, name, value, words):
    content = torch.load(files["plain"], weights_only=False)
    content["model_state_dict"][name] = value
    torch.save(content, tmp_path / "changed.pth")
    with pytest.raises(CheckpointError, match=words):
        load_model(tmp_path / "changed.pth")


def test_weights_that_repeat_one_number_bear_out_no_large_network(files, tmp_path):
    content = torch.load(files["plain"], weights_only=False)
    content["model_state_dict"]["more"] = torch.zeros(1).expand(10**12)
    content["config"]["channel"] = 10**5
    torch.save(content, tmp_path / "changed.pth")
    with pytest.raises(CheckpointError, match="channel=100000; expected 1 to 36"):
        load_model(tmp_path / "changed.pth")


def test_a_checkpoint_that_calls_functions_is_refused(files, tmp_path):
    class Call:
        def __reduce__(self):
            return print, ("called",)

    path = changed(files["plain"], tmp_path, extra=Call())
    with pytest.raises(CheckpointError, match="print"):
        load_model(path)


def test_a_checkpoint_without_weights_is_refused(files, tmp_path):
    content = torch.load(files["plain"], weights_only=False)
    content["model_state_dict"].popitem()
    torch.save(content, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match="cannot build its network"):
        load_model(tmp_path / "short.pth")


def test_a_truncated_checkpoint_is_refused(files, tmp_path):
    data = files["plain"].read_bytes()
    (tmp_path / "short.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        load_model(tmp_path / "short.pth")


def test_deep_copies_compute_the_same(load, rattled):
    model = load("plain")
    assert_same_as(Calculator(copy.deepcopy(model)), model, rattled, 1e-14)
