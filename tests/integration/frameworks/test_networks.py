"""What the other tests promise of a pair potential, for MACE and NequIP."""

from __future__ import annotations

import torch
from killing import SCHEDULE, check_kills_leave_no_trace
from two_processes import TWO, capture, check_same_steps, run


def test_killing_the_training_of_a_network_leaves_no_trace(
    pft_train, backend_base, tmp_path
):
    check_kills_leave_no_trace(
        pft_train,
        tmp_path,
        *SCHEDULE,
        f"model.checkpoint={backend_base}",
        "model.dtype=float32",
        "trainer.max_steps=12",
    )


def test_two_processes_train_a_network_as_one_does(pft_train, backend_base, tmp_path):
    common = (
        f"model.checkpoint={backend_base}",
        "data.mode=joint",
        "trainer.max_steps=2",
        "callbacks.ema=null",
    )
    sizes = ("data.phonons.batch_size=4", "data.upstream.batch_size=8")
    run(pft_train(tmp_path / "one", *common, *capture(tmp_path / "one.pt"), *sizes))
    run(pft_train(tmp_path / "two", *common, *capture(tmp_path / "two.pt"), *TWO))
    expected, found = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert len(expected) == len(found) == 2
    check_same_steps(expected, found)
