"""The compiled messages: the same numbers as matrix products, and exact derivatives."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk

from pft_lightning.errors import BackendUnavailableError, ShapeError
from pft_lightning.graphs import build_batch, build_data, build_graph
from pft_lightning.testing import build_tiny_crystals, check_backend_conformance


try:
    from pft_lightning.backends import _compiled, nequix, nequix_files, nequix_messages
except (ImportError, BackendUnavailableError) as error:
    pytest.skip(f"no e3nn for Nequix: {error}", allow_module_level=True)

from pft_lightning.backends.nequix_paths import ProductPath


sys.path.insert(0, str(Path(__file__).parent))

from nequix_models import CONFIG, ELEMENTS


needs_compiler = pytest.mark.skipif(
    not nequix_messages.can_fuse(torch.zeros(1), 3), reason="no C compiler here"
)

# More and fewer channels than fit a vector of 64 bytes; harmonics of a higher degree.
NETWORKS = {
    "three degrees": ("35x0e + 16x1o + 8x2e + 3x3o", 3),
    "two degrees": ("6x0e + 2x2e", 4),
}


def make_model(name: str) -> nequix.NequixModel:
    irreps, lmax = NETWORKS[name]
    config = CONFIG | {"hidden_irreps": irreps, "lmax": lmax}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nequix_files.build(config, "config")
    return nequix.NequixModel(network, config).double()


@pytest.fixture(params=NETWORKS)
def model(request) -> nequix.NequixModel:
    return make_model(request.param)


@pytest.fixture
def batch():
    """Two rattled crystals, one with a cell smaller than the cutoff."""
    structures = []
    for cells, seed in (((1, 1, 1), 0), ((2, 2, 1), 1)):
        atoms = bulk("NaCl", "rocksalt", 5.5) * cells
        atoms.rattle(0.05, seed=seed)
        graph = build_graph(atoms.positions, atoms.cell.array, atoms.pbc, 4.5)
        structures.append(
            build_data(
                atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, graph
            )
        )
    return build_batch(structures)


def derivatives(model, batch, engine):
    """Energy, forces, stress, H v, and the gradient of a loss of all of them."""
    generator = torch.Generator().manual_seed(0)
    tangents = torch.randn(
        batch.num_nodes, 2, 3, dtype=torch.float64, generator=generator
    )
    found = model.derivatives(batch, tangents=tangents, engine=engine)
    values = [found.energy, found.forces, found.stress, found.hvp]
    loss = sum(value.abs().sum() for value in values)
    weights = list(model.parameters())
    return values + list(torch.autograd.grad(loss, weights, materialize_grads=True))


@needs_compiler
@pytest.mark.parametrize("engine", ["forward_over_reverse", "reverse_over_reverse"])
def test_compiled_messages_give_the_numbers_of_matrix_products(
    model, batch, engine, monkeypatch
):
    compiled = derivatives(model, batch, engine)
    monkeypatch.setattr(nequix, "can_fuse", lambda *_: False)
    products = derivatives(model, batch, engine)
    for mine, other in zip(compiled, products, strict=True):
        # Sums of some hundred terms in another order, three derivatives deep.
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_compiler), False])
def test_both_ways_satisfy_what_every_backend_must(compiled, monkeypatch):
    monkeypatch.setattr(nequix, "can_fuse", lambda *_: compiled)
    model = make_model("three degrees")
    check_backend_conformance(model, build_tiny_crystals(ELEMENTS, model.cutoff))


@pytest.fixture
def form():
    """A layout of four paths, some edges, and its four arguments."""
    paths = [
        ProductPath(0, 0, 1, 1, 1, 17),
        ProductPath(1, 1, 1, 0, 0, 3),
        ProductPath(1, 1, 2, 1, 1, 3),
        ProductPath(1, 1, 5, 2, 4, 3),  # more components than fit one round of sums
    ]
    offsets = {(0, 1, 1): 0, (1, 1, 0): 3, (1, 2, 1): 6, (1, 5, 4): 15}
    layout = nequix_messages.make_layout(paths, [(1, 17), (3, 3)], offsets, 42)
    # Atoms 0 and 1 with two images of each other, atom 2 with images of itself.
    edge_index = torch.tensor([[1, 0, 0, 1, 2, 2], [0, 1, 1, 0, 2, 2]])
    shifts = torch.tensor(
        [[0, 0, 0], [0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]],
        dtype=torch.int8,
    )
    edges = nequix_messages.sort_edges(edge_index, shifts, 3)
    generator = torch.Generator().manual_seed(1)
    rows = (6, 3, 3, 3)
    arguments = [
        torch.randn(n, width, dtype=torch.float64, generator=generator)
        for n, width in zip(rows, layout.widths, strict=True)
    ]
    return paths, offsets, layout, edges, arguments


def test_an_edge_and_its_reverse_are_a_pair(form):
    *_, edges, _ = form
    assert edges.centre.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(edges.first_of_pair) == 3
    assert np.bincount(edges.pair).tolist() == [2, 2, 2]
    # In the order they came: (1, 0) and (0, 1) without shift, with it, and of atom 2.
    pairs = dict(zip(edges.order.tolist(), edges.pair.tolist(), strict=True))
    assert pairs[0] == pairs[1]
    assert pairs[2] == pairs[3]
    assert pairs[4] == pairs[5]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_messages_are_the_written_out_sum(form, dtype):
    paths, offsets, layout, edges, (couplings, features, weights, _) = form
    found = nequix_messages.messages(
        layout, edges, couplings.to(dtype), features.to(dtype), weights.to(dtype)
    )
    assert found.dtype == dtype
    expected = [torch.zeros(3, m, n).double() for m, n in layout.message_shapes]
    parts = features.split([17, 9], dim=1)
    sent = [parts[0].view(3, 1, 17), parts[1].view(3, 3, 3)]
    filled, weight = [0, 0, 0], 0
    for path in paths:
        m1, m3, n = 2 * path.degree + 1, 2 * path.target_degree + 1, path.channels
        start = offsets[path.degree, path.harmonic, path.target_degree]
        for e in range(6):
            coupling = couplings[e, start : start + m1 * m3].view(m1, m3)
            own = weights[edges.pair[e], weight : weight + n]
            sender = sent[path.source][edges.neighbour[e]]
            columns = slice(filled[path.target], filled[path.target] + n)
            expected[path.target][edges.centre[e]][:, columns] += (
                coupling.T @ sender * own
            )
        filled[path.target] += n
        weight += n
    flat = torch.cat([x.flatten(1) for x in expected], dim=1)
    # Rounding of sums of up to ten terms of order one.
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found.double(), flat, rtol=tolerance, atol=tolerance)


@needs_compiler
def test_arguments_that_do_not_fit_are_refused(form):
    _, _, layout, edges, (couplings, features, weights, _) = form
    for bad in (features.float(), features[:-1], features[:, :-1], features.to("meta")):
        with pytest.raises(ShapeError, match="argument 1 is"):
            nequix_messages.messages(layout, edges, couplings, bad, weights)


@needs_compiler
def test_autocast_takes_the_other_way(batch):
    model = make_model("three degrees").float()
    with torch.autocast("cpu"):
        assert torch.isfinite(model.derivatives(batch).forces).all()


@needs_compiler
@pytest.mark.parametrize("slot", range(4))
def test_each_form_has_exact_derivatives_of_every_order_and_mode(form, slot):
    _, _, layout, edges, arguments = form
    rest = [a.requires_grad_() for i, a in enumerate(arguments) if i != slot]

    def function(*given):
        return nequix_messages._Form.apply(layout, edges, slot, *given)

    with torch.random.fork_rng():  # the checks draw random directions
        torch.autograd.gradcheck(function, rest, check_forward_ad=True)
        torch.autograd.gradgradcheck(function, rest, check_fwd_over_rev=True)


@needs_compiler
@pytest.mark.parametrize("slot", range(4))
def test_several_directions_at_once_are_each_alone(form, slot):
    _, _, layout, edges, arguments = form
    first, *others = [a for i, a in enumerate(arguments) if i != slot]

    def push(tangent):
        return torch.func.jvp(
            lambda x: nequix_messages._Form.apply(layout, edges, slot, x, *others),
            (first,),
            (tangent,),
        )[1]

    tangents = torch.stack([first, first.flip(0), first.square()], dim=1)
    together = torch.func.vmap(push, in_dims=1)(tangents)
    for k in range(3):
        torch.testing.assert_close(together[k], push(tangents[:, k]), rtol=0, atol=0)


@needs_compiler
def test_gradients_to_weights_alone_take_no_gradient_to_positions(form, monkeypatch):
    _, _, layout, edges, (couplings, features, weights, _) = form
    slots = []
    contract = nequix_messages._contract

    def record(layout, edges, slot, arguments):
        slots.append(slot)
        return contract(layout, edges, slot, arguments)

    monkeypatch.setattr(nequix_messages, "_contract", record)
    leaves = [x.requires_grad_() for x in (couplings, features, weights)]
    # As in a network, none of the arguments is a leaf.
    sums = nequix_messages.messages(layout, edges, *(2 * leaf for leaf in leaves)).sum()
    torch.autograd.grad(sums, leaves[2])
    assert slots == [nequix_messages.MESSAGE, nequix_messages.WEIGHT]


@needs_compiler
@pytest.mark.parametrize("slot", range(4))
def test_threads_do_not_change_a_bit(form, slot):
    _, _, layout, edges, arguments = form
    rest = tuple(a for i, a in enumerate(arguments) if i != slot)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = nequix_messages._contract(layout, edges, slot, rest)
        torch.set_num_threads(3)
        three = nequix_messages._contract(layout, edges, slot, rest)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, three)


def test_without_a_compiler_models_run_and_say_so(batch, monkeypatch, tmp_path):
    monkeypatch.delenv("PFT_LIGHTNING_COMPILE", raising=False)
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))
    _compiled.load_library.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"could not be compiled.*slower"):
            assert not nequix_messages.can_fuse(torch.zeros(1), 3)
        energy = make_model("two degrees").derivatives(batch).energy
    finally:
        _compiled.load_library.cache_clear()
    assert torch.isfinite(energy).all()


@needs_compiler
def test_what_the_compiled_form_does_not_take_goes_the_other_way():
    assert not nequix_messages.can_fuse(torch.zeros(1, dtype=torch.bfloat16), 3)
    assert not nequix_messages.can_fuse(torch.zeros(1, device="meta"), 3)
    assert not nequix_messages.can_fuse(torch.zeros(1), 8)


def test_compiling_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("PFT_LIGHTNING_COMPILE", "0")
    _compiled.load_library.cache_clear()
    try:
        assert not nequix_messages.can_fuse(torch.zeros(1), 3)
    finally:
        _compiled.load_library.cache_clear()
