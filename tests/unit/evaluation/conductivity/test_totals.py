"""Means over materials."""

from __future__ import annotations

import pytest

from pft_lightning.evaluation.conductivity.totals import structure_type, summarise


def row(outcome: str, srme: float | None, kind: str = "rocksalt") -> dict:
    known = {"srme": srme, "sre": srme, "srd": srme}
    return {"outcome": outcome, "structure_type": kind, **known}


def test_failures_count_in_the_means_and_in_their_rates():
    totals = summarise(
        [
            row("computed", 0.2),
            row("computed", 0.4),
            row("imaginary", 2.0),
            row("broken symmetry", 2.0, "wurtzite"),
            row("failed", 2.0, "wurtzite"),
        ]
    )
    assert totals["srme"] == {"mean": pytest.approx(1.32), "median": 2.0, "n": 5}
    rates = (totals["imaginary"], totals["broken_symmetry"], totals["failed"])
    assert rates == (0.2, 0.2, 0.2)
    assert totals["outcomes"]["computed"] == 2
    assert totals["by_structure"]["wurtzite"]["srme"]["mean"] == 2.0
    assert totals["by_structure"]["rocksalt"]["srme"]["n"] == 3


def test_what_has_no_reference_is_in_the_rates_and_in_no_mean():
    totals = summarise([row("computed", None), row("imaginary", 2.0)])
    assert (totals["srme"]["n"], totals["srme"]["mean"]) == (1, 2.0)
    assert totals["imaginary"] == 0.5
    empty = summarise([])
    assert (empty["srme"]["mean"], empty["failed"]) == (None, None)


def test_only_binaries_of_equal_parts_have_the_names_of_their_types():
    assert structure_type(216, [1, 1]) == "zincblende"
    assert structure_type(186, [2, 2]) == "wurtzite"
    assert structure_type(225, [1]) == "space group 225"
    assert structure_type(227, [1, 1]) == "space group 227"
