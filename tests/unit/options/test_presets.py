"""Learning rates that go with adaptations."""

from __future__ import annotations

import pytest

from pft_lightning.errors import ConfigError
from pft_lightning.options.choices import groups
from pft_lightning.options.presets import RATES, asks_for_rate, with_rate
from pft_lightning.runs.checks import check_train
from tests.unit.options.test_check import composed


NEEDED = {"freeze": ("adaptation.freeze=[embedding]",)}


@pytest.mark.parametrize("adaptation", groups()["adaptation"])
def test_each_adaptation_has_a_rate_of_its_own(adaptation) -> None:
    options = (f"adaptation={adaptation}", *NEEDED.get(adaptation, ()))
    config = composed("train", *options)
    kind = config.adaptation._target_.rpartition(".")[2]
    assert asks_for_rate(config)
    assert check_train(config).optimizer.lr == RATES[kind]
    assert asks_for_rate(config)  # the one that was given is left alone


def test_all_weights_are_trained_at_the_published_rate() -> None:
    assert with_rate(composed("train")).optimizer.lr == 1e-4


def test_a_rate_that_is_given_wins() -> None:
    config = composed("train", "adaptation=lora", "optimizer.lr=0.01")
    assert check_train(config).optimizer.lr == 0.01
    recipe = composed("train", "experiment=pft_sevennet_cpu", "adaptation=lora")
    assert with_rate(recipe).optimizer.lr == 5e-4


def test_a_word_that_is_no_rate_is_named() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.lr=fast; expected a number abo"):
        check_train(composed("train", "optimizer.lr=fast"))
