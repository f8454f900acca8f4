from __future__ import annotations

import numpy as np
import pytest

from pft_lightning.data.batching import (
    BatchLimits,
    BatchStream,
    InterleavedSampler,
    plan_batches,
)
from pft_lightning.errors import ConfigError


N_ATOMS = np.array([8, 16, 64, 2, 40, 12, 8, 8, 30, 5, 7])


def stream(n_ranks: int = 1, rank: int = 0, limits: BatchLimits | None = None):
    return BatchStream(
        N_ATOMS, None, limits or BatchLimits(2), seed=3, n_ranks=n_ranks, rank=rank
    )


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 16])
@pytest.mark.parametrize(
    "limits", [BatchLimits(2), BatchLimits(4, atoms=50), BatchLimits(100)]
)
def test_every_structure_is_planned_and_no_rank_is_ever_without_one(n_ranks, limits):
    plan = plan_batches(np.arange(len(N_ATOMS)), N_ATOMS, None, limits, n_ranks)
    assert all(len(ranks) == n_ranks and all(ranks) for ranks in plan)
    counted = [i for ranks in plan for rank in ranks for i in rank if i >= 0]
    assert sorted(counted) == list(range(len(N_ATOMS)))
    # Only the last batch may have fillers.
    assert all(i >= 0 for ranks in plan[:-1] for rank in ranks for i in rank)


@pytest.mark.parametrize("n_ranks", [2, 4, 16])
def test_ranks_have_almost_the_same_number_of_edges(n_ranks):
    rng = np.random.default_rng(0)
    n_atoms = rng.integers(8, 145, 640)
    n_edges = np.rint(n_atoms * rng.uniform(20, 120, 640)).astype(int)
    limits = BatchLimits(8)
    plan = plan_batches(np.arange(640), n_atoms, n_edges, limits, n_ranks)
    assert len(plan) == 640 // (8 * n_ranks)
    edges = np.array([[n_edges[rank].sum() for rank in ranks] for ranks in plan])
    # Time that a step needs on average, of that of its slowest rank. The structures in
    # the order in which they come, to the rank with the fewest atoms: 0.66 to 0.89.
    assert (edges.mean(axis=1) / edges.max(axis=1)).mean() > 0.97


def test_frames_without_edges_leave_no_rank_empty():
    none = np.zeros(4, dtype=int)
    (ranks,) = plan_batches(np.arange(4), np.ones(4, int), none, BatchLimits(4), 4)
    assert sorted(map(len, ranks)) == [1, 1, 1, 1]


def test_batches_stay_within_the_limits_unless_one_structure_alone_exceeds_them():
    n_edges = N_ATOMS * 10
    limits = BatchLimits(4, atoms=50, edges=300)
    for ranks in plan_batches(np.arange(11), N_ATOMS, n_edges, limits, 2):
        for rank in ranks:
            within = limits.allows(
                len(rank), int(N_ATOMS[rank].sum()), int(n_edges[rank].sum())
            )
            assert within or len(rank) == 1


def test_two_processes_with_batch_b_see_the_structures_of_one_with_batch_2b():
    one = stream(limits=BatchLimits(4))
    two = [stream(2, rank, BatchLimits(2)) for rank in range(2)]
    for position in range(2 * one.batches_per_epoch):
        together = two[0].batch(position) + two[1].batch(position)
        if len(together) == 4:
            assert sorted(together) == sorted(one.batch(position))


def test_each_epoch_is_another_permutation_and_depends_on_the_position_alone():
    forward, backward = stream(), stream()
    n = forward.batches_per_epoch
    epochs = [[forward.batch(e * n + i) for i in range(n)] for e in range(3)]
    for epoch in epochs:
        assert sorted(i for batch in epoch for i in batch) == list(range(11))
    assert epochs[0] != epochs[1]
    again = [backward.batch(position) for position in reversed(range(3 * n))][::-1]
    assert again == [batch for epoch in epochs for batch in epoch]


def interleaved(position: int = 0, *, elastic: bool = False, **options):
    phonon = BatchStream(N_ATOMS, None, BatchLimits(4), seed=0)
    upstream = BatchStream(np.full(5, 3), None, BatchLimits(2), seed=1)
    crystals = BatchStream(np.full(4, 2), None, BatchLimits(3), seed=2)
    return InterleavedSampler(
        phonon,
        upstream,
        crystals if elastic else None,
        position=lambda: position,
        **options,
    )


def test_one_phonon_batch_is_followed_by_k_upstream_batches():
    sampler = interleaved(upstream_per_phonon=4)
    sources = [{key.source for key in batch} for batch in sampler]
    assert len(sources) == len(sampler) == 5 * 3
    assert sources == ([{"phonon"}] + [{"upstream"}] * 4) * 3


def test_an_elastic_batch_follows_and_leaves_the_order_of_the_others_as_it_was():
    sampler = interleaved(upstream_per_phonon=2, elastic=True)
    batches = list(sampler)
    sources = [{key.source for key in batch} for batch in batches]
    assert len(sources) == len(sampler) == 4 * 3
    assert sources == ([{"phonon"}] + [{"upstream"}] * 2 + [{"elastic"}]) * 3
    without = list(interleaved(upstream_per_phonon=2))
    others = [batch for batch in batches if batch[0].source != "elastic"]
    structures = [[key.structure for key in batch] for batch in others]
    assert structures == [[key.structure for key in batch] for batch in without]
    elastic = [key.structure for batch in batches[3::4][:2] for key in batch]
    assert sorted(elastic) == [0, 1, 2, 3]


@pytest.mark.parametrize("elastic", [False, True])
def test_a_joint_step_holds_one_batch_of_each_source(elastic):
    batches = list(interleaved(upstream_per_phonon=4, joint=True, elastic=elastic))
    assert len(batches) == 3
    expected = {"phonon", "upstream"} | ({"elastic"} if elastic else set())
    for batch in batches:
        assert {key.source for key in batch} == expected


def test_the_shorter_source_goes_round_and_repeats_only_after_a_full_pass():
    sampler = interleaved(upstream_per_phonon=4)
    upstream = [
        [key.structure for key in batch]
        for batch in sampler
        if batch[0].source == "upstream"
    ]
    for start in range(0, 12, 3):
        one_pass = [i for batch in upstream[start : start + 3] for i in batch]
        assert sorted(one_pass) == list(range(5))


@pytest.mark.parametrize("position", [0, 1, 7, 14, 15, 22, 1003])
def test_a_resumed_epoch_yields_exactly_the_batches_that_were_left(position):
    fresh = interleaved(position - position % 15, upstream_per_phonon=4)
    resumed = interleaved(position, upstream_per_phonon=4)
    assert list(resumed) == list(fresh)[position % 15 :]


def test_limits_below_one_are_refused():
    with pytest.raises(ConfigError, match="atoms is 0"):
        BatchLimits(2, atoms=0)
