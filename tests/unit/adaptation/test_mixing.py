"""Potentials between two others: weights on the line, the ends exact, no others."""

from __future__ import annotations

import pytest
import torch

import pft_lightning as pft
from pft_lightning.adaptation import Delta, LoRA
from pft_lightning.backends.pair import PairPotential
from pft_lightning.backends.parametrized import is_adapted, plain, undo_changes
from pft_lightning.errors import ConfigError
from pft_lightning.testing import build_crystal_batch, build_tiny_crystals


NUMBERS = (3, 9, 11)


def moved(model: PairPotential, seed: int = 1) -> PairPotential:
    """The same with other values of all that is trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                noise = torch.randn(value.shape, generator=generator)
                value += 0.1 * noise.to(value)
    return model


def pair(dtype: torch.dtype = torch.float64) -> PairPotential:
    return PairPotential(4.0, NUMBERS, dtype=dtype)


def same_bits(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    states = [model.state_dict() for model in (one, other)]
    return states[0].keys() == states[1].keys() and all(
        value.numpy().tobytes() == states[1][name].numpy().tobytes()
        for name, value in states[0].items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_are_the_two_potentials_bit_for_bit(dtype):
    base, tuned = pair(dtype), moved(pair(dtype))
    with torch.no_grad():
        base.shift[0] = -0.0
    before = [base.state_dict(), tuned.state_dict()]
    kept = [{n: v.clone() for n, v in state.items()} for state in before]
    assert same_bits(pft.mix(base, tuned, 0), base)
    assert same_bits(pft.mix(base, tuned, 1.0), tuned)
    for state, values in zip(before, kept, strict=True):
        assert all(torch.equal(state[n], v) for n, v in values.items())


def test_energies_are_on_a_line_where_they_are_linear_in_the_weights():
    base, tuned = pair(), pair()
    with torch.no_grad():
        tuned.depth *= 1.7
        tuned.shift -= 3.0
    crystals = build_tiny_crystals(base.atomic_numbers, base.cutoff)
    batch = build_crystal_batch(list(crystals.values()), base.cutoff)
    first, last, found = (
        model.derivatives(batch).energy.detach()
        for model in (base, tuned, pft.mix(base, tuned, 0.3))
    )
    # Rounding of sums of some hundred terms in float64.
    assert torch.allclose(found, 0.7 * first + 0.3 * last, rtol=1e-13, atol=0)


@pytest.mark.parametrize("adaptation", [LoRA(rank=1, targets=["*"]), Delta()])
def test_adapted_weights_lie_on_the_line_of_the_merged_ones(adaptation):
    base, tuned = pair(), pair()
    adaptation.apply(tuned)
    moved(tuned)
    found = pft.mix(base, tuned, 0.25)
    assert is_adapted(tuned)
    assert not is_adapted(found)
    merged = plain(tuned).state_dict()
    for name, value in base.state_dict().items():
        line = value + 0.25 * (merged[name] - value)
        # One rounding each way.
        assert torch.allclose(found.state_dict()[name], line, rtol=1e-15, atol=0), name
        assert not torch.equal(merged[name], value)
    undo_changes(tuned)
    assert same_bits(tuned, base)


def test_a_weight_with_two_names_and_statistics_lie_on_the_line_too():
    models = [pair(), moved(pair())]
    for model, scale in zip(models, (1.0, 3.0), strict=True):
        model.radius = model.depth
        model.register_buffer("scale", torch.tensor(scale))
    found = pft.mix(*models, 0.5)
    assert found.radius is found.depth
    assert torch.allclose(found.depth, (models[0].depth + models[1].depth) / 2)
    assert found.scale == 2.0


class TwoHeads(PairPotential):
    heads = ("Default", "phonon")


def with_table(number: int) -> PairPotential:
    model = pair()
    model.register_buffer("table", torch.tensor([number]))
    return model


def with_setting(number: float) -> PairPotential:
    model = pair()
    model.n_neighbours = number
    return model


@pytest.mark.parametrize(
    ("base", "tuned", "message"),
    [
        (pair(), PairPotential(5.0, NUMBERS), r"cutoff of 4\.0 Å, .* 5\.0 Å"),
        (pair(), PairPotential(4.0, (3, 9)), r"3 elements \(Li, F, Na\).* 2 elements"),
        (pair(), pair(torch.float32), "float64.*float32; load both with the same"),
        (pair(), TwoHeads(4.0, NUMBERS), "no heads, .* the heads Default, phonon"),
        (pair(), with_table(1), "only the other has a weight table"),
        (with_table(1), with_table(2), "whole numbers of table are not the same"),
        (with_setting(12.5), with_setting(13.5), r"n_neighbours is 12\.5 and 13\.5"),
        (pair(), "a.model", "model is a str"),
    ],
)
def test_what_differs_in_more_than_weights_is_refused(base, tuned, message):
    with pytest.raises(ConfigError, match=message):
        pft.mix(base, tuned, 0.5)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), True, "half", None])
def test_a_share_outside_of_zero_to_one_is_refused(share):
    with pytest.raises(ConfigError, match=r"share=.*from 0 \(the base model\) to 1"):
        pft.mix(pair(), pair(), share)
