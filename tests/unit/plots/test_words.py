from __future__ import annotations

import json
import re

import numpy as np
import pytest

from pft_lightning.plots.report import write_report
from pft_lightning.plots.words import (
    compare,
    say_functionals,
    say_softness,
    say_trade_off,
    say_unstable,
)

from .conftest import LABELS, failed_row, row_of, write_evaluation
from .page import Page


HOSTILE = "</script><script>alert('x')</script>&\"$_"

pytestmark = pytest.mark.usefixtures("unrendered")


def said(folder, **options) -> list[str]:
    """Lines of the summary, in the page that is written."""
    html = write_report(folder, **options).read_text()
    Page(html)
    (part,) = re.findall(r'<ul class="words">(.*?)</ul>', html, re.S)
    lines = re.findall(r"<li.*?</li>", part, re.S)
    return [" ".join(re.sub(r"<[^>]*>", "", line).split()) for line in lines]


def rows_of(properties, ours, labels, name="NaCl"):
    return [
        row_of(name, label, properties[model], properties["reference"])
        for label, model in zip(labels, ours, strict=True)
    ]


def test_words_are_the_numbers_of_the_tables(folder):
    lines = said(folder)
    page = Page((folder / "report.html").read_text())
    (totals,) = [r for r in page.tables["totals"] if r[0][0] == "frequency MAE (THz)"]
    (better,) = [line for line in lines if line.startswith("Better")]
    assert "fine_tuned against base, mean errors" in better
    assert f"frequency MAE {totals[6][0]}" in better
    (forgotten,) = [line for line in lines if "upstream" in line]
    assert forgotten == (
        "Worse fine_tuned against base, mean errors on upstream data: "
        "energy MAE +90%, forces MAE +24%."
    )
    # "hard" failed for the base model.
    assert any("for 2 of 2 materials, by frequency MAE" in line for line in lines)
    (failures,) = [line for line in lines if "failures" in line]
    assert "3 failures (2 of base, 1 of fine_tuned): hard, gone" in failures
    (worst,) = [line for line in lines if "Worst" in line]
    error = max(float(r[4][0]) for r in page.tables["materials"] if r[2][0] == LABELS[1]
                and r[4][0] != "–" and r[0][0] != "gone")  # fmt: skip
    assert f"by frequency MAE: hard ({error:.3g} THz)" in worst
    kinds = [line.split()[0] for line in lines]
    assert kinds.index("Look") > kinds.index("Worse")


def test_of_one_model_errors_are_said_and_no_change(properties, tmp_path):
    rows = rows_of(properties, ["base"], ["only"])
    lines = said(write_evaluation(tmp_path / "e", rows, {}, ["only"]))
    assert lines[0].startswith("Result Only only was evaluated, nothing to compare")
    assert f"frequency MAE (THz) {rows[0]['mesh_frequency_mae']:.4g}" in lines[0]
    assert not any(line.startswith(("Better", "Worse", "Unchanged")) for line in lines)


def test_of_several_models_each_is_compared_with_the_first(properties, tmp_path):
    labels = ["first", "good", "bad"]
    models = ["base", "fine_tuned", "base"]
    rows = [row for name in "xy" for row in rows_of(properties, models, labels, name)]
    for row in rows[2::3]:
        errors = [key for key in row if key.endswith(("mae", "error"))]
        row.update({key: 2 * row[key] for key in errors if row[key]})
    lines = said(write_evaluation(tmp_path / "e", rows, {}, labels))
    assert lines[0].startswith("Result Of 3 models good has the lowest mean")
    assert lines[1].startswith("Better good against first")
    (worse,) = [line for line in lines if line.startswith("Worse")]
    assert worse.startswith("Worse bad against first")
    assert "frequency MAE +100%" in worse
    assert any("bad is better than first for 0 of 2 materials" in x for x in lines)


def test_where_nothing_changed_nothing_is_better_or_worse(properties, tmp_path):
    rows = rows_of(properties, ["base", "base"], LABELS)
    lines = said(write_evaluation(tmp_path / "e", rows, {}, LABELS))
    assert "Unchanged fine_tuned against base, mean errors: all within 1 %." in lines
    assert not any(line.startswith(("Better", "Worse")) for line in lines)


def test_where_everything_failed_only_that_is_said(tmp_path):
    rows = [failed_row(n, label, "no") for n in "abcd" for label in LABELS]
    lines = said(write_evaluation(tmp_path / "e", rows, {}, LABELS))
    assert lines == [
        "Look at No material was finished by any model: there is nothing to compare.",
        "Look at 8 failures (4 of base, 4 of fine_tuned); 3 of these materials: "
        "a, b, c.",
    ]


def test_names_stay_text_in_words(properties, tmp_path):
    name = HOSTILE.replace("/", "")
    labels = ["base", HOSTILE]
    rows = rows_of(properties, ["base", "fine_tuned"], labels, name)
    rows.append(failed_row(name + "2", HOSTILE, HOSTILE))
    # The file of arrays separates by slashes.
    arrays = {name: {"reference": properties["reference"], name: properties["base"]}}
    folder = write_evaluation(tmp_path / "e", rows, arrays, labels)
    for one in (name, name + "2"):
        record = {"name": one, "source": "x", "keys": {}, "models": {}, "status": "ok"}
        (folder / "materials" / f"{one}.json").write_text(json.dumps(record))
    write_report(folder)
    page = Page((folder / "report.html").read_text())
    # Bands, buttons, words, links: only the page's own script, no handler, no link out.
    assert [tag for tag, _ in page.seen].count("script") == 1
    for tag, attributes in page.seen:
        assert not any(key.startswith("on") for key in attributes)
        if tag == "a":
            assert re.fullmatch(
                r"#[\w-]+|(materials|figures)/[\w.%~-]+", attributes["href"]
            )
    buttons = [a for tag, a in page.seen if a.get("aria-pressed")]
    assert len(buttons) == 2
    assert page.text.count(HOSTILE) >= 6


def test_errors_are_better_or_worse_from_one_per_cent_on():
    changes = [("a", -0.0101), ("b", 0.0101), ("c", 0.0099), ("d", None)]
    kinds = {s.kind: s for s in compare("new", "old", changes)}
    assert list(kinds["better"].changes) == [("a", -0.0101)]
    assert list(kinds["worse"].changes) == [("b", 0.0101)]
    assert kinds["same"].text == "new against old, mean errors: 1 of 3 within 1 %"
    (unknown,) = compare("new", "old", [("d", None)])
    assert unknown.kind == "note"


def test_softness_and_stability_are_said_as_counted():
    (soft,) = say_softness("m", np.array([0.9, 0.94, np.nan]))
    assert soft.text == "Frequencies of m are on average 8 % too low"
    (exact,) = say_softness("m", np.array([0.995, 1.004]))
    assert "within 1 %" in exact.text
    assert not list(say_softness("m", np.array([np.nan])))
    counts = {"true_positive": 3, "false_negative": 2, "false_positive": 0}
    (unstable,) = say_unstable("m", {**counts, "true_negative": 7})
    assert "m misses 2 of the 5 materials" in unstable.text
    assert "calls 0 of the 7 stable ones" in unstable.text
    assert not list(say_unstable("m", {"true_positive": 3, "true_negative": 7}))


def test_functionals_that_differ_are_said_with_the_models_that_share_them():
    models = {"a": {"name": "PBE"}, "b": {"name": "PBE"}, "c": {"name": "PBEsol"}}
    found = {"phonons": {"name": "PBEsol"}, "models": models, "differ": ["a", "b"]}
    (said,) = say_functionals(found)
    assert said.text.startswith("Functionals differ: a and b of PBE, DFT of PBEsol; a")
    assert not list(say_functionals({**found, "differ": []}))
    assert not list(say_functionals({}))


def test_reports_say_which_functionals_differ(properties, tmp_path):
    models = {"base": {"name": "PBE"}}
    found = {"phonons": {"name": "LDA"}, "models": models, "differ": ["base"]}
    rows = rows_of(properties, ["base", "base"], LABELS)
    folder = write_evaluation(tmp_path / "e", rows, {}, LABELS, functionals=found)
    (line,) = [line for line in said(folder) if "Functionals" in line]
    assert "base of PBE, DFT of LDA" in line


def test_the_knee_is_said_with_what_it_gains_and_costs():
    points = [{"mix": 0.5, "gain": 0.62, "forgetting": 0.33, "label": "mix_0.5"}]
    line = say_trade_off({"points": points, "knee": 0.5, "remark": ""})
    assert "mix 0.5: phonon errors fall by 62 %" in line.text
    assert "rise by 33 %" in line.text
    line = say_trade_off({"points": points, "knee": None, "remark": "no bend"})
    assert line.text == "The trade-off has no knee: no bend"
