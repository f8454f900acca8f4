"""Frames of other elements in the places of a crystal's, with a model's labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from pft_lightning import Calculator, load_model
from pft_lightning.errors import ConfigError
from pft_lightning.preparation.replay import replay_frames
from pft_lightning.testing import PairPotential


NACL = bulk("NaCl", "rocksalt", 5.6)
LIF = bulk("LiF", "rocksalt", 4.0)


def test_frames_hold_other_elements_and_carry_the_labels_of_the_model(world):
    model = load_model(world.base)
    frames = replay_frames(model, [NACL, LIF], n_frames=6, seed=1)
    assert len(frames) == 6
    for own, frame in zip([NACL, LIF] * 3, frames, strict=True):
        numbers = set(frame.numbers.tolist())
        assert len(numbers) == 2
        assert numbers <= set(model.atomic_numbers)
        assert numbers != set(own.numbers.tolist())
        assert len(frame) == 4  # twice the primitive cell
        other = frame.copy()
        other.calc = Calculator(model)
        # The same arithmetic on the same numbers.
        assert frame.get_potential_energy() == other.get_potential_energy()
        assert np.array_equal(frame.get_forces(), other.get_forces())
        assert np.array_equal(frame.get_stress(), other.get_stress())
        assert np.abs(frame.get_forces()).max() > 1e-3  # displaced
    assert len({frame.get_chemical_formula() for frame in frames}) > 2


def test_the_same_seed_gives_the_same_frames_and_another_one_others(world):
    model = load_model(world.base)
    one, again, other = (
        replay_frames(model, [NACL], n_frames=3, seed=seed) for seed in (1, 1, 2)
    )
    for first, second, third in zip(one, again, other, strict=True):
        assert first == second
        assert first.positions.shape != third.positions.shape or not np.allclose(
            first.positions, third.positions
        )


def test_elements_of_the_crystal_stay_in_some_frames_and_not_in_others(world):
    frames = replay_frames(load_model(world.base), [NACL], n_frames=20, seed=0)
    kept = [set(frame.numbers.tolist()) & {11, 17} for frame in frames]
    assert {frozenset(numbers) for numbers in kept} == {
        frozenset(), frozenset({11}), frozenset({17})
    }  # fmt: skip


def test_volumes_follow_the_covalent_radii():
    """Si 1.11 Å in place of C 0.76 Å, within the range of volumes that are drawn.

    Of a crystal of one element some atoms may stay.
    """
    model = PairPotential(4.0, (6, 14))
    diamond = bulk("C", "diamond", 3.57)
    kinds = set()
    for frame in replay_frames(model, [diamond], n_frames=12, seed=0):
        share = np.mean(frame.numbers == 14)
        kinds.add(share)
        ratio = (share * 1.11 + (1 - share) * 0.76) / 0.76
        volume = frame.get_volume() / len(frame) / (diamond.get_volume() / 2)
        assert 0.85 - 1e-9 <= volume / ratio**3 <= 1.15 + 1e-9  # scaled, to rounding
    assert kinds == {0.5, 1.0}


def test_a_molecule_stays_one(world):
    model = load_model(world.base)
    (frame,) = replay_frames(model, [molecule("LiF")], n_frames=1, seed=0)
    assert not frame.pbc.any()
    assert "stress" not in frame.calc.results


def test_a_model_of_too_few_elements_is_named_with_the_remedy():
    model = PairPotential(4.0, (11, 17, 3, 10))  # neon does not count
    with pytest.raises(ConfigError, match=r"1 elements beside .*\(Na Cl\).*upstr"):
        replay_frames(model, [NACL], n_frames=1, seed=0)


def test_frames_of_forces_out_of_range_are_drawn_anew_and_named_if_all_are():
    model = PairPotential(4.0, (11, 17, 3, 9, 8))
    largest = [
        np.abs(frame.get_forces()).max()
        for frame in replay_frames(model, [NACL], n_frames=10, seed=0)
    ]
    assert max(largest) < 20
    with torch.no_grad():
        model.depth *= 1e4
    with pytest.raises(ConfigError, match=r"of 20 frames 0 have forces.*below 20 eV/Å"):
        replay_frames(model, [NACL], n_frames=2, seed=0)
