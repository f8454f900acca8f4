"""Allegro networks of nequip-allegro: exact, trained whole, kept in NequIP's files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from pft_lightning.adaptation import describe_weights
from pft_lightning.backends.registry import load_model
from pft_lightning.testing import build_tiny_crystals, check_backend_conformance


pytest.importorskip("allegro", reason="Allegro is not installed here")
pytestmark = pytest.mark.filterwarnings("ignore")  # of NequIP, Lightning, torch

sys.path.insert(0, str(Path(__file__).parent))

from adapted import ADAPTATIONS, check_adapted, coverage  # noqa: E402
from conftest import assert_same_as  # noqa: E402
from nequip_models import ALLEGRO_VARIANTS, write_checkpoints  # noqa: E402
from test_nequip import stock_calculator  # noqa: E402


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, Path]:
    return write_checkpoints(tmp_path_factory.mktemp("allegro"), ALLEGRO_VARIANTS)


@pytest.mark.parametrize("name", ALLEGRO_VARIANTS)
def test_derivatives_are_exact(files, name):
    model = load_model(files[name])
    crystals = build_tiny_crystals(model.atomic_numbers, model.cutoff)
    check_backend_conformance(model, {"small": crystals["small"]})


@pytest.mark.parametrize("name", ALLEGRO_VARIANTS)
def test_same_as_nequip_calculator(files, name, rattled):
    assert_same_as(stock_calculator(files[name]), load_model(files[name]), rattled)


def test_saved_checkpoint_opens_in_nequip(files, rattled, tmp_path):
    model = load_model(files["coupled"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.01
    model.save(tmp_path / "new.ckpt")
    assert_same_as(stock_calculator(tmp_path / "new.ckpt"), model, rattled)


def test_adapted_derivatives_are_exact_and_merge_exactly(files):
    check_adapted(load_model(files["coupled"]), ADAPTATIONS["lora"])


def test_lora_reaches_every_matrix(files):
    """What it does not reach without coupled paths is one number for each path."""
    assert coverage(load_model(files["coupled"])) == {"dense": 1.0, "radial": 1.0}
    without = coverage(load_model(files["no_parity"]))
    assert without == {"dense": 1.0, "radial": 1.0, "other": 0.0}


def test_every_weight_belongs_to_a_part(files):
    parts = {weight.part for weight in describe_weights(load_model(files["coupled"]))}
    layers = {"interaction_0", "interaction_1"}
    assert parts == layers | {"embedding", "readout", "scale_shift"}


def test_its_own_tensor_products_are_left_to_it(files):
    """They sum over neighbours before the product: there are no messages to compile."""
    assert not load_model(files["coupled"]).arrangement().groups_edges
