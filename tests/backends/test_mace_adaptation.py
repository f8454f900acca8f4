"""Adapted MACE networks: exact derivatives, equivariance, merging, heads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from pft_lightning import keys
from pft_lightning.adaptation import (
    Delta,
    Freeze,
    FullFineTuning,
    LoRA,
    MultiHead,
    Scratch,
    describe_weights,
)
from pft_lightning.backends.calculator import Calculator
from pft_lightning.backends.registry import load_model
from pft_lightning.errors import ConfigError
from pft_lightning.testing import build_crystal_batch


pytest.importorskip("mace", reason="MACE is not installed here")
pytestmark = pytest.mark.filterwarnings("ignore")  # of MACE, e3nn and TorchScript

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from adapted import ADAPTATIONS, check_adapted, coverage, randomise  # noqa: E402
from conftest import assert_same_as  # noqa: E402
from models import VARIANTS  # noqa: E402
from test_mace import stock_calculator  # noqa: E402


@pytest.fixture(scope="session")
def files(mace_files) -> dict[str, Path]:
    return mace_files


def load(files, variant):
    return load_model(files[variant], head="Default" if variant == "heads" else None)


@pytest.mark.parametrize("name", sorted(ADAPTATIONS))
@pytest.mark.parametrize("variant", ["scale_shift", "density_orders", "nonlinear"])
def test_adapted_derivatives_are_exact_and_merge_exactly(files, variant, name):
    check_adapted(load(files, variant), ADAPTATIONS[name])


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_lora_reaches_every_matrix(files, variant):
    found = coverage(load(files, variant))
    assert {"linear", "radial", "contraction"} <= set(found)
    assert found.pop("other", 0) == 0
    assert set(found.values()) == {1.0}


@pytest.mark.parametrize("name", sorted(ADAPTATIONS))
@pytest.mark.parametrize("variant", ["scale_shift", "nonlinear"])
def test_a_merged_model_opens_in_mace(files, variant, name, rattled, tmp_path):
    model = load(files, variant)
    ADAPTATIONS[name].apply(model)
    randomise(model)
    path = tmp_path / "merged.model"
    model.save(path)
    assert_same_as(stock_calculator(path), model, rattled)
    assert_same_as(Calculator(load_model(path)), model, rattled, 1e-12)


@pytest.mark.parametrize(
    ("adaptation", "trained"),
    [
        (Freeze(train=["readout"]), {"readouts"}),
        (
            Freeze(train=["interaction_1", "product_1"]),
            {"interactions.1", "products.1"},
        ),
        (
            Freeze(freeze=["embedding", "interaction_*", "contraction"]),
            {"products.0.linear", "products.1.linear", "readouts"},
        ),
        (Freeze(train=["radial"]), {"interactions.0.conv", "interactions.1.conv"}),
    ],
)
def test_freezing_trains_exactly_the_named_parts(files, adaptation, trained):
    model = load(files, "scale_shift")
    found = adaptation.apply(model)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert set(found.parameters) == set(found.reached) == names
    for name, _ in model.named_parameters():
        is_named = name.startswith(tuple(f"network.{t}" for t in trained))
        assert is_named == (name in names), name


def test_scratch_draws_what_mace_draws_and_keeps_the_statistics(files, rattled):
    """The files of the tests hold weights drawn with seed 0, never trained."""
    model = load(files, "scale_shift")
    before = {n: v.clone() for n, v in model.state_dict().items()}
    Scratch(seed=1).apply(model)
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    for name, buffer in model.named_buffers():
        if name in before:
            assert torch.equal(buffer, before[name]), name
    Scratch(seed=0).apply(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def energies(model, atoms) -> torch.Tensor:
    batch = build_crystal_batch([atoms], model.cutoff)
    return model.derivatives(batch, forces=False, stress=False).energy.detach()


@pytest.mark.parametrize("variant", ["scale_shift", "heads", "nonlinear"])
def test_a_new_head_starts_as_a_copy_and_is_trained_alone(files, variant, rattled):
    model = load(files, variant)
    base, old = energies(model, rattled), model.head
    elements = {"Na": -1.5}
    adaptation = MultiHead(atomic_energies=elements)
    assert adaptation.heads(old) == {"phonon": "phonon", "upstream": old}
    adaptation.apply(model)
    assert model.heads[-1] == model.head == "phonon"
    # Na is known at -1 eV to the model; there are two of them.
    assert abs(float(energies(model, rattled) - base) + 2 * 0.5) < 1e-11
    model.head = old
    assert abs(float(energies(model, rattled) - base)) < 1e-11
    model.head = "phonon"
    batch = build_crystal_batch([rattled], model.cutoff)
    tangents = torch.ones(4, 1, 3).double()
    tangents[0] = 0
    model.derivatives(batch, tangents=tangents).hvp.square().sum().backward()
    layer = getattr(model.network.readouts[0], "linear", None)
    layer = layer or model.network.readouts[0].linear_2
    gradient = layer.weight.grad.reshape(-1, len(model.heads))
    assert gradient[:, :-1].abs().max() == 0
    assert gradient[:, -1].abs().max() > 0


def test_structures_may_name_their_head(files, rattled):
    model = load(files, "heads")
    found = []
    for head in model.heads:
        model.head = head
        found.append(energies(model, rattled))
    model.head = "Default"
    batch = build_crystal_batch([rattled] * 3, model.cutoff)
    batch[keys.HEAD] = ["pt_head", "", "Default"]
    result = model.derivatives(batch, forces=False, stress=False).energy.detach()
    expected = torch.cat([found[0], found[1], found[1]])
    # Batching changes the order of sums.
    assert (result - expected).abs().max() < 1e-12
    batch[keys.HEAD] = ["dft", "", ""]
    with pytest.raises(ConfigError, match="head 'dft'; the model has the heads"):
        model.derivatives(batch)


def test_a_model_with_a_new_head_opens_in_mace(files, rattled, tmp_path):
    model = load(files, "scale_shift")
    MultiHead().apply(model)
    randomise(model)
    path = tmp_path / "heads.model"
    model.save(path)
    for head in model.heads:
        assert_same_as(
            stock_calculator(path, head=head), load_model(path, head=head), rattled
        )
    assert energies(load_model(path, head="phonon"), rattled) == energies(
        model, rattled
    )


@pytest.mark.parametrize(
    ("adaptation", "message"),
    [
        (LoRA(targets=["interactions.0.linear_upp.*"]), r"0 of 2\d.*linear_up\.weight"),
        (Freeze(train=["readuot"]), "Nearest: readout"),
        (Freeze(freeze=["*"]), "nothing is left to train"),
        (MultiHead(new_head="Default"), "already has a head 'Default'"),
        (MultiHead(upstream_head="pbe"), "upstream_head is 'pbe'.*Default, phonon"),
        (MultiHead(atomic_energies={"Xx": 1.0}), "Xx; the model knows Na"),
    ],
)
def test_what_does_not_fit_the_model_is_named(files, adaptation, message):
    with pytest.raises(ConfigError, match=message):
        adaptation.apply(load(files, "scale_shift"))


def test_an_adapted_model_is_not_adapted_again(files):
    model = load(files, "scale_shift")
    Delta().apply(model)
    with pytest.raises(ConfigError, match="adapted already"):
        FullFineTuning().apply(model)


def test_parts_and_kinds_of_every_weight(files):
    for variant in VARIANTS:
        for weight in describe_weights(load(files, variant)):
            assert weight.part, weight.name
            assert sum(r * c for r, c in weight.blocks) == weight.parameter.numel()
