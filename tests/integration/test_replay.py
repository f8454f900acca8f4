"""Steps that are recorded once for a size of batches, with a recorder for the CPU."""

from __future__ import annotations

import copy

import pytest
import torch

from pft_lightning import keys, load_model
from pft_lightning.data.padding import ATOM_RATIO, EDGE_RATIO, Padding, round_up
from pft_lightning.errors import ConfigError
from pft_lightning.graphs import build_batch, build_crystal_batch
from pft_lightning.runs import native
from pft_lightning.runs.train import train
from pft_lightning.testing import PairPotential, build_tiny_crystals
from pft_lightning.training import replay
from pft_lightning.training.replay import ReplayedSteps


class Rerun:
    """Does what was recorded again: it sees nothing but the fixed places."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, step):
        places = [value.clone() for value in step()]

        def replay():
            self.replays += 1
            for place, value in zip(places, step(), strict=True):
                place.copy_(value)

        return replay, places


@pytest.fixture
def recorded(monkeypatch):
    """The steps of the trainings of a test."""
    made = []

    def make():
        made.append(ReplayedSteps(Rerun()))
        return made[-1]

    monkeypatch.setattr(native, "ReplayedSteps", make)
    return made


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param((), id="alternate"),
        pytest.param(("data.mode=joint", "loss.reduction=atoms"), id="joint"),
        pytest.param(
            (
                "probe=rademacher",
                "probe.n_probes=2",
                "loss.hvp_schedule=linear",
                "loss.hvp_warmup_steps=4",
            ),
            id="weights that change",
        ),
    ],
)
def test_a_training_by_recorded_steps_has_the_weights_of_another(
    compose, tmp_path, recorded, overrides
):
    runs = {}
    for name, graphs in (("plain", "false"), ("recorded", "true")):
        train(
            compose(
                tmp_path / name,
                f"cuda_graphs={graphs}",
                "trainer.max_steps=12",
                "optimizer.lr=1e-2",
                "export=last",
                *overrides,
            )
        )
        (model,) = (tmp_path / name).glob("model.*")
        runs[name] = torch.cat([x.flatten() for x in load_model(model).parameters()])
    (steps,) = recorded
    assert steps._record.replays == 12
    assert steps.n_recordings < 12
    # Sums have the same terms and some zeros; twelve steps of Adam.
    torch.testing.assert_close(runs["recorded"], runs["plain"], rtol=1e-9, atol=1e-9)


def test_steps_that_are_recorded_again_and_again_are_told(
    compose, tmp_path, recorded, monkeypatch
):
    monkeypatch.setattr(replay, "MOST_GRAPHS", 1)
    config = compose(tmp_path / "run", "cuda_graphs=true", "trainer.max_steps=3")
    with pytest.warns(UserWarning, match="recorded anew again and again"):
        train(config)


def test_without_a_gpu_recording_is_refused(compose, tmp_path):
    with pytest.raises(ConfigError, match=r"cuda_graphs=true: .*on cpu.*Leave it out"):
        train(compose(tmp_path, "cuda_graphs=true"))


def test_what_fills_a_batch_up_changes_nothing_of_the_others():
    model = PairPotential(4.0, [11, 17])
    arrangement = model.arrangement()
    crystals = build_tiny_crystals([11, 17], 6.0)
    batch = arrangement.trim(
        build_crystal_batch([crystals["small"], crystals["large"]], 6.0)
    )
    structures = batch.to_data_list()
    for data in structures:
        data[keys.COUNTED] = torch.ones(1, dtype=torch.bool)
    padded = arrangement.finish(build_batch(Padding(4, 4.0)(structures)))
    n = batch.num_nodes
    assert padded.num_graphs == 5
    assert padded.num_nodes == round_up(padded.num_nodes, ATOM_RATIO) > n
    assert padded.num_edges == round_up(batch.num_edges, EDGE_RATIO)
    assert padded[keys.COUNTED].tolist() == [True, True, False, False, False]
    tangents = torch.ones(padded.num_nodes, 1, 3, dtype=torch.float64)
    tangents[0] = 2.0
    found = model.derivatives(padded, tangents=tangents)
    expected = model.derivatives(arrangement.finish(batch), tangents=tangents[:n])
    for name in ("energy", "stress"):
        mine, other = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(mine[:2], other, rtol=1e-14, atol=1e-15)
        assert torch.isfinite(mine).all()
    for name in ("forces", "hvp"):
        mine, other = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(mine[:n], other, rtol=1e-14, atol=1e-14)
        assert torch.isfinite(mine).all()


def test_sizes_are_few_and_a_tenth_larger_than_needed():
    sizes = [round_up(n, EDGE_RATIO) for n in range(100, 10_000)]
    assert len(set(sizes)) < 30
    assert all(up >= n and up % 2 == 0 for n, up in enumerate(sizes, 100))
    spare = sum(up / n - 1 for n, up in enumerate(sizes, 100)) / len(sizes)
    assert spare < 0.12


def test_a_copy_of_a_module_records_its_own_steps():
    steps = ReplayedSteps(Rerun())
    steps._recordings["some size"] = object()
    assert copy.deepcopy(steps).n_recordings == 0
