"""Gain, forgetting and the knee, by hand."""

from __future__ import annotations

import pytest

from pft_lightning.evaluation.trade_off import GAIN, describe_trade_off, relative_change


MIXES = {"mix_0": 0.0, "mix_0.5": 0.5, "mix_1": 1.0}


def rows_of(errors: dict[str, float], *, failed: str = "") -> list[dict]:
    """Two materials, the second twice as wrong; one may have failed for a model."""
    return [
        {
            "name": name,
            "model": label,
            "status": "failed" if f"{label} {name}" == failed else "ok",
            **dict.fromkeys(GAIN, factor * error),
        }
        for label, error in errors.items()
        for name, factor in (("a", 1), ("b", 2))
    ]


def upstream_of(errors: dict[str, tuple[float, float]]) -> dict[str, dict]:
    return {
        label: {"energy_mae": energy, "forces_mae": forces}
        for label, (energy, forces) in errors.items()
    }


PHONONS = {"mix_0": 4.0, "mix_0.5": 2.5, "mix_1": 2.0, "other": 1.0}
UPSTREAM = {
    "mix_0": (0.1, 0.2),
    "mix_0.5": (0.11, 0.22),
    "mix_1": (0.16, 0.28),
    "other": (0.1, 0.3),
}


def test_gain_and_forgetting_are_means_of_changes_against_the_base():
    found = describe_trade_off(rows_of(PHONONS), upstream_of(UPSTREAM), MIXES)
    gains = [point["gain"] for point in found["points"]]
    assert gains == pytest.approx([0, 0.375, 0.5, 0.75])
    forgotten = [point["forgetting"] for point in found["points"]]
    assert forgotten == pytest.approx([0, 0.1, 0.5, 0.25])
    assert found["points"][2]["changes"]["energy_mae"] == pytest.approx(0.6)
    # Scaled: three quarters of the gain for a fifth of the forgetting.
    assert (found["knee"], found["remark"]) == (0.5, "")


def test_a_material_that_one_mix_failed_on_moves_no_mean():
    failed = rows_of(PHONONS, failed="mix_0.5 b")
    found = describe_trade_off(failed, upstream_of(UPSTREAM), MIXES)
    assert [point["n_materials"] for point in found["points"]] == [1, 1, 1, 1]
    gains = [point["gain"] for point in found["points"]]
    assert gains == pytest.approx([0, 0.375, 0.5, 0.75])


@pytest.mark.parametrize(
    ("phonons", "upstream", "remark"),
    [
        # Half of the gain for most of the forgetting: the ends are better.
        ({**PHONONS, "mix_0.5": 3.0}, {**UPSTREAM, "mix_0.5": (0.15, 0.27)}, "bend"),
        ({**PHONONS, "mix_0.5": 4.0, "mix_1": 4.0}, UPSTREAM, "same for all"),
        (PHONONS, {}, "not known"),
    ],
)
def test_a_curve_without_a_knee_says_why(phonons, upstream, remark):
    found = describe_trade_off(rows_of(phonons), upstream_of(upstream), MIXES)
    assert found["knee"] is None
    assert remark in found["remark"]


def test_on_frames_with_the_base_models_own_labels_the_fine_tuned_model_is_the_scale():
    """Its own errors are rounding, of which every change is a million per cent."""
    upstream = upstream_of(
        {"mix_0": (1e-16, 0.0), "mix_0.5": (0.002, 0.01), "mix_1": (0.008, 0.03)}
    )
    phonons = {label: PHONONS[label] for label in MIXES}
    found = describe_trade_off(rows_of(phonons), upstream, MIXES)
    assert found["own_labels"]
    forgotten = [point["forgetting"] for point in found["points"]]
    assert forgotten == pytest.approx([0, (1 / 4 + 1 / 3) / 2, 1])
    assert found["knee"] == 0.5
    usual = describe_trade_off(rows_of(PHONONS), upstream_of(UPSTREAM), MIXES)
    assert not usual["own_labels"]


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        *((0.2, 0.1, -0.5), (0.1, 0.9, 8.0), (0.1, 0.0, -1.0)),
        *((1e-9, 0.1, None), (0.0, 0.1, None), (None, 0.1, None), (0.1, None, None)),
    ],
)
def test_a_change_against_rounding_is_not_told(before, after, change):
    found = relative_change(before, after)
    assert found == (None if change is None else pytest.approx(change))
