"""The page of quasi-harmonic calculations, from a folder as it is written."""

from __future__ import annotations

import numpy as np
import pytest

from pft_lightning.evaluation.folder import EvaluationFolder
from pft_lightning.evaluation.qha.columns import COLUMNS
from pft_lightning.evaluation.qha.runner import GRUNEISEN_FILE
from pft_lightning.plots.qha import plot_expansion
from pft_lightning.plots.qha_report import write_qha_report


TEMPERATURES = np.arange(0.0, 400.0, 100.0)
CURVES = ("thermal_expansion", "bulk_modulus", "heat_capacity_p")


def row(name: str, label: str, error: float) -> dict:
    curves = {curve: [0.0, 1.0, 2.0, None] for curve in CURVES}
    compared = {
        f"thermal_expansion{end}": value
        for end, value in (("", 50.0 + error), ("_error", error), ("_curve_mae", 1.0))
    }
    return {
        **{"name": name, "formula": "NaCl", "model": label, "status": "ok"},
        **{"error": "", "reference_thermal_expansion": 50.0, "remark": ""},
        **compared,
        "curves": {"temperatures": TEMPERATURES.tolist(), **curves},
        "reference_curves": {
            "thermal_expansion": [TEMPERATURES.tolist(), [0.0, 1e-6, 2e-6, 3e-6]]
        },
    }


@pytest.fixture
def folder(tmp_path) -> EvaluationFolder:
    """Two models on two crystals; one of them fails on one."""
    evaluation = EvaluationFolder(tmp_path)
    why = "QuasiHarmonicError: 0 of 5 volumes <left>"
    failed = {"name": "near", "formula": "", "model": "b", "status": "failed"}
    records = {
        "near": {"a": row("near", "a", 1.0), "b": failed | {"error": why}},
        "far": {"a": row("far", "a", 2.0), "b": row("far", "b", -30.0)},
    }
    for name, models in records.items():
        shared = {"name": name, "source": "x", "keys": {}, "status": "ok", "error": ""}
        evaluation.write_record({**shared, "models": models})
    place = evaluation.model_folder("far", "b")
    place.mkdir(parents=True)
    modes = {"frequencies": np.ones((2, 3)), "gruneisen": np.full((2, 3), np.nan)}
    np.savez(place / GRUNEISEN_FILE, **modes)
    damaged = evaluation.model_folder("far", "a")
    damaged.mkdir(parents=True)
    (damaged / GRUNEISEN_FILE).write_bytes(b"no array")
    empty = {"mean": None, "median": None, "n": 0}
    one = {"mean": 1.0, "median": 1.0, "n": 2}
    totals = {f"{name}{end}": empty for name in CURVES for end in ("", "_curve_mae")}
    summary = {
        **{"protocol": {"name": "mdr_analytic", "temperature": 250.0}, "versions": {}},
        "models": {label: totals | {"thermal_expansion": one} for label in "ab"},
        "counts": {"materials": 2, "unreadable": 0, "failed": {"a": 0, "b": 1}},
        "failures": [{"name": "near", "model": "b", "error": why}],
        "forgetting": {},
    }
    rows = [found for models in records.values() for found in models.values()]
    evaluation.write_totals(rows, summary, COLUMNS)
    return evaluation


def test_the_largest_errors_are_drawn_first_and_failures_named(folder):
    page = write_qha_report(folder.path).read_text()
    drawn = sorted(path.name for path in folder.figures.glob("*.png"))
    assert drawn == [
        "material_00_far_expansion.png",
        "material_01_near_expansion.png",
    ]
    assert "at 250 K in tables" in page
    assert "0 of 5 volumes &lt;left&gt;" in page
    assert "reference thermal expansion (1e-6/K)" in page


def test_a_page_without_a_reference_shows_no_errors(folder):
    summary, _ = folder.read_totals()
    plain = {"name": "near", "formula": "NaCl", "model": "a", "status": "failed"}
    folder.write_totals([plain | {"error": "why"}], summary, COLUMNS)
    page = write_qha_report(folder.path).read_text()
    assert "No model has a thermal expansion" in page
    assert "Absolute errors" not in page
    assert not list(folder.figures.glob("*.png"))


def test_a_soft_mode_does_not_flatten_all_others():
    modes = {"b": (np.array([1.0, 2.0]), np.array([-300.0, 1.0]))}
    curve = (TEMPERATURES, np.ones(4))
    titles = ["first", "second", "third"]
    figure = plot_expansion(
        {title: {"b": curve} for title in titles},
        {"first": curve},
        modes,
        (np.array([1.5]), np.array([500.0])),
        ["a", "b"],
        "",
    )
    assert [len(axes.lines) for axes in figure.axes] == [2, 1, 1, 1]
    assert len(figure.axes[3].collections) == 2
    low, high = figure.axes[3].get_ylim()
    assert -10 < low < high < 10
