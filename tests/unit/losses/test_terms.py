from __future__ import annotations

import pytest
import torch

from pft_lightning.errors import ConfigError, ShapeError
from pft_lightning.losses import EnergyForceStressLoss, global_mean
from pft_lightning.losses.terms import TermSum, compute_term


INDEX = torch.tensor([0, 0, 0, 1, 2, 2])
MASK = torch.tensor([True, True, False])
DIFFERENCE = torch.arange(18, dtype=torch.float64).reshape(6, 3) - 4


def by_hand(kind):
    rows = {
        "mae": DIFFERENCE.abs().mean(1),
        "mse": (DIFFERENCE**2).mean(1),
        "l2": DIFFERENCE.norm(dim=1),
        "huber": torch.where(
            DIFFERENCE.abs() < 0.5, DIFFERENCE**2 / 2, 0.5 * (DIFFERENCE.abs() - 0.25)
        ).mean(1),
    }[kind]
    return rows[:3].mean(), rows[3]


@pytest.mark.parametrize("kind", ["mae", "mse", "l2", "huber"])
def test_a_mean_over_structures_weighs_each_structure_alike(kind):
    term = compute_term(
        DIFFERENCE, MASK, kind=kind, structure_index=INDEX, huber_delta=0.5
    )
    first, second = by_hand(kind)
    assert term.count == 2
    torch.testing.assert_close(term.total, first + second)


@pytest.mark.parametrize("kind", ["mae", "mse", "l2", "huber"])
def test_a_mean_over_atoms_weighs_each_atom_alike(kind):
    term = compute_term(
        DIFFERENCE,
        MASK,
        kind=kind,
        structure_index=INDEX,
        reduction="atoms",
        huber_delta=0.5,
    )
    first, second = by_hand(kind)
    assert term.count == 4
    torch.testing.assert_close(term.total, 3 * first + second)


def test_forces_that_vanish_by_symmetry_have_a_finite_gradient():
    difference = torch.zeros(4, 3, requires_grad=True)
    term = compute_term(
        difference, torch.ones(1, dtype=bool), kind="l2",
        structure_index=torch.zeros(4, dtype=int),
    )  # fmt: skip
    term.total.backward()
    assert torch.equal(difference.grad, torch.zeros(4, 3))


def test_a_term_without_any_reference_is_zero():
    term = TermSum(total=torch.tensor(0.0), count=torch.tensor(0.0))
    assert global_mean({"energy": term})["energy"] == 0


def test_rows_that_fit_no_axis_are_refused():
    with pytest.raises(ShapeError, match="5 rows; expected 6"):
        compute_term(DIFFERENCE[:5], MASK, kind="mae", structure_index=INDEX)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {"enrgy": 1.0}}, "enrgy"),
        ({"weights": {"energy": -1.0}}, "-1"),
        ({"weights": {}, "kinds": {"forces": "l1"}}, "l1"),
        ({"weights": {}, "reduction": "batch"}, "batch"),
    ],
)
def test_unknown_options_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        EnergyForceStressLoss(**arguments, name="upstream")
