"""The page of an evaluation of soft modes, from a folder as it writes it."""

from __future__ import annotations

import numpy as np
import pytest

from pft_lightning.evaluation.folder import EvaluationFolder
from pft_lightning.evaluation.soft_modes.columns import COLUMNS
from pft_lightning.plots.soft_modes import plot_wells
from pft_lightning.plots.soft_modes_report import write_soft_modes_report


AMPLITUDES = np.linspace(-1.5, 1.5, 13)


def well(depth: float, group: str) -> dict:
    energies = depth * (2 * AMPLITUDES**2 - AMPLITUDES**4)
    return {
        "q_point": [0.5, 0.5, 0.5],
        "group": group,
        "amplitudes": AMPLITUDES.tolist(),
        "energies": energies.tolist(),
    }


def row(name: str, label: str, wells: list[dict], depth: float | None) -> dict:
    return {
        **{"name": name, "formula": "SrTiO3", "model": label, "status": "ok"},
        **{"error": "", "soft_modes": len(wells), "well_depth": depth},
        **{"parent_group": "Pm-3m", "end_group": "I4/mcm", "end_stable": True},
        **{"lowest_frequency": -2.0, "end_energy": -0.8, "wells": [wells, []]},
    }


@pytest.fixture
def folder(tmp_path):
    """Two models on three crystals: deep, shallow, stable; one model fails once."""
    evaluation = EvaluationFolder(tmp_path)
    records = {
        "shallow": {"a": row("shallow", "a", [well(-1e-3, "Imma")], -1.0)},
        "deep": {
            "a": row("deep", "a", [well(-5e-3, "I4/mcm"), well(-4e-3, "Imma")], -5.0),
            "b": row("deep", "b", [well(-9e-3, "I4/mcm")], -9.0),
        },
        "stable": {"a": row("stable", "a", [], None)},
    }
    why = "RelaxationError: exploded <far>"
    failed = {"name": "shallow", "formula": "", "model": "b", "status": "failed"}
    records["shallow"]["b"] = failed | {"error": why}
    records["stable"]["b"] = row("stable", "b", [], None)
    for name, models in records.items():
        evaluation.write_record(
            {
                **{"name": name, "source": "x", "keys": {}, "status": "ok"},
                **{"error": "", "models": models},
            }
        )
    rows = [one for models in records.values() for one in models.values()]
    counts = {"model": 6, "reference": 12, "both": 3}
    shares = {"precision": 0.5, "recall": 0.25, "n": 3}
    totals = {
        **{"with_soft_modes": 2, "ended_stable": 2, "ended_in_subgroup": 1},
        "imaginary": {"0.3": counts | shares},
    }
    summary = {
        "protocol": {"name": "mdr_analytic", "soft_modes": {"threshold": 0.1}},
        **{"versions": {}, "forgetting": {}, "models": {"a": totals, "b": totals}},
        "counts": {"materials": 3, "unreadable": 0, "failed": {"a": 0, "b": 1}},
        "failures": [{"name": "shallow", "model": "b", "error": why}],
    }
    evaluation.write_totals(rows, summary, COLUMNS)
    return evaluation


def test_wells_are_drawn_deepest_first_and_tables_say_the_rest(folder):
    page = write_soft_modes_report(folder.path).read_text()
    drawn = sorted(path.name for path in folder.figures.glob("*.png"))
    assert drawn == ["material_00_deep_wells.png", "material_01_shallow_wells.png"]
    assert page.index("deep: along each") < page.index("shallow: along each")
    assert "RelaxationError: exploded &lt;far&gt;" in page
    for shown in ("0.25", "I4/mcm", "Pm-3m", "−0.3"):
        assert shown in page


def test_a_page_without_wells_says_so_and_loses_old_figures(folder):
    write_soft_modes_report(folder.path)
    summary, _ = folder.read_totals()
    rows = [row("stable", label, [], None) for label in ("a", "b")]
    for totals in summary["models"].values():
        totals["imaginary"] = {}
    folder.write_totals(rows, summary, COLUMNS)
    page = write_soft_modes_report(folder.path).read_text()
    assert "No model has a well" in page
    assert "Imaginary modes against DFT" not in page
    assert not list(folder.figures.glob("*.png"))


def test_one_panel_for_each_direction_shows_its_well(folder):
    one = (AMPLITUDES, 1e3 * np.array(well(-2e-3, "")["energies"]))
    high = (AMPLITUDES, np.where(abs(AMPLITUDES) > 1.4, 1e5, one[1]))
    figure = plot_wells({"first": {"b": one}, "second": {"a": high}}, ["a", "b"])
    visible = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in visible] == ["first", "second"]
    # A model has its colour, whichever panel it is in.
    first, second = (axes.lines[0].get_color() for axes in visible)
    assert first != second
    # What rises far beyond does not flatten the well.
    assert max(visible[1].get_ylim()) < 10
