from __future__ import annotations

import math

import pytest
import torch

from pft_lightning.errors import ConfigError
from pft_lightning.training.balance import (
    FIRST,
    HVP,
    MOST,
    NORM,
    SHARES,
    LossBalance,
)
from tests.unit.training.test_splitting import train


EVERYTHING = dict.fromkeys(SHARES, "auto")
NORMS = {
    HVP: 0.4,
    "phonon_forces": 0.5,
    "upstream_energy": 2.0,
    "upstream_forces": 0.6,
    "upstream_stress": 0.02,
}


def measured(weights, norms=NORMS, times=1) -> LossBalance:
    balance = LossBalance(weights)
    for _ in range(times):
        balance.is_due(norms)
        balance.measure({term: norm**2 for term, norm in norms.items()})
    return balance


def test_gradients_of_weighted_terms_have_their_shares() -> None:
    found = measured(EVERYTHING).weights
    assert found[HVP] * NORMS[HVP] == pytest.approx(NORM)
    for term, share in SHARES.items():
        assert found[term] * NORMS[term] == pytest.approx(share * NORM)


def test_a_number_of_products_is_kept_and_the_others_follow_it() -> None:
    found = measured({**EVERYTHING, HVP: 300.0}).weights
    assert HVP not in found
    expected = 300 * NORMS[HVP] / 3
    assert found["upstream_energy"] * NORMS["upstream_energy"] == pytest.approx(
        expected
    )


def test_products_follow_the_numbers_of_frames() -> None:
    numbers = {"upstream_energy": 500.0, "upstream_forces": 200.0}
    found = measured({HVP: "auto", **numbers}).weights
    assert set(found) == {HVP}
    frames = math.hypot(*(w * NORMS[term] for term, w in numbers.items()))
    shares = math.hypot(*(SHARES[term] for term in numbers))
    assert found[HVP] * NORMS[HVP] == pytest.approx(frames / shares)


def test_forces_that_vanish_by_symmetry_do_not_get_all_the_weight() -> None:
    found = measured(EVERYTHING, {**NORMS, "phonon_forces": 1e-7}).weights
    assert found["phonon_forces"] == pytest.approx(MOST["phonon_forces"] * found[HVP])


def test_terms_without_a_reference_keep_the_weight_given() -> None:
    balance = measured(EVERYTHING, {**NORMS, "upstream_stress": 0.0})
    assert balance.apply({"upstream_stress": 50.0}) == {"upstream_stress": 50.0}


def test_terms_without_a_reference_keep_no_one_waiting() -> None:
    # Frames without stresses, and a training that has no frames at all.
    without_stress = measured(EVERYTHING, {**NORMS, "upstream_stress": 0.0}, FIRST)
    assert without_stress.settled
    assert "upstream_stress" not in without_stress.weights
    assert measured(EVERYTHING, {HVP: 0.4}, FIRST).settled
    assert not measured(EVERYTHING, {HVP: 0.4}, FIRST - 1).settled


def test_weights_follow_a_training_slowly_once_they_are_settled() -> None:
    balance = measured(EVERYTHING, times=100)
    assert balance.settled
    before = balance.weights["upstream_energy"]
    assert balance.weights["upstream_energy"] == pytest.approx(before)
    balance.measure({"upstream_energy": (2 * NORMS["upstream_energy"]) ** 2})
    after = balance.weights["upstream_energy"]
    # A mean square of 1 becomes 1 + 3 / 20.
    assert after / before == pytest.approx((1 + 3 / 20) ** -0.5)


def test_a_gradient_that_is_not_finite_changes_no_weight() -> None:
    balance = measured(EVERYTHING)
    before = balance.weights
    balance.measure({HVP: math.inf, "upstream_energy": math.nan})
    assert balance.weights == before


def test_terms_are_measured_first_and_then_now_and_again() -> None:
    balance = LossBalance(EVERYTHING)
    due = [step for step in range(120) if balance.is_due([HVP, "upstream_energy"])]
    assert due == [*range(FIRST), 50, 100]


def test_a_state_read_again_gives_the_same_bits() -> None:
    balance = measured(EVERYTHING, times=5)
    again = LossBalance(EVERYTHING)
    again.load_state_dict(balance.state_dict())
    assert again.weights == balance.weights
    assert again.state_dict() == balance.state_dict()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"phonon_stress": "auto", HVP: 1.0}, r"loss\.phonon\.stress=auto: only"),
        ({"upstream_energy": "auto", HVP: 0.0}, r"loss\.phonon\.hvp is 0"),
    ],
)
def test_what_cannot_be_balanced_is_refused(weights, message) -> None:
    with pytest.raises(ConfigError, match=message):
        LossBalance(weights)


def test_a_step_that_is_measured_has_the_gradient_of_its_weights(world) -> None:
    """The weights found, given as numbers, make the same gradient."""
    balance = LossBalance({HVP: 100.0, "upstream_energy": "auto"})
    upstream = {"energy": 500.0, "forces": 200.0, "stress": 50.0}
    found, *_ = train(world, balance=balance, upstream_weights=upstream)
    first = LossBalance({HVP: 100.0, "upstream_energy": "auto"})
    train(world, balance=first, upstream_weights=upstream, max_steps=1)
    upstream["energy"] = first.weights["upstream_energy"]
    expected, *_ = train(world, upstream_weights=upstream, max_steps=1)
    assert upstream["energy"] != 500
    assert max(gradient.abs().max() for gradient in expected[0].values()) > 1
    for name, gradient in expected[0].items():
        # Sums of float64 numbers of order 100, in another order.
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:A batch did not fit")
@pytest.mark.parametrize("mode", ["joint", "alternate"])
def test_parts_of_a_batch_find_the_weights_of_the_whole(world, mode) -> None:
    whole, parts = LossBalance(EVERYTHING), LossBalance(EVERYTHING)
    train(world, balance=whole, mode=mode)
    _, module, metrics = train(world, balance=parts, mode=mode, max_structures=1)
    assert module.model.n_failures >= 3
    assert whole.weights.keys() == parts.weights.keys() == SHARES.keys()
    for term, weight in whole.weights.items():
        # Sums of float64 numbers in another order, over three steps.
        assert parts.weights[term] == pytest.approx(weight, rel=1e-9)
        assert float(metrics[f"train/weight_{term}"]) == pytest.approx(
            weight, rel=1e-6
        )  # logged in single precision
