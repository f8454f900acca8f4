"""Networks of NequIP with OpenEquivariance or CuEquivariance.

Their kernels need a GPU. Stand-ins show that no derivative of ours reaches them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from pft_lightning.backends.registry import load_model
from pft_lightning.errors import CheckpointError
from pft_lightning.testing import (
    build_crystal_batch,
    build_tiny_crystals,
    check_backend_conformance,
)


pytest.importorskip("nequip", reason="NequIP is not installed here")
pytestmark = pytest.mark.filterwarnings("ignore")  # of NequIP, Lightning, torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def checkpoint(nequip_files) -> Path:
    return nequip_files["float64"]


def with_modifiers(checkpoint: Path, path: Path, *names: str) -> Path:
    """A checkpoint as trainings with ``nequip.model.modify`` write it."""
    content = torch.load(checkpoint, weights_only=False)
    hyper = content["hyper_parameters"]
    hyper["model"] = hyper["info_dict"]["training_module"]["model"] = {
        "_target_": "nequip.model.modify",
        "modifiers": [{"modifier": name} for name in names],
        "model": hyper["model"],
    }
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["enable_OpenEquivariance", "enable_CuEquivariance"])
def test_a_checkpoint_trained_with_kernels_needs_none_of_them(
    checkpoint, tmp_path, name, rattled
):
    """Neither library is there; the weights are those of e3nn's product."""
    plain = load_model(checkpoint)
    accelerated = load_model(with_modifiers(checkpoint, tmp_path / "m.ckpt", name))
    batch = build_crystal_batch([rattled], plain.cutoff)
    assert torch.equal(*(m.derivatives(batch).forces for m in (plain, accelerated)))


def test_a_modifier_that_nobody_knows_is_no_acceleration(checkpoint, tmp_path):
    path = with_modifiers(checkpoint, tmp_path / "m.ckpt", "enable_teleportation")
    with pytest.raises(CheckpointError, match="enable_teleportation"):
        load_model(path)


@pytest.mark.parametrize("is_compiled", [True, False])
def test_hessian_products_go_past_the_kernels_that_frames_run_on(
    checkpoint, is_compiled, request
):
    """``nequip-train`` builds the network with its kernels, which stay in place."""
    if not is_compiled:  # as on a GPU
        request.getfixturevalue("not_compiled")
    from nequip.nn._tp_scatter_base import TensorProductScatter

    from pft_lightning.backends.nequip.model import NequIPModel

    class Kernel(TensorProductScatter):
        """Forward only, as an opaque kernel is to autograd beyond its derivatives."""

        _nequip_custom_ops_libs = ("openequivariance",)

        def forward(self, x, *others):
            return super().forward(x.detach(), *(o.detach() for o in others))

    network = load_model(checkpoint).network
    products = [m for m in network.modules() if type(m) is TensorProductScatter]
    for module in products:
        module.__class__ = Kernel
    assert len(products) == 2

    model = NequIPModel(network)
    crystals = build_tiny_crystals(model.atomic_numbers, model.cutoff)
    check_backend_conformance(model, {"small": crystals["small"]})
    assert all("forward" not in vars(module) for module in products)
