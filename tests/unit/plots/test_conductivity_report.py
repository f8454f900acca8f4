"""The report of conductivities, from results that are kept in a folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from pft_lightning.evaluation.conductivity.score import compute_score
from pft_lightning.plots.conductivity_report import write_conductivity_report
from pft_lightning.plots.page import remove_report
from pft_lightning.plots.style import colour

from .conductivities import dft, scaled, write_conductivities
from .page import Page


BASE = {
    **{"mp-1": 0.5, "mp-2": 0.3, "mp-3": "imaginary", "mp-4": 0.7},
    **{"mp-5": "DataFormatError: no fc3", "mp-6": 0.9},
}
TUNED = {
    **{"mp-1": 0.9, "mp-2": 1.6, "mp-3": 0.8, "mp-4": 0.9},
    **{"mp-5": "DataFormatError: no fc3", "mp-6": 0.7},
}
MODELS = {"base": BASE, "tuned": TUNED}
KNOWN = {"mp-1", "mp-2", "mp-3", "mp-5", "mp-6"}


def srme(name: str, factor: float) -> float:
    return compute_score(scaled(dft(name), factor), dft(name)).srme


def page_of(folder) -> Page:
    return Page(write_conductivity_report(folder).read_text())


@pytest.fixture
def folder(tmp_path):
    return write_conductivities(tmp_path / "kappa", MODELS, KNOWN)


def test_the_parity_has_what_was_computed_and_text_names_the_rest(folder, unrendered):
    page = page_of(folder)
    axes, *_ = unrendered["kappa_parity"].axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    for points, (label, names) in zip(
        axes.collections,
        {
            "base": ("mp-1", "mp-2", "mp-6"),
            "tuned": ("mp-1", "mp-2", "mp-3", "mp-6"),
        }.items(),
        strict=True,
    ):
        kappas = [dft(name).kappa for name in names]
        ours = [MODELS[label][n] * k for n, k in zip(names, kappas, strict=True)]
        expected = np.transpose([kappas, ours])
        np.testing.assert_allclose(points.get_offsets(), expected, rtol=1e-12)
    for text in (
        "Not drawn, imaginary: mp-3 GaAs (base).",
        "Not drawn, failed: mp-5 LiF.",
        "Not drawn, no reference: mp-4 AlN.",
    ):
        assert text in page.text


def test_scores_are_those_of_the_rows_and_failures_count_two(folder, unrendered):
    page = page_of(folder)
    points = [
        point
        for drawn in unrendered["srme"].axes[0].collections
        if isinstance(drawn, PathCollection)
        for point in drawn.get_offsets()
    ]
    expected = []
    for index, found in enumerate(MODELS.values()):
        scores = [
            srme(name, found[name]) if isinstance(found[name], float) else 2.0
            for name in sorted(KNOWN)
        ]
        expected += [np.mean(scores), np.median(scores), 5]
        shown = sorted(y for x, y in points if round(x) == index)
        assert shown == pytest.approx(sorted(scores), rel=1e-12)
    assert page.numbers("totals", "SRME") == pytest.approx(expected, rel=1e-12)
    first, second = expected[0], expected[3]
    (row,) = [r for r in page.tables["totals"] if r[0][0] == "SRME"]
    assert row[6][0] == f"{second / first - 1:+.0%}".replace("-", "−")
    assert page.numbers("outcomes", "base") == [4, 1, 0, 1]
    assert page.numbers("outcomes", "tuned") == [5, 0, 0, 1]
    kinds = [row[0][0] for row in page.tables["totals"]]
    assert kinds[-2:] == ["SRME, rocksalt", "SRME, zincblende"]


def test_spectra_are_of_the_worst_of_the_last_model_and_add_up_to_kappa(
    folder, unrendered
):
    stored = json.loads((folder / "metrics.json").read_text())
    worst = stored["worst"]["tuned"]
    names = sorted(
        ("mp-1", "mp-2", "mp-3", "mp-6"), key=lambda name: -srme(name, TUNED[name])
    )
    assert [one["name"] for one in worst] == names[:3] == ["mp-2", "mp-6", "mp-3"]
    assert [list(one["models"]) for one in worst] == [
        *(["base", "tuned"], ["base", "tuned"], ["tuned"])
    ]
    page = page_of(folder)
    assert "The largest SRME of tuned" in page.text
    grid = np.reshape(unrendered["kappa_spectra"].axes, (3, 2))
    for (density, total), one in zip(grid, worst, strict=True):
        name = one["name"]
        assert name in density.get_title(loc="left")
        kappa = dft(name).kappa
        ends = {"0.62": kappa} | {
            colour(index): MODELS[label][name] * kappa
            for index, label in enumerate(MODELS)
            if label in one["models"]
        }
        found = {line.get_color(): line.get_ydata()[-1] for line in total.lines}
        # The sum over bins loses nothing, modes just below zero neither.
        assert found == pytest.approx(ends, rel=1e-12)
        areas = [
            (patch.get_data().values * np.diff(patch.get_data().edges)).sum()
            for patch in density.patches
        ]
        assert sorted(areas) == pytest.approx(sorted(ends.values()), rel=1e-9)


def test_failures_have_their_reasons_and_rows_are_worst_first(folder, unrendered):
    page = page_of(folder)
    _, *failures = page.tables["reasons"]
    assert sorted([cell for cell, _ in row] for row in failures) == [
        ["mp-3", "base", "imaginary: 1 imaginary frequencies"],
        ["mp-5", "base", "DataFormatError: no fc3"],
        ["mp-5", "tuned", "DataFormatError: no fc3"],
    ]
    _, *rows = page.tables["materials"]
    order = [row[0][0] for row in rows[::2]]
    assert order == ["mp-5", "mp-2", "mp-6", "mp-3", "mp-1", "mp-4"]


def test_without_a_reference_conductivities_are_listed_and_nothing_is_drawn(
    tmp_path, unrendered
):
    only = {"model": {"mp-1": 0.9, "mp-2": "imaginary"}}
    page = page_of(write_conductivities(tmp_path / "kappa", only, set()))
    assert not unrendered
    assert "Nothing is scored: no material has a reference" in page.text
    assert "Not drawn, no reference: mp-1 MgO." in page.text
    assert "totals" not in page.tables
    (row,) = [r for r in page.tables["materials"] if r[0][0] == "mp-1"]
    assert row[7][0] == f"{0.9 * dft('mp-1').kappa:.4g}"


def test_a_value_far_beyond_dft_is_drawn_on_the_edge(tmp_path, unrendered):
    found = {"model": {"mp-1": 0.9, "mp-2": 1e-7}}
    page_of(write_conductivities(tmp_path / "kappa", found, {"mp-1", "mp-2"}))
    axes, *_ = unrendered["kappa_parity"].axes
    assert "1 beyond the axis" in axes.get_title()
    low, high = axes.get_ylim()
    assert high / low == pytest.approx(30, rel=1e-6)
    _, edge = axes.collections
    assert edge.get_offsets()[0, 1] == pytest.approx(low, rel=1e-12)


@pytest.mark.usefixtures("unrendered")
def test_figures_of_an_earlier_report_do_not_stay(folder, tmp_path):
    figures = folder / "figures"
    figures.mkdir()
    for name in ("trade_off.png", "material_001_NaCl_bands.png", "parity.png"):
        (figures / name).write_bytes(b"of another evaluation")
    page_of(folder)
    made = ["kappa_parity.png", "kappa_spectra.png", "srme.png"]
    assert sorted(file.name for file in figures.iterdir()) == made
    alone = {"model": {"mp-1": 0.9}}
    page = page_of(write_conductivities(folder, alone, set()))
    assert not list(figures.iterdir())
    assert not [tag for tag, _ in page.seen if tag == "img"]
    page_of(write_conductivities(folder, MODELS, KNOWN))
    remove_report(folder)
    assert not (folder / "report.html").exists()
    assert not list(figures.iterdir())
    remove_report(tmp_path / "nothing")
