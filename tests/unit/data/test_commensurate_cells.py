from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch

from pft_lightning import PhononDataModule, PhononSource, keys
from pft_lightning.backends.pair import PairPotential
from pft_lightning.callbacks.hessian_loss import HessianLoss
from pft_lightning.data.batching import BatchLimits, BatchStream
from pft_lightning.data.commensurate import (
    WHOLE,
    CellSampler,
    fold_record,
    q_point_orders,
)
from pft_lightning.data.store import PhononStore, build_store
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.graphs import build_batch
from pft_lightning.physics.force_constants import from_array
from pft_lightning.physics.probes import ColumnProbe, Draws
from pft_lightning.physics.wave_probes import CommensurateProbe
from pft_lightning.training.hessian import probe_batch
from pft_lightning.training.module import PhononFineTuning


CUTOFF = 4.0
NAMES = ("NaCl conventional", "bcc, oblique", "hexagonal")


def model() -> PairPotential:
    return PairPotential(CUTOFF)


@pytest.fixture
def store(tmp_path: Path, spring_phonon) -> PhononStore:
    folder = tmp_path / "sources"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        spring_phonon(name).save(
            folder / f"{number}.yaml", settings={"force_sets": True}
        )
    build_store(folder, tmp_path / "x.store", cutoff=CUTOFF, progress=False)
    return PhononStore(tmp_path / "x.store")


@pytest.fixture
def data(store: PhononStore) -> PhononDataModule:
    return PhononDataModule(
        PhononSource(store.path, store.path, batch_size=2),
        cutoff=CUTOFF,
        atomic_numbers=range(1, 95),
        seed=5,
    )


def sampler(store: PhononStore, share: float = 1.0, seed: int = 0) -> CellSampler:
    return CellSampler(store.names, store.q_point_orders(), share=share, seed=seed)


def test_a_potential_that_is_the_reference_meets_every_folded_target(store) -> None:
    """Positions, cell, neighbours, tangents and targets of every cell fit together."""
    potential = model()
    for index, orders in enumerate(store.q_point_orders()):
        supercell = store.data(index)
        n = supercell.num_nodes
        hessian = potential.derivatives(
            build_batch([supercell]),
            tangents=torch.eye(3 * n).reshape(3 * n, n, 3).movedim(0, 1).double(),
        ).hvp.detach()
        full = hessian.numpy().reshape(n, n, 3, 3).swapaxes(2, 3)
        record = store.record(index)
        phonon = record.cells.to_phonopy()
        atoms = record.force_constants.equivalent_atoms
        true, _ = from_array(full, phonon.primitive, atoms)
        truth = replace(record, force_constants=true)
        for q_point in range(len(orders)):
            data = store.folded_data(index, q_point)
            folded = fold_record(truth, q_point).force_constants
            data[keys.FORCE_CONSTANTS] = folded
            tangents, targets = probe_batch(
                build_batch([data]), Draws(CommensurateProbe(2), seed=0), step=0
            )
            found = potential.derivatives(build_batch([data]), tangents=tangents).hvp
            # Sums of some tens of terms of order 10 eV/Å².
            torch.testing.assert_close(found.detach(), targets, rtol=0, atol=1e-12)


def test_a_folded_structure_has_its_share_of_atoms_edges_and_energy(store) -> None:
    for index, orders in enumerate(store.q_point_orders()):
        record = replace(store.record(index), energy=-8.0, stress=np.eye(3))
        for q_point, order in enumerate(orders):
            share = order / len(orders)
            folded = fold_record(record, q_point)
            data = store.folded_data(index, q_point)
            assert folded.n_atoms == data.num_nodes == share * record.n_atoms
            assert data.num_edges == share * store.n_edges[index]
            assert folded.energy == pytest.approx(-8.0 * share, rel=1e-14)
            np.testing.assert_array_equal(folded.stress, record.stress)
            assert folded.name == record.name
            assert data[keys.FORCE_CONSTANTS].share == share
            volume = np.linalg.det(folded.cell) / np.linalg.det(record.cell)
            assert abs(volume) == pytest.approx(share, rel=1e-10)


def test_a_structure_without_force_constants_is_refused_by_name(store) -> None:
    record = replace(store.record(0), force_constants=None)
    with pytest.raises(DataFormatError, match="no force constants"):
        q_point_orders(record)


def test_q_points_are_drawn_uniformly(store) -> None:
    cells = sampler(store)
    n = 2000
    drawn = np.array([cells.draw(epoch).q_points for epoch in range(n)])
    for column, orders in zip(drawn.T, store.q_point_orders(), strict=True):
        counts = Counter(column.tolist())
        assert set(counts) == set(range(len(orders)))
        expected = n / len(orders)
        # Five standard deviations of a binomial count.
        assert max(abs(c - expected) for c in counts.values()) < 5 * expected**0.5


def test_the_share_of_small_cells_is_kept(store) -> None:
    cells = sampler(store, share=0.3)
    drawn = np.array([cells.draw(epoch).q_points for epoch in range(2000)])
    # 6000 draws: five standard deviations are 0.03.
    assert abs((drawn != WHOLE).mean() - 0.3) < 0.03
    assert (sampler(store, share=0.3).draw(3).shares[drawn[3] == WHOLE] == 1).all()


def test_cells_depend_on_seed_epoch_and_name_alone(store) -> None:
    orders = store.q_point_orders()
    whole = sampler(store).draw(7).q_points
    alone = [
        int(CellSampler([name], [mine], share=1.0, seed=0).draw(7).q_points[0])
        for name, mine in zip(store.names, orders, strict=True)
    ]
    assert alone == whole.tolist()
    epochs = {tuple(sampler(store).draw(epoch).q_points) for epoch in range(10)}
    seeds = {tuple(sampler(store, seed=seed).draw(7).q_points) for seed in range(10)}
    assert len(epochs) > 5
    assert len(seeds) > 5


def test_batches_are_filled_with_the_sizes_of_the_cells(store) -> None:
    draw = sampler(store).draw
    limits = BatchLimits(3, atoms=12, edges=700)
    sizes = store.n_atoms, store.n_edges
    stream = BatchStream(*sizes, limits, seed=0, cells=draw)
    whole = BatchStream(*sizes, limits, seed=0)
    n_small = 0
    for position in range(60):
        small = stream.keys(keys.PHONON, position)
        atoms = [
            store.folded_data(key.structure, key.q_point).num_nodes for key in small
        ]
        assert sum(atoms) <= 12 or len(atoms) == 1
        n_small += len(atoms)
    n_whole = sum(len(whole.batch(position)) for position in range(60))
    assert n_small > 1.3 * n_whole


def test_a_stream_gives_the_same_cells_in_any_order(store) -> None:
    def stream() -> BatchStream:
        return BatchStream(
            store.n_atoms,
            None,
            BatchLimits(2),
            seed=0,
            cells=sampler(store, 0.7).draw,
        )

    forward, backward = stream(), stream()
    expected = [forward.keys(keys.PHONON, position) for position in range(20)]
    found = [backward.keys(keys.PHONON, position) for position in range(19, -1, -1)]
    assert found[::-1] == expected


def train_with(probe, data: PhononDataModule) -> None:
    trainer = lightning.Trainer(
        callbacks=[HessianLoss(probe)],
        logger=False,
        enable_checkpointing=False,
        inference_mode=False,
        use_distributed_sampler=False,
        max_steps=4,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(PhononFineTuning(model()), data)


@pytest.mark.parametrize(
    ("probe", "small"), [(CommensurateProbe(), True), (ColumnProbe(), False)]
)
def test_the_probe_of_a_training_decides_on_its_cells_and_validation_keeps_its_own(
    store, data, probe, small
) -> None:
    # A data module may serve one training after the other.
    data.use_draws(Draws(CommensurateProbe(share=0.5), seed=0))
    train_with(probe, data)
    batches = [batch[keys.PHONON] for batch in data.train_dataloader()]
    shares = [c.share for batch in batches for c in batch[keys.FORCE_CONSTANTS]]
    assert (min(shares) < 1) == small
    sizes = [
        batch[keys.PHONON].num_nodes
        for loader in data.val_dataloader()
        for batch in loader
    ]
    assert sizes == store.n_atoms.tolist()


def test_a_resume_with_another_share_of_small_cells_is_refused() -> None:
    checkpoint = HessianLoss(CommensurateProbe(share=0.8)).state_dict()
    HessianLoss(CommensurateProbe(share=0.8)).load_state_dict(checkpoint)
    with pytest.raises(ConfigError, match=r"share=0\.8"):
        HessianLoss(CommensurateProbe(share=0.7)).load_state_dict(checkpoint)


def test_workers_give_the_batches_of_the_main_process(data) -> None:
    data.use_draws(Draws(CommensurateProbe(), seed=0))
    data.setup("fit")
    expected = list(data.train_dataloader())
    data.num_workers = 1
    found = list(data.train_dataloader())
    assert len(found) == len(expected) > 0
    for one, other in zip(expected, found, strict=True):
        for name in (
            *(keys.POSITIONS, keys.CELL, keys.EDGE_INDEX, keys.EDGE_SHIFTS),
            *(keys.TANGENTS, keys.TARGETS, keys.SHARE),
        ):
            assert torch.equal(one[keys.PHONON][name], other[keys.PHONON][name])


def test_folded_force_constants_are_pickled_whole(store) -> None:
    constants = fold_record(store.record(0), 3).force_constants
    copied = pickle.loads(pickle.dumps(constants))
    np.testing.assert_array_equal(copied.full(), constants.full())
    assert copied.share == constants.share
