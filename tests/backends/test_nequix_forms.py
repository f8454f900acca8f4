"""What the Nequix network computes in few operations: the numbers of autograd."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pft_lightning import keys
from pft_lightning.errors import BackendUnavailableError


try:
    from e3nn import o3

    from pft_lightning.backends.nequix import files as nequix_files
    from pft_lightning.backends.nequix import model as nequix
    from pft_lightning.backends.nequix.blocks import Block, mix_blocks
    from pft_lightning.backends.nequix.normalise import Normalise
    from pft_lightning.backends.nequix.radial import RadialBasis
except (ImportError, BackendUnavailableError) as error:
    pytest.skip(f"no e3nn for Nequix: {error}", allow_module_level=True)

from pft_lightning.graphs import map_tensors
from pft_lightning.kernels import messages
from pft_lightning.physics import harmonics
from pft_lightning.physics.harmonics import Harmonics
from pft_lightning.physics.smooth import ScaledSilu


ROOT = Path(__file__).parents[2]
sys.path += [str(Path(__file__).parent), str(ROOT / "benchmarks" / "gpu")]

from launches import count_launches  # noqa: E402
from nequix_models import CONFIG  # noqa: E402
from test_compiled_models import crystals  # noqa: E402


BLOCKS = (Block(1, (3, 2), 0, 0, 0, 0.5), Block(3, (2, 4), 3, 2, 6, 2.0))


def bessel(lengths: torch.Tensor) -> torch.Tensor:
    """As Nequix writes it, exponent 6 and cutoff 2 Å."""
    x = lengths / 2.0
    envelope = 1.0 - 28.0 * x**6 + 48.0 * x**7 - 21.0 * x**8
    envelope = torch.where(x < 1.0, envelope, 0.0)
    orders = torch.arange(1, 5, dtype=torch.float64)
    return torch.sin(orders * torch.pi * x) * envelope / lengths


def mix_one_by_one(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    one = 0.5 * rows[:, :3] @ weights[:6].view(3, 2)
    other = 2.0 * rows[:, 3:].unflatten(1, (3, 2)) @ weights[6:].view(2, 4)
    return torch.cat([one, other.flatten(1)], dim=1)


# What is computed, the same by operations of torch, and numbers of columns.
FUNCTIONS = {
    "silu": (
        ScaledSilu(1.7),
        lambda x: 1.7 * torch.nn.functional.silu(x),
        5,
    ),
    "norm": (
        Normalise(1e-3),
        lambda x: x * (x.square().sum(dim=1, keepdim=True) + 1e-3).rsqrt(),
        5,
    ),
    "harmonics": (
        Harmonics(4, o3.spherical_harmonics),
        lambda x: o3.spherical_harmonics(
            list(range(5)),
            # e3nn divides in place, which vmap refuses.
            x * x.square().sum(dim=1, keepdim=True).rsqrt(),
            normalize=False,
            normalization="component",
        ),
        3,
    ),
    "radial basis": (RadialBasis(2.0, 4, 6.0), bessel, 1),
    "blocks": (
        lambda x: mix_blocks(BLOCKS, (9, 14), x, x.sum(dim=0).repeat(4)[:14]),
        lambda x: mix_one_by_one(x, x.sum(dim=0).repeat(4)[:14]),
        9,
    ),
}


def loss(function, x, weights):
    """Not linear, so that each derivative meets all others."""
    values = function(x * weights)
    places = torch.linspace(0.3, 2.0, values.shape[1], dtype=torch.float64)
    return (values.sin() * places).sum()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_three_derivatives_are_those_of_autograd(name):
    function, framework, columns = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(0)
    x, tangent = torch.rand(2, 6, columns, dtype=torch.float64, generator=generator)
    x = x + 0.2

    def derivatives(of):
        leaf = x.clone().requires_grad_()
        weights = torch.ones(columns, dtype=torch.float64, requires_grad=True)
        value = loss(of, leaf, weights)
        (first,) = torch.autograd.grad(value, leaf, create_graph=True)
        (second,) = torch.autograd.grad(first, leaf, tangent, create_graph=True)
        total = first.square().sum() + second.square().sum()
        return value, first, second, *torch.autograd.grad(total, (leaf, weights))

    for mine, other in zip(derivatives(function), derivatives(framework), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_probes_at_once_are_probes_one_by_one(name):
    function, framework, columns = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(0)
    x, *tangents = torch.rand(4, 6, columns, dtype=torch.float64, generator=generator)
    x = x + 0.2

    def products(of):
        weights = torch.ones(columns, dtype=torch.float64, requires_grad=True)
        gradient = torch.func.grad(lambda x: loss(of, x, weights))

        def push(tangent):
            return torch.func.jvp(gradient, (x,), (tangent,))[1]

        found = torch.func.vmap(push)(torch.stack(tangents))
        return found, *torch.autograd.grad(found.square().sum(), weights)

    for mine, other in zip(products(function), products(framework), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "blocks"])
@pytest.mark.parametrize("outer", [torch.func.jacfwd, torch.func.jacrev])
@pytest.mark.parametrize("inner", [torch.func.jacfwd, torch.func.jacrev])
def test_derivatives_by_nested_transforms_are_those_of_autograd(name, outer, inner):
    function, framework, columns = FUNCTIONS[name]
    x = torch.linspace(0.3, 1.1, 2 * columns, dtype=torch.float64).view(2, columns)
    weights = torch.ones(columns, dtype=torch.float64)
    found, expected = (
        outer(inner(lambda x, of=of: loss(of, x, weights)))(x)
        for of in (function, framework)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("size", [0.0, 1e-7, 1e-3])
def test_third_derivatives_of_short_rows_stay_within_float32(size):
    factors = torch.tensor([1.0, 2.0, 0.5, -1.0])

    def third(dtype):
        x = torch.full((1, 4), size, dtype=dtype, requires_grad=True)
        value = Normalise(1e-12)(x).sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            value = (gradient * factors.to(dtype)).sum()
        return value.double()

    torch.testing.assert_close(
        third(torch.float32), third(torch.float64), rtol=1e-4, atol=0
    )


def test_neighbours_without_compiled_messages_belong_to_the_tensors_of_a_batch():
    """Those of the first batch would stay in a recorded step."""
    arrangement = nequix.NequixArrangement("nequix", 4.0, (11, 17), sorts_edges=False)
    batch = arrangement(crystals(4.0))
    groups = map_tensors(batch, lambda x: x + 1)[keys.NEIGHBOUR_GROUPS]
    for changed, before in zip(groups, batch[keys.NEIGHBOUR_GROUPS], strict=True):
        assert torch.equal(changed, before + 1)


@pytest.mark.skipif(
    not messages.can_fuse(torch.float64, torch.device("cpu"), 3),
    reason="no C compiler here",
)
def test_a_hessian_step_launches_at_most_2200_kernels():
    """Of a network with the layers and degrees of the published ones."""
    hidden = {"hidden_irreps": "8x0e + 4x1o + 2x2e + 2x3o", "lmax": 3, "n_layers": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nequix_files.build(CONFIG | hidden, Path("config"))
    model = nequix.NequixModel(network, CONFIG | hidden)
    batch = crystals(model.cutoff)
    tangents = torch.ones(batch.num_nodes, 1, 3)

    def step():
        found = model.derivatives(
            batch, tangents=tangents, engine="reverse_over_reverse"
        )
        values = found.energy, found.forces, found.stress, found.hvp
        total = sum(value.abs().mean() for value in values)
        torch.autograd.grad(total, list(model.parameters()), allow_unused=True)

    step()  # tables are made once
    with count_launches() as launches:
        step()
    assert launches.operations["messages"] > 80
    assert launches.total <= 2200


@pytest.mark.parametrize("degree", range(7))
def test_coefficients_of_harmonics_have_the_same_bits_whatever_a_fit_gives(degree):
    """A fit has other last bits in every process; a training must not."""
    generator = torch.Generator().manual_seed(0)

    def noisy(*args, **options):
        values = o3.spherical_harmonics(*args, **options)
        noise = torch.randn(values.shape, dtype=torch.float64, generator=generator)
        return values * (1.0 + 1e-15 * noise)

    first, second, plain = (
        harmonics._coefficients(solid, degree, degree)
        for solid in (noisy, noisy, o3.spherical_harmonics)
    )
    assert np.array_equal(first, second)
    assert np.array_equal(first, plain)
