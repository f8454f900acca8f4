from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pft_lightning.errors import DivergenceError
from pft_lightning.training.divergence import Divergence


class Module(torch.nn.Linear):
    """A module in the step after ``steps`` others."""

    steps = 0

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.weight.grad = torch.ones(1, 1)

    @property
    def trainer(self):
        return SimpleNamespace(
            global_step=self.steps,
            current_epoch=0,
            fit_loop=SimpleNamespace(batch_idx=self.steps),
        )


def batch(name: str) -> dict:
    return {"phonon": SimpleNamespace(to_dict=lambda: {"name": [name]})}


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_numbers_that_a_gpu_copies_aside_end_the_training_one_step_later(what):
    module, divergence = Module(), Divergence(deferred=True)
    divergence.look(module, torch.tensor(1.0), batch("good"))
    module.steps = 1
    bad = torch.tensor(float("nan"))
    loss = bad if what == "loss" else torch.tensor(1.0)
    if what == "gradient":
        module.weight.grad += bad
    divergence.look(module, loss, batch("bad"))
    module.steps, module.weight.grad = 2, torch.ones(1, 1)
    with pytest.raises(DivergenceError, match=rf"the {what} is nan after 1 steps.*bad"):
        divergence.look(module, torch.tensor(1.0), batch("next"))


def test_nothing_is_made_of_weights_that_nobody_has_looked_at():
    module, divergence = Module(), Divergence(deferred=True)
    divergence.look(module, torch.tensor(float("inf")), batch("bad"))
    for _ in range(2):  # also where an error was caught on the way
        with pytest.raises(DivergenceError, match="the loss is inf"):
            divergence.settle()


def test_on_the_cpu_a_step_is_looked_at_at_once():
    with pytest.raises(DivergenceError, match="the loss is inf"):
        Divergence().look(Module(), torch.tensor(float("inf")), batch("bad"))
