from __future__ import annotations

from dataclasses import replace
from typing import get_args

import lightning
import numpy as np
import pytest
import torch

from pft_lightning import PhononDataModule, PhononSource, keys
from pft_lightning.backends.pair import PairPotential
from pft_lightning.callbacks import HessianLoss, PropertyLoss
from pft_lightning.data.commensurate import fold_record, q_point_orders
from pft_lightning.data.records import StructureRecord, to_data
from pft_lightning.data.store import PhononStore, building
from pft_lightning.errors import ConfigError
from pft_lightning.graphs import build_batch, build_graph
from pft_lightning.losses.properties import Property, PropertyErrors, metric_of
from pft_lightning.physics.property_probes import PropertyProbe
from pft_lightning.physics.wave_probes import CommensurateProbe
from pft_lightning.training.module import PhononFineTuning
from pft_lightning.training.spectra import compare_spectra, hessian_rows
from pft_lightning.training.splitting import Work
from tests.conftest import CUTOFF, ELEMENTS, true_potential


PROPERTIES = get_args(Property)
ERRORS = PropertyErrors(temperatures=(50.0, 300.0), kind="mse")


@pytest.fixture(scope="module")
def store(world, tmp_path_factory) -> PhononStore:
    path = tmp_path_factory.mktemp("properties") / "s.store"
    building.build_store(world.phonons_train, path, cutoff=CUTOFF, progress=False)
    return PhononStore(path)


def batch_of(*records: StructureRecord):
    structures = []
    for record in records:
        graph = build_graph(record.positions, record.cell, record.pbc, CUTOFF)
        structures.append(to_data(record, graph))
        structures[-1][keys.COUNTED] = torch.tensor([True])
    return build_batch(structures)


def record_of(store, name: str, cell: str = "supercell") -> StructureRecord:
    """A supercell, or the commensurate cell of a q-point of the highest order."""
    record = store.record(store.names.index(name))
    if cell == "supercell":
        return record
    return fold_record(record, int(np.argmax(q_point_orders(record))))


def test_rows_are_the_force_constants_of_the_potential(store):
    """The truth's are known but for the finite displacements of phonopy."""
    record = record_of(store, "NaCl")
    rows = hessian_rows(true_potential(), batch_of(record))
    np.testing.assert_allclose(rows, record.force_constants.compact, atol=2e-3)
    exact = PairPotential(CUTOFF, ELEMENTS)
    rows = hessian_rows(exact, batch_of(record))
    batch = batch_of(record)
    n_atoms = record.n_atoms
    unit = torch.eye(3 * n_atoms, dtype=torch.float64).reshape(-1, n_atoms, 3)
    full = exact.derivatives(batch, tangents=unit.movedim(0, 1)).hvp.detach()
    full = full.reshape(n_atoms, n_atoms, 3, 3).permute(1, 0, 2, 3).numpy()
    own = record.force_constants.representatives()
    np.testing.assert_allclose(rows, full[own], atol=1e-12)


def losses_of(model, batch, name, errors) -> float:
    return compare_spectra(model, batch, errors, {name: 1.0}).losses[name]


@pytest.mark.parametrize("cell", ["supercell", "commensurate"])
@pytest.mark.parametrize("crystal", ["LiF", "NaCl"])
@pytest.mark.parametrize(
    ("name", "assignment"),
    [*((name, "order") for name in PROPERTIES), ("frequencies", "overlap")],
)
def test_gradients_to_the_weights_are_central_differences(
    store, name, assignment, crystal, cell
):
    """Of the second pass along all directions; the crystals have degenerate modes.

    Those of NaCl are imaginary in part.
    """
    record = record_of(store, crystal, cell)
    batch = batch_of(record)
    model = PairPotential(CUTOFF, ELEMENTS)
    errors = replace(ERRORS, assignment=assignment)
    found = compare_spectra(model, batch, errors, {name: 1.0})
    # Signs with all directions once: the sum over unit vectors is the mean over signs.
    n_atoms = record.n_atoms
    unit = np.eye(3 * n_atoms).reshape(n_atoms, 3, -1).transpose(0, 2, 1)
    tangents, cotangents = found.directions(record.force_constants, unit)
    hvp = model.derivatives(batch, tangents=torch.from_numpy(tangents)).hvp
    total = (torch.from_numpy(cotangents) * hvp).sum()
    weights = [model.depth, model.stiffness, model.radius]
    gradients = torch.autograd.grad(total, weights)
    for weight, gradient in zip(weights, gradients, strict=True):
        assert torch.isfinite(gradient).all()
        direction = torch.linspace(0.5, 1, len(weight), dtype=torch.float64)
        expected = difference(model, weight, direction, batch, name, errors)
        along = float((gradient * direction).sum())
        assert along == pytest.approx(expected, rel=1e-6, abs=1e-7 * found.losses[name])


def difference(model, weight, direction, batch, name, errors) -> float:
    """Central difference along a direction, of the fourth order in its step."""

    def of_step(step: float) -> float:
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(direction, alpha=sign * step)
            ends.append(losses_of(model, batch, name, errors))
            with torch.no_grad():
                weight.sub_(direction, alpha=sign * step)
        return (ends[0] - ends[1]) / (2 * step)

    return (4 * of_step(2e-5) - of_step(4e-5)) / 3


def test_sampled_gradients_are_right_on_average(store):
    record = record_of(store, "NaCl")
    batch = batch_of(record)
    model = PairPotential(CUTOFF, ELEMENTS)
    found = compare_spectra(model, batch, ERRORS, {"frequencies": 1.0, "entropy": 0.1})
    signs = PropertyProbe(n_probes=200, seed=3).draw(record.n_atoms, "NaCl", 0)

    def samples(of: np.ndarray) -> np.ndarray:
        tangents, cotangents = found.directions(record.force_constants, of)
        model.zero_grad()
        gradients = []
        for k in range(of.shape[1]):
            hvp = model.derivatives(
                batch, tangents=torch.from_numpy(tangents[:, k : k + 1]).contiguous()
            ).hvp[:, 0]
            total = (torch.from_numpy(cotangents[:, k]) * hvp).sum()
            gradients.append(float(torch.autograd.grad(total, model.depth)[0].sum()))
        return np.array(gradients)

    n_atoms = record.n_atoms
    unit = np.eye(3 * n_atoms).reshape(n_atoms, 3, -1).transpose(0, 2, 1)
    exact = samples(unit).sum()
    drawn = samples(signs)
    # Four standard errors of the mean: one false alarm in 16,000.
    margin = 4 * drawn.std() / np.sqrt(len(drawn))
    assert abs(drawn.mean() - exact) < margin < 0.1 * abs(exact)


def test_draws_depend_on_seed_step_and_structure_alone():
    def draw(seed, step, name):
        return PropertyProbe(2, seed=seed).draw(5, name, step)

    reference = draw(1, 7, "NaCl")
    assert reference.shape == (5, 2, 3)
    assert set(np.unique(reference)) == {-1.0, 1.0}
    np.testing.assert_array_equal(draw(1, 7, "NaCl"), reference)
    for other in [(2, 7, "NaCl"), (1, 8, "NaCl"), (1, 7, "MgO")]:
        assert not np.array_equal(draw(*other), reference)


def test_a_share_of_the_structures_is_computed():
    probe = PropertyProbe(share=0.25)
    drawn = [probe.draw(1, "NaCl", step) is not None for step in range(2000)]
    # Five standard deviations of the number of them.
    assert abs(sum(drawn) - 500) < 5 * np.sqrt(2000 * 0.25 * 0.75)


def test_the_step_has_the_losses_and_the_gradient_of_halves(store):
    batch = batch_of(*(record_of(store, name) for name in ("LiF", "NaCl", "Si")))
    model = PairPotential(CUTOFF, ELEMENTS)
    loss = PropertyLoss({"frequencies": 2.0, "heat_capacity": 0.5}, compared=ERRORS)
    target = loss.request(batch, 0, model)
    work = Work(keys.PHONON, batch, None, properties=target)

    def terms(part: Work) -> dict[str, torch.Tensor]:
        hvp = model.derivatives(part.structures, tangents=part.tangents).hvp
        _, products = part.share_products(hvp)
        found = part.properties.terms(products, part.structures)
        return {name: term.total for name, term in found.items()}

    def gradient(found: dict[str, torch.Tensor]) -> torch.Tensor:
        total = sum(loss.weights[name] * term for name, term in found.items())
        return torch.autograd.grad(total, model.stiffness)[0]

    whole, halves = terms(work), [terms(half) for half in work.halves()]
    for name, value in whole.items():
        expected = sum(
            losses_of(model, build_batch([batch[i]]), name, ERRORS) for i in range(3)
        )
        np.testing.assert_allclose(float(value), expected, rtol=1e-12)
        np.testing.assert_allclose(
            sum(float(half[name]) for half in halves), expected, rtol=1e-12
        )
    np.testing.assert_allclose(
        sum(gradient(half) for half in halves), gradient(whole), rtol=1e-10
    )


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match=r"loss\.phonon\.entropy is nan"):
        PropertyLoss({"entropy": float("nan")})
    with pytest.raises(ConfigError, match="no weight above 0"):
        PropertyLoss({"entropy": 0.0})
    with pytest.raises(ConfigError, match="n_property_probes is 0"):
        PropertyProbe(0)
    with pytest.raises(ConfigError, match=r"property_share is 0\.0; above 0"):
        PropertyProbe(share=0.0)
    with pytest.raises(ConfigError, match=r"loss\.kind\.properties is 'best'"):
        PropertyLoss({"entropy": 1.0}, compared=PropertyErrors(kind="best"))


def fit(phonons, folder, *callbacks, steps=30):
    module = PhononFineTuning(
        PairPotential(CUTOFF, ELEMENTS),
        phonon_weights={},
        optimizer=lambda groups: torch.optim.Adam(groups, lr=2e-2),
    )
    data = PhononDataModule(
        PhononSource(phonons, phonons, batch_size=4), cache_dir=folder
    )
    trainer = lightning.Trainer(
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        inference_mode=False,
        use_distributed_sampler=False,
        max_steps=steps,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    before = trainer.validate(module, data, verbose=False)[0]
    trainer.fit(module, data)
    return before, trainer.validate(module, data, verbose=False)[0]


@pytest.mark.filterwarnings("ignore:Training on phonons alone")
@pytest.mark.parametrize(
    ("name", "probe"),
    [
        ("frequencies", None),
        ("entropy", CommensurateProbe()),
        ("free_energy", CommensurateProbe()),
    ],
)
def test_training_on_a_property_alone_brings_it_to_the_reference(
    world, tmp_path, name, probe
):
    metric = f"phonon/{metric_of(name)}"
    before, after = fit(
        world.phonons_train / "LiF.yaml",
        tmp_path,
        PropertyLoss({name: 1.0}),
        # Says which cells there are; no Hessian term is needed.
        HessianLoss(probe, weight=0.0),
    )
    # Depth and stiffness of the truth are 30 and 10 % larger.
    assert after[metric] < 0.3 * before[metric]
