"""Checks of an adapted model that every backend must pass."""

from __future__ import annotations

import copy

import torch
from spectral import check_property_gradient

from pft_lightning.adaptation import Delta, LoRA, describe_weights
from pft_lightning.backends.parametrized import is_adapted, merge
from pft_lightning.testing import (
    TOLERANCES,
    build_crystal_batch,
    build_tiny_crystals,
    check_backend_conformance,
)


ADAPTATIONS = {
    "lora": LoRA(rank=2, alpha=3.0),
    "delta": Delta(),
}


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every trained parameter a random value, as after a long training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += 0.2 * noise.to(parameter)


def results(model, structures, engine="forward_over_reverse"):
    batch = build_crystal_batch(list(structures.values()), model.cutoff)
    generator = torch.Generator().manual_seed(4)
    tangents = torch.randn(int(batch.num_nodes), 1, 3, generator=generator).double()
    with torch.no_grad():
        for _ in range(TOLERANCES.warm_up):
            found = model.derivatives(batch, tangents=tangents, engine=engine)
    return {
        name: getattr(found, name) for name in ("energy", "forces", "stress", "hvp")
    }


def difference(found, expected) -> dict[str, float]:
    """Largest difference relative to the largest value."""
    return {
        name: float((found[name] - expected[name]).abs().max())
        / max(1.0, float(expected[name].abs().max()))
        for name in expected
    }


def check_adapted(model, adaptation) -> None:
    """Exact start, exact derivatives, equivariance, exact merge."""
    crystals = build_tiny_crystals(model.atomic_numbers, model.cutoff)
    structures = {"small": crystals["small"]}
    base = results(model, structures)
    state = {n: v.clone() for n, v in model.state_dict().items()}
    classes = [type(m) for m in model.modules()]
    adaptation.apply(model)
    start = results(model, structures)
    for name, value in base.items():
        assert torch.equal(start[name], value), name
    randomise(model)
    # Includes rotations, finite differences of forces and of the loss by parameters.
    errors = check_backend_conformance(model, structures)
    # The rounding of coupling coefficients that were stored in float32.
    assert errors["rotation"] < 1e-10
    adapted = results(model, structures)
    assert difference(adapted, base)["hvp"] > 1e-3
    check_property_gradient(model)
    for engine in ("forward_over_reverse", "reverse_over_reverse"):
        copied = results(copy.deepcopy(model), structures, engine)
        assert max(difference(copied, adapted).values()) < 1e-12
    merge(model)
    assert not is_adapted(model)
    assert max(difference(results(model, structures), adapted).values()) < 1e-10
    assert set(model.state_dict()) == set(state)
    assert [type(m) for m in model.modules()] == classes


def coverage(model, rank: int = 2) -> dict[str, float]:
    weights = describe_weights(model)
    found = {row.kind: row.share for row in LoRA(rank=rank).apply(model).coverage}
    assert sum(w.parameter.numel() for w in weights) > 0
    return found
