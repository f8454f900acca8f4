"""Scores of a conductivity, mode by mode."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pft_lightning.errors import ShapeError
from pft_lightning.evaluation.conductivity.score import (
    FAILED_SCORE,
    compute_score,
    find_imaginary,
    relative_difference,
    share_coherence,
)


def scaled(modes, factors):
    contributions = modes.modes * factors
    kappa = float(contributions.sum() / modes.weights.sum())
    return dataclasses.replace(modes, modes=contributions, kappa=kappa)


def test_a_reference_against_itself_is_perfect(modes):
    score = compute_score(modes, modes)
    assert (score.srd, score.sre, score.srme) == (0, 0, 0)


def test_one_factor_on_all_modes_is_the_difference_of_the_whole(modes):
    # 2 (1.5 - 1) / (1.5 + 1), whatever the modes are.
    score = compute_score(scaled(modes, 1.5), modes)
    assert score.srd == pytest.approx(0.4, abs=1e-14)
    assert score.srme == pytest.approx(score.sre, abs=1e-14)
    assert compute_score(scaled(modes, 1 / 1.5), modes).srd == pytest.approx(-0.4)


def test_modes_that_are_wrong_both_ways_do_not_make_up_for_each_other(modes):
    contributions = modes.modes.copy()
    contributions[1, 2] += 3.0
    contributions[2, 4] -= 3.0
    score = compute_score(dataclasses.replace(modes, modes=contributions), modes)
    assert score.sre == 0
    # Two modes are wrong by 3 of all points of the mesh.
    expected = 2 * (6 / modes.weights.sum()) / (2 * modes.kappa)
    assert score.srme == pytest.approx(expected, rel=1e-13)


def test_the_two_sides_can_change_places(modes):
    other = scaled(modes, np.linspace(0.3, 2.5, 18).reshape(3, 6))
    there, back = compute_score(other, modes), compute_score(modes, other)
    assert (there.srd, there.srme) == (-back.srd, back.srme)
    assert there.sre <= there.srme <= 2


@pytest.mark.parametrize("what", ["nothing", "kappa", "a mode", "infinity"])
def test_what_is_not_a_number_has_the_worst_scores(modes, what):
    broken = modes.modes.copy()
    broken[1, 1] = np.inf if what == "infinity" else np.nan
    found = {
        "nothing": None,
        "kappa": dataclasses.replace(modes, kappa=float("nan")),
        "a mode": dataclasses.replace(modes, modes=broken),
        "infinity": dataclasses.replace(modes, modes=broken),
    }[what]
    assert compute_score(found, modes) == FAILED_SCORE
    assert (FAILED_SCORE.srd, FAILED_SCORE.sre, FAILED_SCORE.srme) == (-2, 2, 2)


def test_no_conductivity_at_all_is_the_worst_score_too(modes):
    assert compute_score(scaled(modes, 0.0), modes) == FAILED_SCORE
    assert relative_difference(0.0, 5.0) == -2
    assert relative_difference(float("nan"), 5.0) == -2


def test_modes_on_other_points_are_not_compared(modes):
    fewer = dataclasses.replace(
        modes,
        modes=modes.modes[:2],
        weights=modes.weights[:2],
        q_points=modes.q_points[:2],
    )
    moved = dataclasses.replace(modes, q_points=modes.q_points + 0.1)
    other = dataclasses.replace(modes, weights=modes.weights[::-1].copy())
    with pytest.raises(ShapeError, match=r"\(2, 6\).*\(3, 6\)"):
        compute_score(fewer, modes)
    for found in (moved, other):
        with pytest.raises(ShapeError, match="primitive cell"):
            compute_score(found, modes)
    # A reciprocal lattice vector leads to the same point.
    same = dataclasses.replace(modes, q_points=modes.q_points - 1)
    assert compute_score(same, modes).srme == 0


def test_coherence_is_shared_by_heat_capacity_and_nothing_is_lost():
    rng = np.random.default_rng(1)
    matrix = rng.random((2, 3, 3, 6))
    matrix = matrix + matrix.transpose(0, 2, 1, 3)
    capacities = np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 1.0]])
    shared = share_coherence(matrix, capacities)
    axes = matrix[..., :3].mean(axis=-1)
    # Of bands 0 and 1: 2 * 1 / (1 + 2) to band 1, summed over the first index.
    expected = axes[0, 1, 1] + axes[0, 0, 1] * 2 / 3 + axes[0, 2, 1] * 4 / 3
    assert shared[0, 1] == pytest.approx(expected, rel=1e-14)
    assert shared[0].sum() == pytest.approx(axes[0].sum(), rel=1e-14)
    # Two bands without any heat capacity share nothing, and no NaN comes of it.
    lost = axes[1, 0, 1] + axes[1, 1, 0]
    assert shared[1].sum() == pytest.approx(axes[1].sum() - lost, rel=1e-14)


@pytest.mark.parametrize(
    ("point", "band", "value", "is_imaginary"),
    [
        (0, 0, -0.009, False),  # acoustic at Γ: rounding
        (0, 2, -0.011, True),
        (0, 3, -1e-9, True),  # optical
        (1, 0, -1e-9, True),  # elsewhere
        (1, 0, 0.0, False),
        (2, 5, float("nan"), True),
    ],
)
def test_any_frequency_below_zero_counts_but_acoustic_ones_at_gamma(
    modes, point, band, value, is_imaginary
):
    frequencies = modes.frequencies.copy()
    frequencies[point, band] = value
    found = find_imaginary(frequencies, modes.q_points, 0.01)
    assert (found is not None) == is_imaginary
    if found:
        assert f"{value:.3g} THz" in found
        assert found.startswith("1 imaginary")


def test_gamma_is_found_wherever_it_stands_in_the_list(modes):
    frequencies = modes.frequencies[::-1].copy()
    points = modes.q_points[::-1] + np.array([1, 0, -1])
    frequencies[-1, 0] = -0.005
    assert find_imaginary(frequencies, points, 0.01) is None
    assert find_imaginary(frequencies, points, 0.001) is not None
