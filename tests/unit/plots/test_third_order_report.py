"""The report of third-order force constants, from what is kept in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from pft_lightning.evaluation.folder import EvaluationFolder
from pft_lightning.evaluation.summary import make_summary
from pft_lightning.evaluation.third_order_errors import COLUMNS, LARGE, largest_pairs
from pft_lightning.evaluation.third_order_runner import ThirdOrderProtocol, total_errors
from pft_lightning.plots.third_order_report import write_third_order_report

from .page import Page


LABELS = ["base", "tuned"]
FUNCTIONALS = {
    "phonons": {"name": "PBEsol"},
    "models": {"base": {"name": "PBE"}},
    "differ": ["base"],
}
NOTED = {"versions": {}, "functionals": FUNCTIONALS}
# Mean absolute value of DFT over all elements, meV/Å³, and the errors of both models.
SIZES = {"Si": 25.0, "NaCl": 5.0, "AlN": 10.0}
ERRORS: dict[str, dict[str, float | None]] = {
    "base": {"Si": 8.0, "NaCl": 4.0, "AlN": None},
    "tuned": {"Si": 5.0, "NaCl": 0.5, "AlN": 5.0},
}
PAIRS = {
    "base": {"Si": [[-20.0, -14.0], [1.0, 0.5]], "NaCl": [[3.0, 2.0]]},
    "tuned": {"Si": [[-20.0, -19.0]], "NaCl": [[3.0, 3.1]], "AlN": [[4.0, 4.5]]},
}


def row_of(name: str, label: str) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "formula": name, "model": label}
    error, size = ERRORS[label][name], SIZES[name]
    if error is None:
        return row | {"status": "failed", "error": "UnknownElementError: Al"}
    means = ("third_order", "third_order_large", "third_order_on_site")
    for factor, mean in enumerate(means, start=1):
        row[f"{mean}_mae"] = factor * error
        row[f"reference_{mean}_mean"] = factor * size
    row |= {"third_order_correlation": 0.9, "third_order_large_share": 0.1}
    row |= {"force_constants_mae": 0.01 * error, "seconds": 2.0}
    row["third_order_pairs"] = PAIRS[label][name]
    return row | {"status": "ok", "error": ""}


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = EvaluationFolder(tmp_path / "third")
    rows, records = [], []
    for name in SIZES:
        models = {label: row_of(name, label) for label in LABELS}
        record: Any = {"name": name, "source": name, "status": "ok", "keys": {}}
        records.append({**record, "models": models})
        folder.write_record(records[-1])
        rows += models.values()
    protocol = ThirdOrderProtocol()
    summary = make_summary(rows, LABELS, records, protocol, NOTED, totals=total_errors)
    folder.write_totals(rows, summary, COLUMNS)
    return folder.path


def drawn(axes) -> list[np.ndarray]:
    return [
        np.array(found.get_offsets())
        for found in axes.collections
        if isinstance(found, PathCollection)
    ]


def test_errors_stand_beside_the_size_of_dft_worst_first(folder, unrendered):
    page = Page(write_third_order_report(folder).read_text())
    every, large = unrendered["third_order_errors"].axes
    names = [label.get_text() for label in every.get_yticklabels()]
    assert names == ["AlN", "Si", "NaCl"]
    for factor, axes in ((1, every), (2, large)):
        (size,) = axes.lines
        np.testing.assert_allclose(size.get_xdata(), factor * np.array([10, 25, 5]))
        base, tuned = drawn(axes)
        np.testing.assert_allclose(base, [(8 * factor, 1), (4 * factor, 2)])
        expected = [(5 * factor, 0), (5 * factor, 1), (0.5 * factor, 2)]
        np.testing.assert_allclose(tuned, expected)
    assert "3 of 3 materials" in page.text
    assert "Not drawn, failed: AlN (base)." in page.text
    assert f"Functionals differ: {LABELS[0]} of PBE, DFT of PBEsol" in page.text
    assert [r[0][0] for r in page.tables["materials"][1::2]] == names


def test_the_parity_has_the_elements_of_all_materials(folder, unrendered):
    write_third_order_report(folder)
    for axes, label in zip(unrendered["third_order_parity"].axes, LABELS, strict=True):
        (found,) = drawn(axes)
        expected = [pair for name in SIZES for pair in PAIRS[label].get(name, [])]
        np.testing.assert_array_equal(found, expected)
        assert axes.get_title() == label
        assert axes.get_xlim() == axes.get_ylim() == (-26.0, 26.0)


def test_means_changes_and_reasons_are_in_tables(folder, unrendered):
    page = Page(write_third_order_report(folder).read_text())
    name = "MAE, all elements (meV/Å³)"
    numbers = page.numbers("totals", name)
    assert numbers == pytest.approx([6, 6, 2, 3.5, 5, 3], rel=1e-12)
    (row,) = [r for r in page.tables["totals"] if r[0][0] == name]
    # Over the two that both finished: 5.5 of 12 meV/Å³.
    assert row[6][0] == f"{5.5 / 12 - 1:+.0%}".replace("-", "−")
    (reason,) = page.tables["reasons"][1:]
    assert [text for text, _ in reason] == ["AlN", "base", "UnknownElementError: Al"]


@pytest.mark.parametrize("kept", ["nothing", "{"])
def test_without_the_files_of_materials_only_the_parity_is_missing(
    folder, unrendered, kept
):
    for file in (folder / "materials").iterdir():
        if kept == "nothing":
            file.unlink()
        else:
            file.write_text(kept)
    write_third_order_report(folder)
    assert set(unrendered) == {"third_order_errors"}


def test_the_pairs_that_are_kept_are_the_largest_and_distinct():
    theirs = np.random.default_rng(0).permutation(np.linspace(-1, 1, 2000))
    theirs[0], ours = 0.0, 1.1 * theirs
    ours[0] = 5.0  # the model alone is large
    theirs[1], ours[1] = 0.5 * LARGE, -0.9 * LARGE  # neither is
    twice = [np.tile(values, 2).reshape(40, 100) for values in (ours, theirs)]
    found = np.array(largest_pairs(*twice))
    assert len(found) == 600
    assert found[0].tolist() == [0.0, 5.0]
    size = np.abs(found).max(axis=1)
    assert (np.diff(size) <= 0).all()
    expected = np.sort(np.maximum(np.abs(theirs), np.abs(ours)))[::-1][:600]
    # Five decimals are kept.
    np.testing.assert_allclose(size, expected, rtol=0, atol=1e-5)
    assert largest_pairs(0.9 * LARGE * np.ones(3), np.zeros(3)) == []
