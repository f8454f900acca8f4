"""The page of a comparison with measured values, from a folder as it is written."""

from __future__ import annotations

import re

import pytest

from pft_lightning.evaluation.folder import EvaluationFolder
from pft_lightning.evaluation.measured.columns import COLUMNS
from pft_lightning.plots.measured_report import write_measured_report


HOSTILE = "<img src=x onerror=alert(1)>"


def value(quantity: str, measured: float, **others) -> dict:
    empty = {"q_point": "", "branch": "", "temperature": None, "uncertainty": None}
    return {"quantity": quantity, "measured": measured, "unit": "THz", **empty} | others


MEASURED = {
    "far": [
        value("frequencies", 4.0, q_point="1/2,0,0", branch=HOSTILE, uncertainty=0.5),
        value("entropy", 30.0, temperature=300.0, unit="J/K/mol-cell"),
    ],
    "near": [value("frequencies", 5.0, q_point="0,0,0", branch="4")],
    # As a file system has it: no letter of HTML is left.
    "_b_ & $x$": [value("frequencies", 6.0, q_point="0,0,0")],
}
DENSITY = {"points": [0.0, 1.0, 2.0], "values": [0.0, 3.0, 0.0]}
COMPUTED = {
    "base": {"far": [3.0, 20.0], "near": [5.5], "_b_ & $x$": [-60.0]},
    "better": {"far": [3.9, 29.0], "near": [5.6], "_b_ & $x$": None},
}


def row(name: str, label: str) -> dict:
    computed = COMPUTED[label][name]
    found = {"name": name, "formula": "NaCl", "model": label}
    if computed is None:
        return found | {"status": "failed", "error": f"ModelError: {HOSTILE}"}
    found |= {"status": "ok", "error": "", "computed": computed, "spectrum_w1": 0.25}
    if name == "far":
        found["curves"] = {"temperatures": [0, 300, 900], "entropy": [0, 20, 40]}
        found["density"] = DENSITY
    return found


@pytest.fixture
def folder(tmp_path) -> EvaluationFolder:
    evaluation = EvaluationFolder(tmp_path)
    rows = []
    for name, measured in MEASURED.items():
        models = {label: row(name, label) for label in COMPUTED}
        shared = {"name": name, "source": "x", "keys": {}, "status": "ok", "error": ""}
        record = {**shared, "measured": measured, "models": models}
        if name == "far":
            record["measured_density"] = DENSITY
        evaluation.write_record(record)
        rows += models.values()
    cells = {"frequencies_mae": {"mean": 1.0, "median": 1.0, "n": 3}}
    cells |= {"entropy_mae": {"mean": 1.0, "median": 1.0, "n": 1}}
    failure = {"name": "_b_ & $x$", "model": "better", "error": HOSTILE}
    summary = {
        **{"protocol": {"name": "dft_cell"}, "versions": {}, "forgetting": {}},
        "models": dict.fromkeys(COMPUTED, cells),
        "counts": {"materials": 3, "unreadable": 0, "failed": {"base": 0, "better": 1}},
        "failures": [failure],
    }
    evaluation.write_totals(rows, summary, COLUMNS)
    return evaluation


def test_the_page_lists_every_value_beside_those_of_the_models(folder):
    page = write_measured_report(folder.path).read_text()
    drawn = sorted(path.name for path in folder.figures.glob("*.png"))
    assert drawn == ["material_00_far_measured.png", "measured_frequencies.png"]
    table = page[page.index('<table id="measured"') :]
    lines = re.findall(r"<tr>(.*?)</tr>", table[: table.index("</table>")], re.S)[1:]
    cells = [re.sub("<[^>]+>", " ", line).split() for line in lines]
    assert len(cells) == 4
    (entropy,) = (line for line in cells if "entropy" in line)
    assert entropy[4:] == ["30", "–", "J/K/mol-cell", "20", "-10", "29", "-1"]
    (failed,) = (line for line in cells if "$x$" in line)
    assert failed[-4:] == ["-60", "-66", "–", "–"]
    # What nothing was measured of has no column.
    assert "heat capacity" not in page


def test_the_page_says_what_got_better_over_values_that_both_have(folder):
    page = write_measured_report(folder.path).read_text()
    words = re.sub(r"<[^>]+>|\s+", " ", page[: page.index('id="results"')])
    # From 1.0 and 0.5 to 0.1 and 0.6; what failed does not count.
    assert "frequencies −53%" in re.sub(" +", " ", words)
    assert "better is nearer than base to 2 of 3 measured values" in words
    assert "1 failure" in words


def test_names_and_messages_are_text(folder):
    page = write_measured_report(folder.path).read_text()
    assert HOSTILE not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "_b_ &amp; $x$" in page
    assert page.count("<img src=") == page.count('<img src="data:image/png;base64,')


def test_a_folder_where_every_model_failed_is_reported(folder):
    for name, measured in MEASURED.items():
        record = folder.read_record(name)
        models = {
            label: {"name": name, "model": label, "status": "failed", "error": "why"}
            for label in COMPUTED
        }
        folder.write_record({**record, "measured": measured, "models": models})
    summary, _ = folder.read_totals()
    nothing = {"mean": None, "median": None, "n": 0}
    summary["models"] = {label: {"frequencies_mae": nothing} for label in COMPUTED}
    rows = [
        {"name": name, "model": label, "status": "failed", "error": "why"}
        for name in MEASURED
        for label in COMPUTED
    ]
    folder.write_totals(rows, summary, COLUMNS)
    page = write_measured_report(folder.path).read_text()
    assert "No material was finished by any model" in page
