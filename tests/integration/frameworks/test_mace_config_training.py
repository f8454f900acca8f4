"""Trainings of mace_run_train configurations: adaptation, patience, order."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mace_runs import (
    logged,
    run_pft,
    with_phonons,
)


pytest.importorskip("mace", reason="mace is not installed here")


def test_lora_of_mace_trains_low_rank_differences_on_frames_and_phonons_at_once(
    write_options, foundation, world, tmp_path
):
    path = write_options(
        foundation_model=str(foundation),
        multiheads_finetuning=False,
        lora=True,
        lora_rank=1,
        max_num_epochs=1,
    )
    run_pft(world, path, tmp_path, *with_phonons(world, "data.mode=joint"))
    trained = json.loads((tmp_path / "trainable.json").read_text())
    assert trained
    assert all("parametrizations" in name for name in trained)
    # Every step has a loss of both.
    for name in ("train/upstream_loss", "train/phonon_hvp"):
        assert len(logged(tmp_path, name)) == 3
    before, after, *_ = logged(tmp_path, "upstream/loss")
    assert after != before


def test_patience_ends_the_training(write_options, world, tmp_path):
    path = write_options(lr=0.5, patience=1, max_num_epochs=50)
    summary = run_pft(world, path, tmp_path, "data.phonons.train=null")
    losses = logged(tmp_path, "upstream/loss")[1:]
    n_epochs = summary["steps"] // 3
    assert n_epochs < 50
    # The first validation without a lower loss was the last.
    assert losses[n_epochs - 1] >= min(losses[: n_epochs - 1])
    assert losses[: n_epochs - 1] == sorted(losses[: n_epochs - 1], reverse=True)


def test_a_phonon_batch_comes_before_every_k_batches_of_frames():
    from pft_lightning.data.batching import BatchLimits, BatchStream
    from pft_lightning.integrations.mace.data import EpochSampler, ShuffledEpochs

    loader = torch.utils.data.DataLoader(
        range(6), batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(1)
    )
    order = ShuffledEpochs(loader)
    phonons = BatchStream(np.ones(5), None, BatchLimits(2, None, None), seed=0)
    sampler = EpochSampler(order, phonons, frames_per_phonon=2, joint=False)
    expected = [[int(i) for i in batch] for _ in range(2) for batch in loader]
    found = [sampler.at(position) for position in range(2 * len(sampler))]
    pattern = "".join(batch[0].source[0] for batch in found)
    assert pattern == "puupu" * 2
    frames = [
        [key.structure for key in batch]
        for batch in found
        if batch[0].source == "upstream"
    ]
    assert frames == expected
    # Nothing of the phonons is skipped or repeated.
    taken = [
        key.structure for batch in found for key in batch if key.source == "phonon"
    ]
    assert sorted(taken[:5]) == list(range(5))
    # Any epoch can be asked for, as a resumed run does.
    assert sampler.at(1) == found[1]
