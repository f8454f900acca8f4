"""Adapted Nequix networks: exact derivatives, equivariance, merging."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from pft_lightning.adaptation import Delta, Scratch
from pft_lightning.backends.registry import load_model
from pft_lightning.errors import BackendUnavailableError


try:
    from pft_lightning.backends.nequix import files as nequix_files  # noqa: F401
except (ImportError, BackendUnavailableError) as error:
    pytest.skip(f"no e3nn for Nequix: {error}", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent))

from adapted import ADAPTATIONS, check_adapted, coverage, randomise
from nequix_models import write_model


@pytest.fixture(scope="session")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("nequix") / "model.pt"
    write_model(path)
    return path


@pytest.mark.parametrize("name", sorted(ADAPTATIONS))
def test_adapted_derivatives_are_exact_and_merge_exactly(file, name):
    check_adapted(load_model(file, dtype="float64"), ADAPTATIONS[name])


def test_lora_reaches_every_linear_and_radial_weight(file):
    found = coverage(load_model(file, dtype="float64"))
    assert found["linear"] == 1.0
    assert found["radial"] == 1.0


@pytest.mark.parametrize("suffix", [".pt", ".nqx"])
def test_an_adapted_model_is_saved_merged(file, tmp_path, suffix):
    model = load_model(file, dtype="float32")
    Delta().apply(model)
    randomise(model)
    saved = tmp_path / f"merged{suffix}"
    model.save(saved)
    reloaded = load_model(saved, dtype="float32").state_dict()
    assert set(reloaded) == set(load_model(file).state_dict())
    weight = model.network.layers[0].linear_1.weight
    assert torch.equal(reloaded["network.layers.0.linear_1.weight"], weight)
    assert not torch.equal(
        weight, load_model(file, dtype="float32").network.layers[0].linear_1.weight
    )


def test_scratch_draws_weights_anew_and_keeps_atomic_energies(file):
    model, base = (load_model(file, dtype="float64") for _ in range(2))
    Scratch(seed=3).apply(model)
    assert torch.equal(model.network.atom_energies, base.network.atom_energies)
    for (name, new), old in zip(
        model.network.named_parameters(), base.network.parameters(), strict=True
    ):
        if "affine_weight" not in name:
            assert not torch.equal(new, old), name
