"""Training on elastic constants: the same numbers, exact gradients, better crystals."""

from __future__ import annotations

import ase.io
import lightning
import numpy as np
import pytest
import torch
from elastic_crystals import label_crystals, write_crystals

import pft_lightning as pft
from pft_lightning import keys
from pft_lightning.callbacks import HessianLoss
from pft_lightning.data.elastic import ElasticCrystals
from pft_lightning.errors import ConfigError
from pft_lightning.graphs import build_batch
from pft_lightning.losses.elastic import CONSTANTS, MODULI, ElasticTarget, hill_moduli
from pft_lightning.physics.elasticity import average_moduli
from pft_lightning.testing import PairPotential
from pft_lightning.testing.differences import parameter_gradient_error
from pft_lightning.training.elastic import elastic_constants_of
from pft_lightning.training.splitting import Work
from tests.conftest import CUTOFF, ELEMENTS, true_potential


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Constants of some crystals by the true potential, moduli of the others."""
    root = tmp_path_factory.mktemp("elastic")
    frames = label_crystals()
    write_crystals(root / "train.xyz", frames[1:])
    write_crystals(root / "val.xyz", frames[:1])
    return root


@pytest.fixture
def batch(folder):
    source = ElasticCrystals(folder / "train.xyz", CUTOFF)
    items = [source.data(i) for i in range(len(source))]
    for item in items:
        item[keys.COUNTED] = torch.tensor([True])
    return build_batch(items)


def test_the_constants_of_a_batch_are_those_of_each_crystal(folder, batch):
    model = PairPotential(CUTOFF, ELEMENTS)
    for clamped in (False, True):
        batch[keys.CLAMPED] = torch.full((batch.num_graphs,), clamped)
        found = elastic_constants_of(model, batch).detach().numpy()
        for values, atoms in zip(
            found, ase.io.iread(folder / "train.xyz", format="extxyz"), strict=True
        ):
            expected = pft.elastic_constants(model, atoms)
            exact = expected.clamped if clamped else expected.relaxed
            # GPa, of some hundred: the evaluation gives the Hessian the symmetry that
            # the digits of the file have to 1e-8 Å (3e-8 seen).
            np.testing.assert_allclose(values, exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine", ["forward_over_reverse", "reverse_over_reverse"])
def test_the_gradient_is_that_of_relaxed_constants(batch, engine):
    """Differences move the ions anew for each weight; the gradient does not."""
    model = true_potential()
    target = ElasticTarget(kind="mse")
    # Labels far away, so that the gradient is no difference of small numbers.
    batch[keys.ELASTIC_CONSTANTS] *= 0.8
    batch[keys.MODULI] *= 0.8
    before = elastic_constants_of(model, batch).detach()
    clamped = batch.clone()
    clamped[keys.CLAMPED] = torch.ones(batch.num_graphs, dtype=torch.bool)
    moved = (elastic_constants_of(model, clamped) - before).detach()
    assert moved.abs().max() > 1  # GPa: the ions take part

    def loss(_engine):
        stiffness = elastic_constants_of(model, batch, engine)
        return torch.stack(
            [term.total for term in target.terms(stiffness, batch).values()]
        ).sum()

    # What differences of a relaxed energy leave, whose own rounding is 1e-12.
    assert parameter_gradient_error(model, loss) < 1e-6


def test_halves_of_a_batch_have_the_terms_of_the_whole(batch):
    model, target = PairPotential(CUTOFF, ELEMENTS), ElasticTarget()
    totals = []
    whole = Work(keys.ELASTIC, batch, None, elastic=target)
    for parts in ([whole], whole.halves()):
        terms = [
            part.elastic.terms(
                elastic_constants_of(model, part.structures), part.structures
            )
            for part in parts
        ]
        totals.append(
            [
                sum(float(of[name].total.detach()) for of in terms)
                for name in (CONSTANTS, MODULI)
            ]
        )
    assert all(total > 0 for total in totals[0])
    np.testing.assert_allclose(totals[1], totals[0], rtol=1e-12)
    counts = target.counts(batch)
    assert {name: int(count) for name, count in counts.items()} == {
        CONSTANTS: 2,
        MODULI: 2,
    }


def test_moduli_are_those_of_the_evaluation_and_finite_where_a_crystal_gives_way():
    rng = np.random.default_rng(2)
    root = rng.normal(size=(6, 6))
    stable = 50 * root @ root.T + 40 * np.eye(6)
    unstable = np.diag([100.0, 100, 100, 30, 30, -5])
    both = torch.tensor(np.stack([stable, unstable]), requires_grad=True)
    found = hill_moduli(both)
    expected = average_moduli(stable)
    np.testing.assert_allclose(
        found[0].detach(), [expected.bulk, expected.shear], rtol=1e-12
    )
    voigt = average_moduli(unstable)
    np.testing.assert_allclose(
        found[1].detach(), [voigt.bulk_voigt, voigt.shear_voigt], rtol=1e-12
    )
    found.sum().backward()
    assert bool(torch.isfinite(both.grad).all())
    assert float(both.grad[1, 5, 5]) > 0  # and pushes the crystal towards stability


def test_crystals_that_were_not_shown_become_better(world, folder, tmp_path):
    """On moduli and constants alone: force constants have next to no weight."""
    model = pft.load_model(world.base, dtype="float64")
    module = pft.PhononFineTuning(
        model,
        phonon_weights={"energy": 0, "forces": 0, "stress": 0},
        upstream_weights={"energy": 0, "forces": 0, "stress": 0},
        elastic=ElasticTarget({CONSTANTS: 1.0, MODULI: 1.0}),
        optimizer=lambda groups: torch.optim.Adam(groups, lr=3e-3),
    )
    data = pft.PhononDataModule(
        pft.PhononSource(world.phonons_train, world.phonons_val),
        elastic=pft.ElasticSource(
            folder / "train.xyz", folder / "val.xyz", batch_size=3
        ),
        mode="joint",
        cache_dir=tmp_path,
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=60,
        inference_mode=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[HessianLoss(weight=1e-9)],
    )
    before = trainer.validate(module, data, verbose=False)[-1]
    trainer.fit(module, data)
    after = trainer.validate(module, data, verbose=False)[-1]
    for name in ("constants", "bulk_modulus", "shear_modulus"):
        metric = f"elastic/{name}_mae"
        assert after[metric] < 0.7 * before[metric], (metric, before, after)


def test_weights_that_mean_nothing_are_refused():
    for weights in ({"constants": -1.0}, {"bulk": 1.0}, {"moduli": float("nan")}):
        with pytest.raises(ConfigError, match=r"loss\.elastic"):
            ElasticTarget(weights)
    with pytest.raises(ConfigError, match=r"loss\.kind\.elastic"):
        ElasticTarget(kind="l3")
