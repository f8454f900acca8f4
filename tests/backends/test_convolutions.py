"""Tensor products of e3nn for which the compiled messages stand in."""

from __future__ import annotations

import contextlib
import importlib.util

import pytest
import torch

from pft_lightning.backends.convolutions import plan
from pft_lightning.kernels import messages
from pft_lightning.kernels.edges import group_edges


pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of e3nn and TorchScript
    pytest.mark.skipif(
        importlib.util.find_spec("e3nn") is None, reason="e3nn is not installed here"
    ),
]

FEATURES = "3x0e+2x0o+4x1o+2x1e+1x2e"
HARMONICS = "1x0e+1x1o+1x2e"


def make_product(
    features: str = FEATURES,
    harmonics: str = HARMONICS,
    mode: str = "uvu",
    built: torch.dtype = torch.float64,
    **options,
):
    """All products of features and harmonics, sorted as MACE and NequIP have them."""
    with contextlib.suppress(ImportError):
        # e3nn 0.4.4 cannot be imported but by MACE.
        from pft_lightning.backends.mace import files as mace_files  # noqa: F401
    from e3nn import o3

    one, other = o3.Irreps(features), o3.Irreps(harmonics)
    found = [
        (i, j, mul, product)
        for i, (mul, irrep) in enumerate(one)
        for j, (_, harmonic) in enumerate(other)
        for product in irrep * harmonic
    ]
    irreps, places, _ = o3.Irreps([(mul, ir) for _, _, mul, ir in found]).sort()
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(built)  # of e3nn's coefficients
        return o3.TensorProduct(
            one,
            other,
            irreps,
            [(i, j, places[k], mode, True) for k, (i, j, _, _) in enumerate(found)],
            **{"shared_weights": False, "internal_weights": False} | options,
        )
    finally:
        torch.set_default_dtype(before)


@pytest.mark.skipif(
    not messages.can_fuse(torch.float64, torch.device("cpu"), 4),
    reason="no C compiler here",
)
@pytest.mark.parametrize("built", [torch.float64, torch.float32])
def test_messages_are_those_of_e3nn(built):
    """Also of a product in double precision whose coefficients were rounded before."""
    product = make_product(built=built).double()
    fused = plan(product)
    centre = torch.tensor([2, 0, 1, 1, 0, 2, 2])
    neighbour = torch.tensor([0, 1, 0, 2, 2, 2, 1])
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    features = draw(3, product.irreps_in1.dim)
    harmonics, weights = draw(7, product.irreps_in2.dim), draw(7, product.weight_numel)
    found = fused(
        features,
        harmonics @ fused.tables[torch.float64, centre.device],
        weights,
        group_edges(centre, neighbour, 3),
    )
    each = product(features[neighbour], harmonics, weights)
    expected = each.new_zeros(3, each.shape[1]).index_add(0, centre, each)
    # Sums of up to a hundred terms of order one, in another order.
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"shared_weights": True}, id="weights that edges share"),
        pytest.param({"harmonics": "1x0e+1x1o+1x1e"}, id="a degree twice"),
        pytest.param({"harmonics": "2x0e+1x1o"}, id="several harmonics of a kind"),
        pytest.param(
            {"features": "1x0e+1x1o", "mode": "uuu"}, id="another kind of product"
        ),
    ],
)
def test_other_products_are_left_to_e3nn(options):
    assert plan(make_product(**options)) is None


def test_what_is_no_tensor_product_is_left_alone():
    assert plan(torch.nn.Identity()) is None
