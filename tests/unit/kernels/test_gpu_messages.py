"""The messages of a GPU, interpreted on the CPU: the numbers of the C code."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from pft_lightning.kernels import messages
from pft_lightning.kernels.couplings import Coupling
from pft_lightning.kernels.edges import group_edges, pair_edges
from pft_lightning.kernels.gpu import trial
from pft_lightning.kernels.gpu.tables import find_tables
from pft_lightning.kernels.layout import ProductPath, make_layout


CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(
    not messages.can_fuse(torch.float64, CPU, 3), reason="no C compiler here"
)

# Sums of some tens of products of order one, in another order.
ROUNDING = {torch.float64: 2e-15, torch.float32: 1e-6}

# Two atoms bound to each other, one with images of itself, one alone.
EDGE_INDEX = torch.tensor([[1, 0, 2, 2], [0, 1, 2, 2]])
SHIFTS = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, -1, 0]], dtype=torch.int8)
PAIRED = pair_edges(EDGE_INDEX, SHIFTS, 4)
SEPARATE = group_edges(*EDGE_INDEX, 4)

# Tiles with one channel more than 32; two paths with the couplings of one kind, and two
# from one block; blocks of 1, 3, 5 and 9 components; features that no path reads.
PATHS = [
    ProductPath(0, 0, 1, 1, 1, 33),
    ProductPath(1, 1, 1, 0, 0, 3),
    ProductPath(1, 1, 2, 2, 2, 3),
    ProductPath(2, 1, 2, 2, 2, 5),
    ProductPath(1, 1, 5, 3, 4, 3),
]
SHAPES = [(1, 33), (3, 3), (3, 5), (1, 2)]
SMALL = [ProductPath(0, 0, 0, 0, 0, 4), ProductPath(0, 0, 1, 1, 1, 4)]


def lay_out(paths=PATHS, shapes=SHAPES):
    kinds = [Coupling(x.degree, x.harmonic, x.target_degree) for x in paths]
    return make_layout(paths, shapes, kinds)


def draw(layout, edges, dtype=torch.float64, probes=()):
    """The four arguments, at random, in front of each an axis for some of them."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(*front, n, width, dtype=torch.float64, generator=generator)
        .to(dtype)
        .requires_grad_()
        for front, n, width in zip(
            probes or [()] * 4, edges.lengths, layout.widths, strict=True
        )
    ]


def differentiate(layout, edges, arguments, order):
    """Derivatives of messages up to some order, of all there were before."""
    *given, cotangent = arguments
    found = [messages.messages(layout, edges, *given)]
    total = (found[0] * cotangent).sum()
    for n in range(order):
        more = torch.autograd.grad(
            total, arguments, create_graph=n + 1 < order, materialize_grads=True
        )
        found += more
        total = sum((x * x.detach().cos()).sum() for x in more)
    return found


@pytest.mark.parametrize(
    ("edges", "dtype"), [(PAIRED, torch.float64), (SEPARATE, torch.float32)]
)
def test_messages_and_two_derivatives_are_those_of_the_c_code(twins, edges, dtype):
    layout = lay_out()
    tables = find_tables(layout, CPU)
    assert (tables.widths, tables.channels) == ((0, 1, 4, 8, 16), 32)
    assert tables.is_complete == (True, False, True, True)
    differentiate(layout, edges, draw(layout, edges, dtype), 2)
    assert set(twins.slots) == {0, 1, 2, 3}
    assert twins.worst < ROUNDING[dtype]


def test_a_third_derivative_has_sums_of_many_terms(twins):
    layout = lay_out(SMALL, [(1, 4)])
    differentiate(layout, PAIRED, draw(layout, PAIRED), 3)
    assert len(twins.slots) > 12
    assert twins.worst < ROUNDING[torch.float64]


def test_without_edges_all_is_zero(twins):
    layout = lay_out(SMALL, [(1, 4)])
    none = torch.zeros(0, dtype=torch.int64)
    edges = group_edges(none, none, 2)
    found = differentiate(layout, edges, draw(layout, edges), 2)
    assert twins.slots
    assert all(not x.any() for x in found)


def test_probes_are_one_launch_and_the_numbers_of_one_after_another(twins):
    """Of arguments that differ, beside one that does not, and their gradients."""
    shared = 1
    layout = lay_out(SMALL, [(1, 4)])
    front = [() if i == shared else (2,) for i in range(3)]
    *given, _ = draw(layout, PAIRED, probes=[*front, ()])
    dims = tuple(None if i == shared else 0 for i in range(3))

    def squares(*arguments):
        return messages.messages(layout, PAIRED, *arguments).square().sum()

    gradient = torch.func.grad(squares, argnums=(0, 1, 2))
    found = torch.func.vmap(gradient, in_dims=dims)(*given)
    launches = len(twins.slots)
    total = sum(x.cos().sum() for x in found)
    mine = torch.autograd.grad(total, given)
    # Messages once, and the gradient by each argument once.
    assert launches == 4
    one_by_one = []
    for k in range(2):
        of_probe = [x if i == shared else x[k] for i, x in enumerate(given)]
        one_by_one.append(gradient(*of_probe))
    stacked = [torch.stack(parts) for parts in zip(*one_by_one, strict=True)]
    for a, b in zip(found, stacked, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)
    others = torch.autograd.grad(sum(x.cos().sum() for x in stacked), given)
    for a, b in zip(mine, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    assert twins.worst < ROUNDING[torch.float64]


def test_kernels_compile_for_gpus_that_are_not_here_and_fit_their_registers():
    pytest.importorskip("triton", "3.9", reason="no Triton here: pip install triton")
    script = Path(__file__).parents[2] / "compile_kernels.py"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [x.split() for x in done.stdout.splitlines() if x.startswith("COMPILED")]
    kernels = {(name, capability) for _, name, capability, _, _ in lines}
    assert kernels == {
        (name, capability)
        for name in ("vectors", "weights", "couplings")
        for capability in ("80", "90")
    }
    assert all(spilled == "0" for *_, spilled in lines)


@pytest.fixture
def tried(monkeypatch):
    """The trial of a device, forgotten before and after."""
    monkeypatch.delenv("PFT_LIGHTNING_COMPILE", raising=False)
    trial.is_usable.cache_clear()
    yield trial
    trial.is_usable.cache_clear()


def test_a_device_is_used_if_a_trial_gives_the_right_numbers(tried):
    pytest.importorskip("triton", "3.9", reason="no Triton here: pip install triton")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tried.is_usable(CPU, torch.float64)
        assert tried.is_usable(CPU, torch.float32)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (ModuleNotFoundError("No module named 'triton'"), "No module named 'triton'"),
        (
            RuntimeError("provided PTX was compiled with an unsupported toolchain"),
            "PTX",
        ),
        (ValueError("sm_70 is not supported\nby this version"), "by this version"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (None, "its numbers are wrong"),
    ],
)
def test_where_triton_fails_there_is_one_warning_that_says_why(
    tried, monkeypatch, fault, words
):
    """No Triton, a driver older than the toolkit, an old card, a full one, a bug."""

    def contract(*args):
        if fault is not None:
            raise fault
        args[-1].zero_()

    monkeypatch.setattr(tried, "find_contract", lambda: contract)
    with pytest.warns(UserWarning, match=f"does not work on cpu.*{words}.*slower"):
        assert not tried.is_usable(CPU, torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not tried.is_usable(CPU, torch.float64)


def test_the_trial_can_be_turned_off(tried, monkeypatch):
    monkeypatch.setenv("PFT_LIGHTNING_COMPILE", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not tried.is_usable(CPU, torch.float64)
