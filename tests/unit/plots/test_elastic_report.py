"""The report of elastic constants, from rows that are kept in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from pft_lightning.evaluation.elastic_runner import COLUMNS, instability, total_errors
from pft_lightning.evaluation.folder import EvaluationFolder
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.evaluation.summary import make_summary
from pft_lightning.plots.elastic_report import write_elastic_report

from .page import Page


LABELS = ["base", "tuned"]
# Bulk and shear modulus, GPa, of DFT and of both models; or why there is none.
DFT = {
    **{"hard": (200.0, 80.0), "middle": (100.0, 50.0), "half": (60.0, None)},
    **{"gives_way": (30.0, 10.0), "shaky": (40.0, 20.0), "broken": (50.0, 30.0)},
}
MODELS: dict[str, dict[str, Any]] = {
    "base": {
        **{"hard": (100.0, 100.0), "middle": (110.0, 40.0), "half": (90.0, 20.0)},
        **{"gives_way": "shear", "shaky": "ions", "broken": "failed"},
        "alone": (70.0, 20.0),
    },
    "tuned": {
        **{"hard": (190.0, 84.0), "middle": (101.0, 49.0), "half": (62.0, 20.0)},
        **{"gives_way": (33.0, 11.0), "shaky": "ions", "broken": "failed"},
        "alone": (71.0, 21.0),
    },
}


def row_of(name: str, label: str, found: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "formula": "NaCl", "n_atoms": 2}
    row |= {"model": label, "status": "ok", "error": "", "seconds": 1.0}
    if found == "failed":
        return row | {"status": "failed", "error": "RelaxationError: it exploded"}
    row |= {"born_stable": True, "lowest_eigenvalue": 9.0, "lowest_internal": 2.5}
    if found == "shear":
        row |= {"born_stable": False, "lowest_eigenvalue": -4.0}
    elif found == "ions":
        row["lowest_internal"] = -0.25
    moduli = (55.0, 44.0) if isinstance(found, str) else found
    names = ("bulk_modulus", "shear_modulus")
    row |= dict(zip(names, moduli, strict=True))
    for modulus, value in zip(names, DFT.get(name, (None, None)), strict=True):
        if value is not None:
            row[f"reference_{modulus}"] = value
            row[f"{modulus}_error"] = row[modulus] - value
    return row


def write(path: Path, models: dict[str, dict[str, Any]]) -> Path:
    names = list(next(iter(models.values())))
    rows = [
        row_of(n, label, found[n]) for n in names for label, found in models.items()
    ]
    records: Any = [{"name": n, "source": n, "status": "ok"} for n in names]
    summary = make_summary(
        rows,
        list(models),
        records,
        Protocol(),
        None,
        totals=total_errors,
        reason=instability,
    )
    EvaluationFolder(path).write_totals(rows, summary, COLUMNS)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "elastic", MODELS)


def points(axes) -> list[np.ndarray]:
    """Of each model, what is drawn."""
    return [
        np.array(drawn.get_offsets())
        for drawn in axes.collections
        if isinstance(drawn, PathCollection)
    ]


def test_the_parity_has_stable_crystals_alone_and_text_names_the_rest(
    folder, unrendered
):
    page = Page(write_elastic_report(folder).read_text())
    drawn = {"base": ["hard", "middle", "half"]}
    drawn["tuned"] = [*drawn["base"], "gives_way"]
    for place, axes in enumerate(unrendered["moduli_parity"].axes):
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        for found, label in zip(points(axes), LABELS, strict=True):
            pairs = [
                (DFT[name][place], MODELS[label][name][place])
                for name in drawn[label]
                if DFT[name][place]
            ]
            np.testing.assert_allclose(found, pairs, rtol=1e-12)
    for text in (
        "Not drawn, unstable: gives_way NaCl (base), shaky NaCl.",
        "Not drawn, failed: broken NaCl.",
        "Not drawn, no modulus of DFT: alone NaCl.",
    ):
        assert text in page.text


def test_errors_by_model_are_relative_and_have_their_median(folder, unrendered):
    Page(write_elastic_report(folder).read_text())
    bulk, shear = unrendered["moduli_errors"].axes
    base, tuned = points(bulk)
    np.testing.assert_allclose(base[:, 1], [-50, 10, 50], rtol=1e-12)
    np.testing.assert_allclose(tuned[:, 1], [-5, 1, 100 / 30, 10], rtol=1e-12)
    texts = [label.get_text() for label in bulk.get_xticklabels()]
    assert texts[0] == "median +10.0 %\nmean |error| 36.7 %"
    assert [len(found) for found in points(shear)] == [2, 3]


def test_errors_and_changes_are_over_crystals_that_are_stable(folder, unrendered):
    page = Page(write_elastic_report(folder).read_text())
    assert page.numbers("totals", "bulk modulus (GPa)") == pytest.approx(
        # Of the first model mean, median, number; of the second the same.
        [140 / 3, 30.0, 3, 16 / 4, 2.5, 4],
        rel=1e-12,
    )
    (row,) = [r for r in page.tables["totals"] if r[0][0] == "bulk modulus (GPa)"]
    # Over the three that both have: 13 of 140 GPa.
    assert row[6][0] == f"{13 / 140 - 1:+.0%}".replace("-", "−")
    assert page.numbers("totals", "unstable") == [2, 1]


def test_failures_have_their_reasons_and_rows_are_worst_first(folder, unrendered):
    page = Page(write_elastic_report(folder).read_text())
    reasons = {(r[0][0], r[1][0]): r[2][0] for r in page.tables["reasons"][1:]}
    assert reasons["gives_way", "base"].startswith("unstable: a strain lowers")
    assert "no minimum (-0.25" in reasons["shaky", "tuned"]
    assert reasons["broken", "base"] == "RelaxationError: it exploded"
    order = [r[0][0] for r in page.tables["materials"][1::2]]
    assert order[:4] == ["gives_way", "hard", "half", "middle"]


def test_without_moduli_of_dft_crystals_are_listed_and_nothing_is_drawn(
    tmp_path, unrendered
):
    folder = write(tmp_path / "elastic", {"model": {"alone": (70.0, 20.0)}})
    page = Page(write_elastic_report(folder).read_text())
    assert not unrendered
    assert "Moduli of DFT are given with reference=FILE" in page.text
    (row,) = page.tables["materials"][1:]
    assert [float(text) for text, _ in row[3:6:2]] == [70.0, 20.0]


def test_an_error_far_beyond_is_drawn_on_the_edge(tmp_path, unrendered):
    models = {"model": {"hard": (190.0, 84.0), "middle": (350.0, 40.0)}}
    write_elastic_report(write(tmp_path / "elastic", models))
    axes, _ = unrendered["moduli_errors"].axes
    inside, edge = points(axes)
    assert edge[0, 1] == 100
    assert len(inside) == 1
    (legend,) = unrendered["moduli_errors"].legends
    assert "beyond 100 %" in [text.get_text() for text in legend.get_texts()]
