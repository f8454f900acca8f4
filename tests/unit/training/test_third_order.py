from __future__ import annotations

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from third_order_records import add_third_order, third_order_of

from pft_lightning import PhononDataModule, PhononSource, keys
from pft_lightning.backends.pair import PairPotential
from pft_lightning.callbacks import HessianLoss, ThirdOrderLoss
from pft_lightning.data.store import PhononStore, building
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.graphs import build_batch
from pft_lightning.physics.pair_probes import PairProbe, pair_probabilities
from pft_lightning.physics.third_order_constants import ThirdOrderConstants
from pft_lightning.physics.wave_probes import CommensurateProbe
from pft_lightning.training.module import PhononFineTuning
from pft_lightning.training.splitting import Work
from tests.conftest import CUTOFF, ELEMENTS, true_potential


@pytest.fixture
def with_third_order(monkeypatch):
    add_third_order(monkeypatch, true_potential())


@pytest.fixture
def store(world, with_third_order, tmp_path) -> PhononStore:
    building.build_store(
        world.phonons_train, tmp_path / "s.store", cutoff=CUTOFF, progress=False
    )
    return PhononStore(tmp_path / "s.store")


@pytest.fixture
def constants(store) -> ThirdOrderConstants:
    record = store.record(store.names.index("NaCl"))
    return record.force_constants.third_order


def test_a_store_keeps_third_order_force_constants(store, constants):
    record = store.record(store.names.index("NaCl"))
    expected = third_order_of(true_potential(), record)
    # Their positions and cells are stored exactly.
    np.testing.assert_array_equal(constants.compact, expected.compact)
    assert store.record(store.names.index("MgO")).force_constants.third_order is None


@pytest.mark.parametrize("kind", ["atoms", "signs"])
def test_pairs_depend_on_seed_step_and_structure_alone(kind, constants):
    def draw(seed, step, name):
        return PairProbe(kind, 2, seed).draw(constants, name, step).pairs

    reference = draw(1, 7, "NaCl")
    assert reference.shape == (constants.n_atoms, 2, 2, 3)
    np.testing.assert_array_equal(draw(1, 7, "NaCl"), reference)
    for other in [(2, 7, "NaCl"), (1, 8, "NaCl"), (1, 7, "MgO")]:
        assert not np.array_equal(draw(*other), reference)


@pytest.mark.parametrize("kind", ["atoms", "signs"])
def test_expected_squared_error_is_that_of_uniform_pairs(kind, constants):
    """E[w |Ψ u v|²] = ||Ψ||² / (9 N²), whatever is drawn more often."""
    drawn = PairProbe(kind, 6000).draw(constants, "NaCl", 0)
    products = constants.multiply(*np.moveaxis(drawn.pairs, 2, 0))
    samples = drawn.weights * np.square(products).sum(axis=(0, 2))
    n_cells = constants.n_atoms // constants.n_primitive
    norm = n_cells * np.square(constants.compact).sum()
    expected = norm / (9 * constants.n_atoms**2)
    # Five standard errors of the mean: one false alarm in two million.
    margin = 5 * np.std(samples) / np.sqrt(len(samples))
    assert abs(samples.mean() - expected) < margin < 0.2 * expected


def test_weights_undo_the_preference_for_large_force_constants(constants):
    probabilities = pair_probabilities(constants)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    sizes = np.linalg.norm(constants.compact.reshape(*probabilities.shape, -1), axis=2)
    assert (np.argmax(probabilities, axis=1) == np.argmax(sizes, axis=1)).all()
    drawn = PairProbe("atoms", 200).draw(constants, "NaCl", 0)
    first, second = (np.abs(drawn.pairs[:, :, k]).sum(axis=2).argmax(0) for k in (0, 1))
    row = constants.primitive_index[first]
    weights = 1 / (constants.n_atoms * probabilities[row, second])
    np.testing.assert_allclose(drawn.weights, weights, rtol=1e-12)
    assert drawn.weights.max() <= 2


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="third_order_pairs is 'bonds'; expected"):
        PairProbe("bonds")
    with pytest.raises(ConfigError, match="n_third_order_pairs is 0"):
        PairProbe("atoms", 0)
    with pytest.raises(ConfigError, match=r"loss\.phonon\.third_order is nan"):
        ThirdOrderLoss(weight=float("nan"))


def batch_of(store):
    structures = [store.data(i) for i in range(len(store))]
    for data in structures:
        data[keys.COUNTED] = torch.tensor([True])
    return build_batch(structures)


@pytest.mark.parametrize("kind", ["mae", "mse"])
def test_the_term_is_the_weighted_mean_over_structures_with_a_reference(store, kind):
    batch = batch_of(store)
    loss = ThirdOrderLoss(PairProbe("atoms", 3), weight=1.0, kind=kind)
    target = loss.request(batch, 5)
    model = PairPotential(CUTOFF, ELEMENTS)
    third = model.derivatives(batch, pairs=target.wanted_pairs).third.detach()
    found = target.term(third, batch, "structures")
    expected = []
    for i, name in enumerate(store.names):
        constants = store.record(i).force_constants.third_order
        if constants is None:
            continue
        drawn = PairProbe("atoms", 3).draw(constants, name, 5)
        reference = constants.multiply(*np.moveaxis(drawn.pairs, 2, 0))
        error = third[batch[keys.STRUCTURE_INDEX] == i].numpy() - reference
        residual = np.abs(error) if kind == "mae" else error**2
        expected.append((drawn.weights * residual.mean(axis=(0, 2))).mean())
    assert int(found.count) == len(expected) == len(store) - 1
    # Both are sums of the same float64 numbers in another order.
    np.testing.assert_allclose(float(found.total), sum(expected), rtol=1e-12)


def test_halves_of_a_batch_have_its_sum(store):
    batch = batch_of(store)
    target = ThirdOrderLoss(PairProbe("signs", 2), weight=1.0).request(batch, 0)
    work = Work(keys.PHONON, batch, None, target)
    model = PairPotential(CUTOFF, ELEMENTS)

    def total(part: Work) -> float:
        wanted = part.third.wanted_pairs
        third = model.derivatives(part.structures, pairs=wanted).third
        return float(part.third.term(third, part.structures, "atoms").total)

    np.testing.assert_allclose(
        sum(total(half) for half in work.halves()), total(work), rtol=1e-12
    )


def fit(phonons, folder, *callbacks, steps=40):
    model = PairPotential(CUTOFF, ELEMENTS)
    module = PhononFineTuning(
        model,
        phonon_weights={},
        optimizer=lambda groups: torch.optim.Adam(groups, lr=2e-2),
    )
    data = PhononDataModule(
        PhononSource(phonons, phonons, batch_size=4),
        cache_dir=folder,
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


METRIC = "phonon/third_order_mae"


@pytest.mark.filterwarnings("ignore:Training on phonons alone")
@pytest.mark.parametrize("pairs", ["atoms", "signs"])
def test_training_on_third_derivatives_alone_brings_them_to_the_reference(
    world, with_third_order, tmp_path, pairs
):
    loss = ThirdOrderLoss(PairProbe(pairs, 2), weight=1.0, kind="mae")
    # No Hessian term is needed beside it.
    silent = HessianLoss(weight=0.0)
    before, after = fit(
        world.phonons_train / "NaCl.yaml", tmp_path, loss, silent, steps=60
    )
    # Depth and stiffness of the truth are 30 and 10 % larger.
    assert after[METRIC] < 0.3 * before[METRIC]


@pytest.mark.filterwarnings("ignore:Training on phonons alone")
def test_a_training_on_the_hessian_alone_is_watched_by_the_same_number(
    world, with_third_order, tmp_path
):
    source = world.phonons_train / "NaCl.yaml"
    before, after = fit(source, tmp_path, HessianLoss(weight=1.0), steps=2)
    third = ThirdOrderLoss(weight=1.0, kind="mae")
    other, _ = fit(source, tmp_path, third, HessianLoss(weight=0.0), steps=1)
    assert before[METRIC] == other[METRIC]
    assert after[METRIC] != before[METRIC]


@pytest.mark.filterwarnings("ignore:Training on phonons alone")
def test_a_training_whose_data_hold_none_is_refused(world, tmp_path):
    with pytest.raises(DataFormatError, match=r"options\.third_order=true"):
        fit(
            world.phonons_train,
            tmp_path,
            ThirdOrderLoss(weight=1.0),
            HessianLoss(),
            Untouched(),
        )


class Untouched(Callback):
    """Fails if a training begins."""

    def on_sanity_check_start(self, trainer, pl_module):
        raise AssertionError("a validation began")

    def on_train_start(self, trainer, pl_module):
        raise AssertionError("a training began")


@pytest.mark.filterwarnings("ignore:Training on phonons alone")
def test_commensurate_cells_have_no_third_order_and_end_with_the_first_epoch(
    world, with_third_order, tmp_path
):
    hessian = HessianLoss(CommensurateProbe())
    with pytest.raises(DataFormatError, match="takes supercells"):
        fit(world.phonons_train, tmp_path, ThirdOrderLoss(weight=1.0), hessian)
