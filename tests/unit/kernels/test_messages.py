"""The compiled messages: the sum as written, and exact derivatives of every order."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch

from pft_lightning.errors import ShapeError
from pft_lightning.kernels import compiled, host, messages
from pft_lightning.kernels.couplings import Coupling
from pft_lightning.kernels.edges import group_edges, pair_edges
from pft_lightning.kernels.layout import ProductPath, make_layout
from pft_lightning.kernels.messages import COUPLING, FEATURE, MESSAGE, WEIGHT


CPU = torch.device("cpu")

needs_compiler = pytest.mark.skipif(
    not messages.can_fuse(torch.float64, CPU, 3), reason="no C compiler here"
)

# Atoms 0 and 1 with two images of each other, atom 2 with images of itself.
EDGE_INDEX = torch.tensor([[1, 0, 0, 1, 2, 2], [0, 1, 1, 0, 2, 2]])
SHIFTS = torch.tensor(
    [[0, 0, 0], [0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]],
    dtype=torch.int8,
)


@pytest.fixture
def form():
    """A layout of four paths, some edges, and its four arguments."""
    paths = [
        ProductPath(0, 0, 1, 1, 1, 17),
        ProductPath(1, 1, 1, 0, 0, 3),
        ProductPath(1, 1, 2, 1, 1, 3),
        ProductPath(1, 1, 5, 2, 4, 3),  # more components than fit one round of sums
    ]
    columns = [0, 3, 6, 15]
    kinds = [Coupling(x.degree, x.harmonic, x.target_degree) for x in paths]
    layout = make_layout(paths, [(1, 17), (3, 3)], kinds)
    edges = pair_edges(EDGE_INDEX, SHIFTS, 3)
    generator = torch.Generator().manual_seed(1)
    arguments = [
        torch.randn(n, width, dtype=torch.float64, generator=generator)
        for n, width in zip((6, 3, 3, 3), layout.widths, strict=True)
    ]
    return paths, columns, layout, edges, arguments


def test_an_edge_and_its_reverse_are_a_pair():
    edges = pair_edges(EDGE_INDEX, SHIFTS, 3)
    assert edges.centre.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(edges.first_of_pair) == 3
    assert np.bincount(edges.pair).tolist() == [2, 2, 2]
    # In the order they came: (1, 0) and (0, 1) without shift, with it, and of atom 2.
    pairs = dict(zip(edges.order.tolist(), edges.pair.tolist(), strict=True))
    assert pairs[0] == pairs[1]
    assert pairs[2] == pairs[3]
    assert pairs[4] == pairs[5]


def test_edges_are_grouped_by_who_receives_and_who_sends():
    """In the order they came, with an atom more that has no neighbours."""
    edges = group_edges(*EDGE_INDEX, 4)
    groups = [
        [order[a:b].tolist() for a, b in itertools.pairwise(start)]
        for start, order in edges.groups
    ]
    assert groups == [
        [[1, 2], [0, 3], [4, 5], []],
        [[0, 3], [1, 2], [4, 5], []],
        [[0], [1], [2], [3], [4], [5]],
    ]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_messages_are_the_written_out_sum(form, dtype):
    paths, columns, layout, edges, (couplings, features, weights, _) = form
    found = messages.messages(
        layout, edges, couplings.to(dtype), features.to(dtype), weights.to(dtype)
    )
    assert found.dtype == dtype
    expected = [torch.zeros(3, m, n).double() for m, n in layout.message_shapes]
    parts = features.split([17, 9], dim=1)
    sent = [parts[0].view(3, 1, 17), parts[1].view(3, 3, 3)]
    filled, weight = [0, 0, 0], 0
    for path, start in zip(paths, columns, strict=True):
        m1, m3, n = 2 * path.degree + 1, 2 * path.target_degree + 1, path.channels
        for e in range(6):
            coupling = couplings[e, start : start + m1 * m3].view(m1, m3)
            own = weights[edges.pair[e], weight : weight + n]
            sender = sent[path.source][edges.neighbour[e]]
            block = slice(filled[path.target], filled[path.target] + n)
            expected[path.target][edges.centre[e]][:, block] += (
                coupling.T @ sender * own
            )
        filled[path.target] += n
        weight += n
    flat = torch.cat([x.flatten(1) for x in expected], dim=1)
    # Rounding of sums of up to ten terms of order one.
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found.double(), flat, rtol=tolerance, atol=tolerance)


@needs_compiler
def test_an_atom_without_neighbours_receives_nothing(form):
    _, _, layout, _, (couplings, features, weights, _) = form
    edges = group_edges(*EDGE_INDEX, 4)
    more = torch.cat([features, features[:1]]), torch.cat([weights, weights])
    found = messages.messages(layout, edges, couplings, *more)
    assert found[3].abs().max() == 0
    assert found[:3].abs().max(dim=1).values.min() > 0


@needs_compiler
@pytest.mark.parametrize("n_atoms", [0, 3])
def test_without_edges_there_are_no_messages_and_derivatives_are_zero(form, n_atoms):
    _, _, layout, _, arguments = form
    none = torch.zeros(0, dtype=torch.int64)
    edges = group_edges(none, none, n_atoms)
    lengths = (0, n_atoms, 0)
    given = [
        x[:n].clone().requires_grad_() for x, n in zip(arguments, lengths, strict=False)
    ]
    found = messages.messages(layout, edges, *given)
    assert found.shape == (n_atoms, layout.widths[MESSAGE])
    gradients = torch.autograd.grad(found.sum(), given, create_graph=True)
    total = sum(x.sum() for x in gradients)
    second = torch.autograd.grad(total, given, materialize_grads=True)
    assert all(x.abs().sum() == 0 for x in (found, *gradients, *second))


def test_edges_to_atoms_that_are_not_there_are_refused():
    with pytest.raises(ShapeError, match="names atom 2; there are 2"):
        group_edges(*EDGE_INDEX, 2)
    with pytest.raises(ShapeError, match="names atom 2; there are 2"):
        pair_edges(EDGE_INDEX, SHIFTS, 2)


@needs_compiler
def test_tensors_that_exist_in_torch_only_are_read_as_what_they_are(form):
    """Zeros without memory, and numbers with a sign kept apart."""
    _, _, layout, edges, (couplings, features, weights, _) = form
    zeros = torch._efficientzerotensor(features.shape, dtype=features.dtype)
    assert messages.messages(layout, edges, couplings, zeros, weights).abs().max() == 0
    negative = torch._neg_view(features)
    torch.testing.assert_close(
        messages.messages(layout, edges, couplings, negative, weights),
        -messages.messages(layout, edges, couplings, features, weights),
        rtol=0,
        atol=0,
    )


@needs_compiler
def test_arguments_that_do_not_fit_are_refused(form):
    _, _, layout, edges, (couplings, features, weights, _) = form
    for bad in (features.float(), features[:-1], features[:, :-1], features.to("meta")):
        with pytest.raises(ShapeError, match="argument 1 is"):
            messages.messages(layout, edges, couplings, bad, weights)


@needs_compiler
@pytest.mark.parametrize("is_sparse", [False, True])
def test_derivatives_of_every_order_and_mode_are_exact(form, is_sparse):
    """Also by rows that are zero, whose products the compiled form leaves out."""
    _, _, layout, edges, arguments = form
    if is_sparse:
        for argument in arguments:
            argument[1:] = 0
    *given, cotangent = [x.requires_grad_() for x in arguments]

    def value(*given):
        return messages.messages(layout, edges, *given)

    def gradient(*given):
        *given, cotangent = given
        # An argument that is used once more reaches its sum in two ways.
        total = (value(*given) * cotangent).sum()
        return torch.autograd.grad(total, given, create_graph=True)

    with torch.random.fork_rng():  # the checks draw random directions
        torch.autograd.gradcheck(value, given, check_forward_ad=True, fast_mode=True)
        torch.autograd.gradgradcheck(value, given, check_fwd_over_rev=True)
        # Of third derivatives a random projection: all of them take half a minute.
        torch.autograd.gradgradcheck(
            gradient, (*given, cotangent), check_fwd_over_rev=True, fast_mode=True
        )


@needs_compiler
def test_several_directions_at_once_are_each_alone(form):
    _, _, layout, edges, (couplings, features, weights, cotangent) = form

    def gradient(features):
        _, pull = torch.func.vjp(
            lambda *x: messages.messages(layout, edges, *x),
            couplings,
            features,
            weights,
        )
        return pull(cotangent)

    def push(tangent):
        return torch.func.jvp(gradient, (features,), (tangent,))[1]

    tangents = torch.stack([features, features.flip(0), features.square()], dim=1)
    together = torch.func.vmap(push, in_dims=1)(tangents)
    for k in range(3):
        for found, alone in zip(together, push(tangents[:, k]), strict=True):
            torch.testing.assert_close(found[k], alone, rtol=0, atol=0)


@needs_compiler
def test_gradients_to_weights_alone_take_no_gradient_to_positions(form, monkeypatch):
    _, _, layout, edges, (couplings, features, weights, _) = form
    slots = []
    contract = messages.contract

    def record(layout, edges, each, *others):
        slots.append(each.slot)
        return contract(layout, edges, each, *others)

    monkeypatch.setattr(messages, "contract", record)
    leaves = [x.requires_grad_() for x in (couplings, features, weights)]
    # As in a network, none of the arguments is a leaf.
    sums = messages.messages(layout, edges, *(2 * leaf for leaf in leaves)).sum()
    torch.autograd.grad(sums, leaves[2])
    assert slots == [MESSAGE, WEIGHT]


@needs_compiler
def test_what_reaches_an_argument_in_several_ways_is_one_sum(form, monkeypatch):
    """A second derivative takes one pass for each argument, whatever it consists of."""
    _, _, layout, edges, arguments = form
    *given, cotangent = [x.requires_grad_() for x in arguments]
    total = (messages.messages(layout, edges, *given) * cotangent).sum()
    gradients = torch.autograd.grad(total, given, create_graph=True)
    passes = []
    contract = messages.contract

    def record(layout, edges, each, *others):
        passes.append((each.slot, len(each.terms)))
        return contract(layout, edges, each, *others)

    monkeypatch.setattr(messages, "contract", record)
    loss = sum(x.square().sum() for x in gradients)
    torch.autograd.grad(loss, [*given, cotangent])
    assert sorted(passes) == [(COUPLING, 2), (FEATURE, 2), (WEIGHT, 2), (MESSAGE, 3)]


@needs_compiler
def test_threads_do_not_change_a_bit(form, monkeypatch):
    _, _, layout, edges, arguments = form
    *given, cotangent = [x.requires_grad_() for x in arguments]
    threads = host._threads
    pools = []

    def record(*args):
        pools.append(args)
        return threads(*args)

    monkeypatch.setattr(host, "_threads", record)
    monkeypatch.setattr(host, "_LEAST_SHARE", 1)

    def gradients():
        total = (messages.messages(layout, edges, *given) * cotangent).sum()
        return torch.autograd.grad(total, [*given, cotangent])

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = gradients()
        assert not pools
        torch.set_num_threads(3)
        three = gradients()
    finally:
        torch.set_num_threads(before)
    assert {number for number, _ in pools} == {3}
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


@needs_compiler
def test_what_the_compiled_form_does_not_take_goes_the_other_way():
    assert not messages.can_fuse(torch.bfloat16, CPU, 3)
    assert not messages.can_fuse(torch.float32, torch.device("meta"), 3)
    assert not messages.can_fuse(torch.float32, CPU, 8)
    with torch.autocast("cpu"):
        assert not messages.can_fuse(torch.float32, CPU, 3)


def test_without_a_compiler_there_is_one_warning(monkeypatch, tmp_path):
    monkeypatch.delenv("PFT_LIGHTNING_COMPILE", raising=False)
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))
    compiled.load_library.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"could not be compiled.*slower"):
            assert not messages.can_fuse(torch.float32, CPU, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not messages.can_fuse(torch.float32, CPU, 3)
    finally:
        compiled.load_library.cache_clear()


def test_compiling_can_be_turned_off(not_compiled):
    assert not messages.can_fuse(torch.float32, CPU, 3)
