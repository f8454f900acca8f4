from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data

from pft_lightning import keys
from pft_lightning.errors import ConfigError, ShapeError
from pft_lightning.losses import EnergyForceStressLoss, global_mean
from pft_lightning.losses.terms import TermSum, compute_term
from pft_lightning.types import Derivatives


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


@pytest.mark.parametrize("reduction", ["atoms", "structures"])
def test_weights_of_structures_act_as_in_mace(reduction):
    """A mean of weighted squares: not divided by the weights."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.tensor([3, 1, 2])
    weights = torch.tensor([[0.5, 2.0, 1.0], [1.0, 0.25, 4.0], [3.0, 1.0, 0.1]])
    energy, forces, stress = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((3,), (6, 3), (3, 3, 3))
    )
    batch = Data(
        **{
            keys.STRUCTURE_INDEX: torch.repeat_interleave(torch.arange(3), sizes),
            "num_graphs": 3,
            keys.ENERGY: torch.zeros(3),
            keys.FORCES: torch.zeros(6, 3),
            keys.STRESS: torch.zeros(3, 3, 3),
            keys.ENERGY_MASK: torch.ones(3, dtype=bool),
            keys.FORCES_MASK: torch.ones(3, dtype=bool),
            keys.STRESS_MASK: torch.ones(3, dtype=bool),
            keys.WEIGHTS: weights,
        }
    )
    loss = EnergyForceStressLoss(
        {"energy": 1.0, "forces": 1.0, "stress": 1.0},
        dict.fromkeys(["energy", "forces", "stress"], "mse"),
        reduction=reduction,
    )
    found = global_mean(loss.terms(Derivatives(energy, forces, stress), batch))
    # As mace.modules.loss: weighted_mean_squared_error_energy and the like.
    atoms = weights[:, 1].repeat_interleave(sizes)[:, None]
    by_structure = [f.square().mean() for f in forces.split(sizes.tolist())]
    expected = {
        "energy": (weights[:, 0] * (energy / sizes).square()).mean(),
        "forces": (atoms * forces.square()).mean()
        if reduction == "atoms"
        else (weights[:, 1] * torch.stack(by_structure)).mean(),
        "stress": (weights[:, 2, None, None] * stress.square()).mean(),
    }
    # float64 sums of a few numbers
    for quantity, value in expected.items():
        torch.testing.assert_close(found[quantity], value, rtol=1e-12, atol=0)
