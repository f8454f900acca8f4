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


def test_float32_labels_of_the_base_model_are_its_own():
    errors = {"mix_0": (2e-7, 5e-5), "mix_0.5": (0.002, 0.01), "mix_1": (0.008, 0.03)}
    found = describe_trade_off(rows_of(PHONONS), upstream_of(errors), MIXES)
    assert found["own_labels"]


def test_forgetting_everything_is_told_as_it_is():
    """A base model that is good on its data has no labels of its own there."""
    errors = {
        "mix_0": (0.002, 0.02), "mix_0.5": (0.1, 0.3), "mix_1": (0.287, 0.9),
    }  # fmt: skip
    found = describe_trade_off(rows_of(PHONONS), upstream_of(errors), MIXES)
    assert not found["own_labels"]
    changes = found["points"][2]["changes"]
    assert changes["energy_mae"] == pytest.approx(142.5)
    assert changes["forces_mae"] == pytest.approx(44)


def test_forces_that_vanish_by_symmetry_change_no_scale():
    errors = {
        "mix_0": (0.002, 1e-15), "mix_0.5": (0.003, 1e-14), "mix_1": (0.004, 1e-13),
    }  # fmt: skip
    found = describe_trade_off(rows_of(PHONONS), upstream_of(errors), MIXES)
    assert not found["own_labels"]
    assert [point["forgetting"] for point in found["points"][:3]] == pytest.approx(
        [0, 0.5, 1]
    )


@pytest.mark.parametrize(
    ("name", "before", "after", "change"),
    [
        ("energy_mae", 0.2, 0.1, -0.5), ("energy_mae", 0.1, 0.9, 8.0),
        ("energy_mae", 0.1, 0.0, -1.0), ("upstream/energy_mae", 0.002, 0.4, 199.0),
        ("energy_mae", 5e-5, 1e-4, 1.0), ("upstream/forces_mae", 5e-5, 0.1, None),
        ("phonon/hvp_mae", 1e-9, 0.1, None), ("energy_mae", 0.0, 0.1, None),
        ("energy_mae", None, 0.1, None), ("energy_mae", 0.1, None, None),
    ],
)  # fmt: skip
def test_a_change_against_rounding_is_not_told(name, before, after, change):
    found = relative_change(name, before, after)
    assert found == (None if change is None else pytest.approx(change))
