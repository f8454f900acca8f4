"""Conductivities while a potential is trained."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math

import lightning
import pytest
import torch

from pft_lightning import PhononDataModule, PhononSource
from pft_lightning.callbacks import ConductivityValidation, HessianLoss
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.evaluation.conductivity.runner import evaluate_conductivity
from pft_lightning.testing import PairPotential
from pft_lightning.training.module import PhononFineTuning
from tests.conftest import CUTOFF, ELEMENTS

from .crystals import PROTOCOL, frame, needs_phono3py, write_frames


AS_IT_IS = dataclasses.replace(PROTOCOL, relax=False)


@pytest.fixture(scope="module", autouse=True)
def phono3py() -> None:
    needs_phono3py()


@pytest.fixture
def structures(tmp_path):
    frames = (frame("mp-1"), frame("mp-2", 2.55), frame("mp-3", 2.45))
    return write_frames(tmp_path / "structures.xyz", *frames)


@pytest.fixture
def reference(structures, tmp_path):
    """Conductivities of another potential, which plays the part of DFT."""
    other = PairPotential(CUTOFF, ELEMENTS)
    other.stiffness.data *= 0.95
    found = evaluate_conductivity(
        other, structures, tmp_path / "dft", protocol=AS_IT_IS, progress=False
    )
    return found.leaderboard["model"]


def fit(world, folder, watched, steps=4):
    module = PhononFineTuning(
        PairPotential(CUTOFF, ELEMENTS),
        phonon_weights={},
        optimizer=lambda groups: torch.optim.Adam(groups, lr=1e-2),
    )
    data = PhononDataModule(
        PhononSource(world.phonons_train, world.phonons_train, batch_size=4),
        cache_dir=folder,
    )
    trainer = lightning.Trainer(
        callbacks=[HessianLoss(), watched],
        logger=False,
        enable_checkpointing=False,
        inference_mode=False,
        use_distributed_sampler=False,
        max_steps=steps,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    before = trainer.validate(module, data, verbose=False)[0]
    trainer.fit(module, data)
    return module.model, before, trainer.validate(module, data, verbose=False)[0]


@pytest.mark.filterwarnings("ignore:Training on phonons alone")
def test_the_numbers_are_those_of_an_evaluation_of_the_trained_potential(
    world, structures, reference, tmp_path
):
    watched = ConductivityValidation(
        str(structures), reference=reference, names=["mp-1"], protocol=AS_IT_IS
    )
    model, before, after = fit(world, tmp_path / "run", watched)
    found = evaluate_conductivity(
        model,
        structures,
        tmp_path / "again",
        reference=reference,
        protocol=AS_IT_IS,
        progress=False,
    )
    row = next(row for row in found.rows if row["name"] == "mp-1")
    # The same weights in float64, the same steps of the relaxation.
    for name, column in (("srme", "srme"), ("sre", "sre"), ("kappa_mp-1", "kappa")):
        assert after[f"conductivity/{name}"] == pytest.approx(row[column], rel=1e-9)
        assert before[f"conductivity/{name}"] != after[f"conductivity/{name}"]
    assert "conductivity/kappa_mp-2" not in after
    assert (tmp_path / "run" / "conductivity" / "per_material.csv").is_file()


@pytest.mark.filterwarnings("ignore:Training on phonons alone")
def test_a_crystal_without_a_conductivity_is_named_and_has_the_worst_score(
    world, reference, tmp_path
):
    # Stretched far beyond its minimum, where springs are negative.
    path = write_frames(tmp_path / "unstable.xyz", frame("mp-1", 3.4))
    watched = ConductivityValidation(path, reference=reference, protocol=AS_IT_IS)
    with pytest.warns(UserWarning, match="mp-1 has no conductivity: imaginary"):
        _, before, _ = fit(world, tmp_path / "run", watched, steps=1)
    assert math.isnan(before["conductivity/kappa_mp-1"])
    assert before["conductivity/srme"] == 2


def test_what_cannot_be_watched_is_refused_before_the_training(
    world, structures, tmp_path
):
    with pytest.raises(ConfigError, match="conductivity_validation\\.structures"):
        ConductivityValidation(None)
    with pytest.raises(ConfigError, match="no material is called 'mp-9'; expected"):
        ConductivityValidation(structures, names=["mp-9"])
    with pytest.raises(ConfigError, match="conductivity_validation\\.n=0"):
        ConductivityValidation(structures, n=0)
    table = tmp_path / "table.json.gz"
    table.write_bytes(gzip.compress(json.dumps({"mp_id": {}}).encode())[:-8])
    watched = ConductivityValidation(structures, reference=table)
    with pytest.raises(DataFormatError, match=r"table\.json\.gz"):
        fit(world, tmp_path / "run", watched)


def test_crystals_are_spread_over_their_list(structures):
    watched = ConductivityValidation(structures, n=2)
    assert [crystal.name for crystal in watched._crystals] == ["mp-1", "mp-2"]
