"""Trainings whose rate falls as a cosine, and those of an earlier version."""

from __future__ import annotations

import torch

from pft_lightning import load_model
from pft_lightning.runs.train import train


RUN = ("scheduler=cosine", "optimizer.lr=1e-2", "export=last")


def weights(run):
    return load_model(run / "model.pt").state_dict()


def test_a_run_that_began_with_the_cosine_of_torch_goes_on(compose, tmp_path):
    """As all did before there was ``scheduler.n_warmup``."""
    train(compose(tmp_path / "whole", *RUN, "trainer.max_steps=8"))
    earlier = (
        "scheduler._target_=torch.optim.lr_scheduler.CosineAnnealingLR",
        "~scheduler.n_warmup",
        "scheduler.T_max=8",
    )
    train(compose(tmp_path / "parts", *RUN, *earlier, "trainer.max_steps=4"))
    train(compose(tmp_path / "parts", *RUN, "trainer.max_steps=8", "resume=true"))
    expected = weights(tmp_path / "whole")
    for name, value in weights(tmp_path / "parts").items():
        # Torch's rates differ by roundings, which Adam's division can enlarge.
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9)


def test_a_longer_cosine_does_not_rise_from_nothing(compose, tmp_path):
    """Weights go on to move where a run that had ended is made twice as long."""
    train(compose(tmp_path, *RUN, "trainer.max_steps=4"))
    ended = weights(tmp_path)
    train(compose(tmp_path, *RUN, "trainer.max_steps=5", "resume=true"))
    moved = max(
        float((value - ended[name]).abs().max())
        for name, value in weights(tmp_path).items()
    )
    # The fifth of five steps: a tenth of the rate, and a step of Adam is about a rate.
    assert moved > 1e-4
