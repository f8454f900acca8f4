from __future__ import annotations

import copy
import pickle

import pytest
import torch

from pft_lightning import keys
from pft_lightning.data.loading import Collate, count_structures
from pft_lightning.data.padding import Padding
from pft_lightning.graphs import build_batch, build_crystal_batch, map_tensors
from pft_lightning.testing import PairPotential, build_tiny_crystals


@pytest.fixture
def model() -> PairPotential:
    return PairPotential(4.0, [11, 17])


@pytest.fixture
def batch():
    """Two crystals, with edges beyond the model's cutoff."""
    crystals = build_tiny_crystals([11, 17], 6.0)
    return build_crystal_batch([crystals["small"], crystals["large"]], 6.0)


def test_an_arranged_batch_gives_what_the_model_makes_of_it_itself(model, batch):
    arranged = pickle.loads(pickle.dumps(model.arrangement()))(batch)
    assert arranged.num_edges < batch.num_edges
    found, expected = model.derivatives(arranged), model.derivatives(batch)
    for name in ("energy", "forces", "stress"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_a_batch_of_another_model_is_arranged_anew(model, batch):
    other = PairPotential(5.0, [11, 17])
    arranged = model.arrangement()(build_batch(batch.to_data_list()))
    prepared = other.prepare(arranged)
    assert prepared[keys.ARRANGEMENT] == other.arrangement()
    assert arranged[keys.ARRANGEMENT] == model.arrangement()


def test_structures_of_an_arranged_batch_can_be_told_apart(model, batch):
    """As where a batch does not fit in memory."""
    arranged = model.arrangement()(batch)
    whole = model.derivatives(arranged).energy
    parts = [
        model.derivatives(build_batch([structure])).energy
        for structure in arranged.to_data_list()
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-14, atol=0)


def test_arranging_leaves_the_batch_alone(model, batch):
    before = copy.deepcopy(batch)
    model.arrangement()(batch)
    assert keys.ARRANGEMENT not in batch
    for name in (keys.EDGE_INDEX, keys.EDGE_SHIFTS):
        assert torch.equal(batch[name], before[name])
    assert len(batch.to_data_list()) == 2


def test_tables_of_a_loaded_batch_are_few(model, batch):
    """Each is an open file where another process has loaded it."""
    items = [("phonon", data) for data in batch.to_data_list()]
    loaded = Collate(model.arrangement())(items)["phonon"]
    tables = [*loaded._slice_dict.values(), *loaded._inc_dict.values()]
    different = {id(x) for x in tables if isinstance(x, torch.Tensor)}
    assert len(different) <= 6 < len(tables)
    for mine, other in zip(loaded.to_data_list(), batch.to_data_list(), strict=True):
        assert torch.equal(mine[keys.POSITIONS], other[keys.POSITIONS])


def test_structures_that_fill_a_batch_up_do_not_count(model, batch):
    items = [("phonon", data) for data in batch.to_data_list()]
    for n, (_, data) in enumerate(items):
        data[keys.NAME], data[keys.COUNTED] = f"{n}", torch.ones(1, dtype=torch.bool)
    padded = Collate(model.arrangement(), {"phonon": Padding(7, 4.0)})(items)
    assert padded["phonon"].num_graphs == 8
    assert count_structures(padded) == 2


def test_fields_with_tensors_that_cannot_be_reached_are_refused(batch):
    batch["more"] = (torch.zeros(1), torch.zeros(1))
    with pytest.raises(TypeError, match="more: a tuple has no map_tensors"):
        map_tensors(batch, torch.clone)
