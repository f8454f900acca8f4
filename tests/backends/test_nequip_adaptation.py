"""Adapted NequIP networks: exact derivatives, equivariance, merging."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from pft_lightning.adaptation import Delta, Freeze, MultiHead, Scratch
from pft_lightning.backends.calculator import Calculator
from pft_lightning.backends.registry import load_model
from pft_lightning.errors import ConfigError


pytest.importorskip("nequip", reason="NequIP is not installed here")
pytestmark = pytest.mark.filterwarnings("ignore")  # of NequIP, Lightning, torch

sys.path.insert(0, str(Path(__file__).parent))

from adapted import ADAPTATIONS, check_adapted, coverage, randomise  # noqa: E402
from conftest import assert_same_as  # noqa: E402
from test_nequip import stock_calculator  # noqa: E402


@pytest.fixture(scope="session")
def files(nequip_files) -> dict[str, Path]:
    return nequip_files


@pytest.mark.parametrize("name", sorted(ADAPTATIONS))
@pytest.mark.parametrize("file", ["float64", "package"])
def test_adapted_derivatives_are_exact_and_merge_exactly(files, file, name):
    check_adapted(load_model(files[file], dtype="float64"), ADAPTATIONS[name])


@pytest.mark.parametrize("file", ["float64", "package"])
def test_lora_reaches_every_matrix(files, file):
    found = coverage(load_model(files[file]))
    assert {"linear", "radial", "dense", "tensor_product"} <= set(found)
    found.pop("other", None)
    assert set(found.values()) == {1.0}


@pytest.mark.parametrize("name", sorted(ADAPTATIONS))
def test_a_merged_model_opens_in_nequip(files, name, rattled, tmp_path):
    model = load_model(files["float64"])
    ADAPTATIONS[name].apply(model)
    randomise(model)
    model.save(tmp_path / "merged.ckpt")
    assert_same_as(stock_calculator(tmp_path / "merged.ckpt"), model, rattled)
    written = Calculator(load_model(tmp_path / "merged.ckpt"))
    assert_same_as(written, model, rattled, 1e-12)


def test_scales_stay_in_float64_whatever_the_network_computes_in(files):
    model = load_model(files["float32"])
    Delta(targets=["scale_shift"]).apply(model)
    model.double().float()
    dtypes = {n: p.dtype for n, p in model.named_parameters() if "scales" in n}
    assert len(dtypes) == 2
    assert set(dtypes.values()) == {torch.float64}


def test_scratch_draws_what_nequip_draws_and_keeps_the_scales(files):
    """Two draws with one seed agree; scales and shifts stay."""
    model = load_model(files["float64"])
    before = {n: v.clone() for n, v in model.state_dict().items()}
    Scratch(seed=3).apply(model)
    for name, parameter in model.named_parameters():
        same = torch.equal(parameter, before[name])
        assert same == ("per_type_energy_scale_shift" in name), name
    again = load_model(files["float32"], dtype="float64")
    Scratch(seed=3).apply(again)
    for name, parameter in again.named_parameters():
        if "scale_shift" not in name:
            assert torch.equal(parameter, model.get_parameter(name)), name
    with pytest.raises(ConfigError, match="Give the checkpoint"):
        Scratch().apply(load_model(files["package"]))


def test_parts_can_be_frozen(files):
    model = load_model(files["float64"])
    found = Freeze(train=["interaction_1", "readout"]).apply(model)
    for name in found.parameters:
        assert "layer1_convnet" in name or "readout" in name
    assert len(found.parameters) == 6


def test_heads_are_refused(files):
    with pytest.raises(ConfigError, match="nequip models have no heads"):
        MultiHead().apply(load_model(files["float64"]))
