"""Along a direction, gradients that nobody needs are left out, and no others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pft_lightning.kernels import messages
from pft_lightning.kernels.couplings import Coupling
from pft_lightning.kernels.edges import pair_edges
from pft_lightning.kernels.layout import ProductPath, make_layout
from pft_lightning.kernels.messages import WEIGHT
from pft_lightning.kernels.sums import still_pairs
from pft_lightning.physics.direction import along, current_direction
from pft_lightning.physics.hvp import compute_derivatives


pytestmark = pytest.mark.skipif(
    not messages.can_fuse(torch.float64, torch.device("cpu"), 3),
    reason="no C compiler here",
)

# A chain of four atoms, each bound to the next; the direction moves the first.
CENTRE = torch.tensor([0, 1, 1, 2, 2, 3])
NEIGHBOUR = torch.tensor([1, 0, 2, 1, 3, 2])
EDGES = pair_edges(
    torch.stack([CENTRE, NEIGHBOUR]), torch.zeros(6, 3, dtype=torch.int8), 4
)
POSITIONS = torch.tensor(
    [[0.0, 0.1, 0.2], [1.1, 0.3, 0.0], [2.0, -0.2, 0.1], [3.1, 0.0, 0.4]],
    dtype=torch.float64,
)
RECEIVER = EDGES.centre[EDGES.first_of_pair]
CHANNELS = 3
LAYOUT = make_layout(
    [ProductPath(0, 0, 0, 0, 0, CHANNELS)], [(1, CHANNELS)], [Coupling(0, 0, 0)]
)
ENGINES = ["forward_over_reverse", "reverse_over_reverse"]


def first_atom() -> torch.Tensor:
    tangents = torch.zeros(4, 1, 3, dtype=torch.float64)
    tangents[0, 0, 0] = 1.0
    return tangents


def parameters(last: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    radial = torch.rand(CHANNELS, dtype=torch.float64, generator=generator) + 0.5
    return [
        radial.requires_grad_(),
        torch.full((CHANNELS,), last, dtype=torch.float64, requires_grad=True),
    ]


def energy_of(weights, from_features=None):
    """Two layers of messages; radial weights are ``last * sin(radial * length)``."""
    radial, last = weights

    def energy(positions, strain):
        moved = positions + positions @ strain[0]
        vectors = moved[EDGES.neighbour] - moved[EDGES.centre]
        lengths = vectors[EDGES.first_of_pair].norm(dim=1, keepdim=True)
        couplings = vectors.square().sum(dim=1, keepdim=True)
        rows = last * torch.sin(radial * lengths)
        features = positions.new_ones(4, CHANNELS)
        for _ in range(2):
            if from_features is not None:
                rows = rows * from_features(features)
            received = messages.messages(LAYOUT, EDGES, couplings, features, rows)
            features = features + torch.tanh(received)
        return features.sum().reshape(1)

    return energy


def loss_of(weights, engine, **options):
    """Of forces and a Hessian column."""
    found = compute_derivatives(
        energy_of(weights, **options),
        POSITIONS,
        torch.ones(1, dtype=torch.float64),
        tangents=first_atom(),
        engine=engine,
    )
    factors = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).view(4, 1, 3)
    return (found.hvp.square() + factors * found.hvp).sum() + found.forces.norm()


def gradients(weights, engine, **options):
    return torch.autograd.grad(loss_of(weights, engine, **options), weights)


@pytest.fixture
def left_out(monkeypatch):
    """Numbers of rows of each gradient that is computed without all of its rows."""
    counts = []
    contract = messages.contract

    def record(layout, edges, each, roles, tensors):
        out = contract(layout, edges, each, roles, tensors)
        if each.own >= 0:
            assert each.slot == WEIGHT
            counts.append(int(still_pairs(edges, roles[each.own].direction).sum()))
        return out

    monkeypatch.setattr(messages, "contract", record)
    return counts


@pytest.fixture
def nothing_is_still(monkeypatch):
    """A function after which directions are not known."""
    return lambda: monkeypatch.setattr(messages, "current_direction", lambda: None)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("last", [1.3, 0.0])
def test_gradients_are_the_same_and_need_fewer_rows(
    engine, last, left_out, nothing_is_still
):
    """Also where weights are zero for now: theirs are the gradients that matter."""
    weights = parameters(last)
    found = gradients(weights, engine)
    # Two pairs of atoms that the direction leaves alone, in each of two layers.
    passes = len(left_out)
    assert passes >= 2
    assert set(left_out) == {2}
    nothing_is_still()
    expected = gradients(weights, engine)
    assert len(left_out) == passes
    assert expected[1].abs().min() > 0.01
    for mine, all_rows in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, all_rows, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_of_a_column_are_central_differences(engine, left_out):
    weights = parameters(1.3)
    found = torch.stack(gradients(weights, engine))
    assert left_out
    step, numeric = 1e-4, torch.zeros_like(found)
    with torch.no_grad():
        for row, weight in enumerate(weights):
            for channel in range(CHANNELS):
                weight[channel] += step
                numeric[row, channel] = loss_of(weights, engine)
                weight[channel] -= 2 * step
                numeric[row, channel] -= loss_of(weights, engine)
                weight[channel] += step
    # The third derivatives of the loss, of order 100, times the step squared over six.
    torch.testing.assert_close(found, numeric / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_on_a_gpu_the_same_rows_are_left_out(engine, twins):
    """In Triton, whose numbers in these rows are zeros as those of the C code are."""
    gradients(parameters(1.3), engine)
    assert set(twins.slots) == {0, 1, 2, 3}
    assert 0 < twins.worst < 1e-15  # sums of at most six products


def test_within_a_transform_of_the_caller_nothing_is_left_out(left_out):
    """There numbers of directions cannot be looked at; gradients are the same."""
    engine = "forward_over_reverse"  # the other one cannot be transformed
    radial, last = parameters(1.3)
    expected = gradients([radial, last], engine)[0]
    left_out.clear()
    found = torch.func.grad(lambda x: loss_of([x, last.detach()], engine))(radial)
    assert not left_out
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_that_change_between_still_atoms_are_not_left_out(
    engine, nothing_is_still
):
    """As if a network derived them from features: exact, with nothing saved."""
    weights = parameters(1.3)

    def of_receiver(features):
        return features[RECEIVER]

    found = gradients(weights, engine, from_features=of_receiver)
    nothing_is_still()
    expected = gradients(weights, engine, from_features=of_receiver)
    for mine, all_rows in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, all_rows, rtol=1e-13, atol=1e-13)


def test_outside_of_a_direction_cotangents_of_zeros_get_their_gradients(left_out):
    """Third derivatives of a caller: zeros of today, not of all days."""
    weights = parameters(1.3)
    positions = POSITIONS.clone().requires_grad_()
    strain = torch.zeros(1, 3, 3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(
        energy_of(weights)(positions, strain), positions, create_graph=True
    )
    direction = first_atom()[:, 0].requires_grad_()
    (product,) = torch.autograd.grad(
        gradient, positions, grad_outputs=direction, create_graph=True
    )
    probe = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).view(4, 3)
    (found,) = torch.autograd.grad(product, direction, grad_outputs=probe)
    assert not left_out
    # H is symmetric: the gradient with respect to v of probe . (H v) is H probe.
    hvp = compute_derivatives(
        energy_of(weights),
        POSITIONS,
        torch.ones(1, dtype=torch.float64),
        tangents=probe[:, None],
    ).hvp
    torch.testing.assert_close(found, hvp[:, 0], rtol=1e-12, atol=1e-12)


def test_what_is_still_is_found_once_for_all_probes_together():
    tangents = torch.cat([first_atom(), first_atom().flip(0)], dim=1)
    with along(tangents):
        direction = current_direction()
        still = still_pairs(EDGES, direction)
        assert still_pairs(EDGES, direction) is still
    inner = np.isin(EDGES.centre, [1, 2]) & np.isin(EDGES.neighbour, [1, 2])
    assert np.flatnonzero(still).tolist() == sorted(set(EDGES.pair[inner].tolist()))
    assert current_direction() is None
