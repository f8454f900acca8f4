from __future__ import annotations

import warnings

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from pft_lightning.errors import ConfigError
from pft_lightning.training.optimizers import make_scheduler
from pft_lightning.training.schedules import Cosine


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": r} for r in rates]
    return torch.optim.SGD(groups, lr=1.0)


def rates(schedule: LRScheduler, n_steps: int) -> list[list[float]]:
    found = []
    with warnings.catch_warnings():
        # Of steps of the optimizer, which these rates do not depend on.
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(n_steps):
            found.append(schedule.get_last_lr())
            schedule.step()
    return found


def test_without_a_rise_it_is_the_cosine_of_torch() -> None:
    ours = rates(Cosine(optimizer(0.3, 0.2), 40, eta_min=0.01), 41)
    torchs = rates(CosineAnnealingLR(optimizer(0.3, 0.2), 40, eta_min=0.01), 41)
    # Torch multiplies from step to step: forty roundings.
    assert ours == [pytest.approx(rate, rel=1e-13) for rate in torchs]


def test_the_rate_rises_falls_and_stays() -> None:
    found = [rate for (rate,) in rates(Cosine(optimizer(0.4), 12, 0.0, n_warmup=4), 15)]
    assert found[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4], rel=1e-15)
    assert found[8] == pytest.approx(0.2, rel=1e-15)
    assert found[12:] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("of_torch", [False, True])
def test_a_longer_run_goes_on_where_its_own_cosine_is(of_torch: bool) -> None:
    first: LRScheduler = Cosine(optimizer(0.4), 10, 0.0)
    if of_torch:  # of a run that began before there was a rise
        first = CosineAnnealingLR(optimizer(0.4), 10, 0.0)
    rates(first, 10)
    resumed, whole = (Cosine(optimizer(0.4), 20, 0.0) for _ in range(2))
    resumed.load_state_dict(first.state_dict())
    used = [group["lr"] for group in resumed.optimizer.param_groups]
    expected = rates(whole, 20)[10:]
    assert used == expected[0]
    assert rates(resumed, 10) == expected


@pytest.mark.parametrize(
    ("length", "n_warmup", "message"),
    [(-1, 0, r"T_max is -1; .*trainer\.max_steps"), (5, 5, "n_warmup is 5 of 5 steps")],
)
def test_a_cosine_without_length_is_refused(
    length: int, n_warmup: int, message: str
) -> None:
    def factory(of: torch.optim.Optimizer) -> LRScheduler:
        return Cosine(of, length, n_warmup=n_warmup)

    with pytest.raises(ConfigError, match=message):
        make_scheduler(factory, optimizer(0.1))
