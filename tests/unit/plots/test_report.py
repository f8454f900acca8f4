from __future__ import annotations

import base64
import csv
import json
import re

import numpy as np
import pytest

from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation.properties_io import load_properties, save_properties
from pft_lightning.plots.report import write_report

from .conftest import LABELS, failed_row, row_of, write_evaluation
from .page import Page


HOSTILE = "<script>alert('x')</script>&\"$_"


def page_of(folder, **options) -> Page:
    return Page(write_report(folder, **options).read_text())


@pytest.mark.usefixtures("unrendered")
def test_numbers_are_those_of_the_metrics(folder):
    page = page_of(folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    for name, text in (
        ("mesh_frequency_mae", "frequency MAE (THz)"),
        ("entropy_error", "S error (J/K/mol)"),
        ("max_frequency_error_K", "ωmax error (K)"),
    ):
        totals = [metrics["models"][label][name] for label in LABELS]
        expected = [t[key] for t in totals for key in ("mean", "median", "n")]
        assert page.numbers("totals", text) == expected
    assert page.numbers("forgetting", "forces MAE (eV/Å)") == [0.0456, 0.0567]
    for text in ("dft_cell", "phonopy1.2.3", "By element", "By source"):
        assert text in page.text


@pytest.mark.usefixtures("unrendered")
def test_changes_compare_the_same_materials(folder):
    page = page_of(folder)
    (row,) = [r for r in page.tables["totals"] if r[0][0] == "frequency MAE (THz)"]
    with (folder / "per_material.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # "hard" failed for the base model: it must not move the change.
    ours, base = (
        np.mean(
            [
                float(r["mesh_frequency_mae"])
                for r in rows
                if r["model"] == label and r["name"] in ("soft", "middle")
            ]
        )
        for label in ("fine_tuned", "base")
    )
    assert row[6][0] == f"{ours / base - 1:+.0%}".replace("-", "−")


@pytest.mark.usefixtures("unrendered")
def test_materials_are_listed_worst_first_with_every_number(folder):
    page = page_of(folder)
    _, *rows = page.tables["materials"]
    assert [row[0][0] for row in rows[::2]] == ["gone", "hard", "middle", "soft"]
    with (folder / "per_material.csv").open(newline="") as file:
        expected = {(r["name"], r["model"]): r for r in csv.DictReader(file)}
    for row in rows:
        source = expected[row[0][0], row[2][0]]
        if source["status"] == "ok":
            assert row[4][0] == f"{float(source['mesh_frequency_mae']):.4g}"
        else:
            assert source["error"] in row[-1][0]
    assert "RelaxationError: it exploded" in page.text


@pytest.mark.usefixtures("unrendered")
def test_only_the_worst_the_median_and_chosen_materials_have_figures(folder):
    write_report(folder)
    write_report(folder, n_worst=1, chosen=["soft"])
    names = sorted(p.name for p in (folder / "figures").glob("material_*_bands.png"))
    assert [re.sub(r"material_\d+_|_bands.png", "", n) for n in names] == [
        "hard",
        "middle",
        "soft",
    ]
    with pytest.raises(DataFormatError, match="nowhere"):
        write_report(folder, chosen=["nowhere"])


@pytest.mark.usefixtures("unrendered")
def test_figures_of_an_earlier_report_do_not_stay(folder):
    write_report(folder)
    made = {file.name for file in (folder / "figures").iterdir()}
    for name in ("trade_off.png", "kappa_parity.png", "material_009_x_bands.png"):
        (folder / "figures" / name).write_bytes(b"of another evaluation")
    (folder / "figures" / "talk.png").write_bytes(b"of the user")
    write_report(folder)
    assert {file.name for file in (folder / "figures").iterdir()} == {*made, "talk.png"}


def test_the_page_needs_nothing_else(folder):
    page = page_of(folder)
    images = [a["src"] for tag, a in page.seen if tag == "img"]
    # Five of all materials, one of each that a model finished, and its bands as lines.
    assert len(images) == 5 + 3
    assert [a.get("class") for _, a in page.seen].count("bands") == 3
    for src in images:
        encoded = src.removeprefix("data:image/png;base64,")
        assert base64.b64decode(encoded, validate=True).startswith(b"\x89PNG")
    for tag, attributes in page.seen:
        for name in ("src", "href", "action"):
            to = attributes.get(name) or "#"
            # Beside the page lie the records: links that nothing is read from.
            assert to.startswith(("data:", "#")) or (tag, name) == ("a", "href")
            assert to.startswith(("data:", "#", "materials/"))
    html = (folder / "report.html").read_text()
    assert not re.search(r"https?:|//cdn|@import|url\(", html)


def test_what_files_say_stays_text(properties, tmp_path):
    row = row_of("x", HOSTILE, properties["base"], properties["reference"])
    name = HOSTILE.replace("/", "")
    rows = [{**row, "name": name}, failed_row("bad", HOSTILE, HOSTILE)]
    arrays = {
        name: {"reference": properties["reference"], "m": properties["base"]},
    }
    versions = {HOSTILE: HOSTILE}
    folder = write_evaluation(
        tmp_path / "<b>", rows, arrays, [HOSTILE], versions=versions
    )
    (folder / "command.txt").write_text(HOSTILE)
    page = page_of(folder)
    assert [tag for tag, _ in page.seen].count("script") == 1
    assert "Phonon evaluation: <b>" in page.text
    assert page.text.count(HOSTILE) >= 6
    for figure in (folder / "figures").iterdir():
        assert re.fullmatch(r"[\w.-]+", figure.name)


def test_one_model_without_upstream_data(properties, tmp_path):
    row = row_of("NaCl", "only", properties["base"], properties["reference"])
    arrays = {"NaCl": {k: properties[k] for k in ("reference",)}}
    arrays["NaCl"]["only"] = properties["base"]
    page = page_of(write_evaluation(tmp_path / "e", [row], arrays, ["only"]))
    assert "forgetting" not in page.tables
    assert "No upstream data" in page.text
    assert "change" not in page.text


def test_all_materials_failed(tmp_path):
    rows = [failed_row(name, "m", f"no {name}") for name in ("a", "b")]
    page = page_of(write_evaluation(tmp_path / "e", rows, {}, ["m"]))
    assert "No material was finished" in page.text
    assert "no a" in page.text
    assert not [tag for tag, _ in page.seen if tag == "img"]


@pytest.mark.usefixtures("unrendered")
def test_missing_and_damaged_arrays_are_named_and_the_rest_is_shown(folder):
    (folder / "materials" / "soft.npz").unlink()
    path = folder / "materials" / "middle.npz"
    path.write_bytes(path.read_bytes()[:500])
    page = page_of(folder)
    assert "middle.npz" in page.text
    assert "No arrays of this material were kept" in page.text
    images = [a for tag, a in page.seen if tag == "img"]
    assert len(images) == 5 + 1


def test_no_evaluation_says_what_to_do(folder, tmp_path):
    with pytest.raises(DataFormatError, match="goes on where it was"):
        write_report(tmp_path / "nothing")
    (folder / "metrics.json").write_text("{")
    with pytest.raises(DataFormatError, match=r"metrics\.json"):
        write_report(folder)


def test_properties_survive_their_file(properties, tmp_path):
    path = tmp_path / "new" / "x.npz"
    save_properties(path, properties)
    stored = load_properties(path)
    assert list(stored) == list(properties)
    for label, expected in properties.items():
        for name in expected.__slots__:
            ours, theirs = getattr(stored[label], name), getattr(expected, name)
            if name == "bands":
                assert ours.labels == theirs.labels
                np.testing.assert_array_equal(ours.distances, theirs.distances)
                np.testing.assert_array_equal(ours.frequencies, theirs.frequencies)
            else:
                np.testing.assert_array_equal(ours, theirs)


def test_files_of_properties_are_never_executed(properties, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **{"m/dos": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(DataFormatError, match=r"x\.npz"):
        load_properties(path)
    np.savez(path, **{"m/dos": np.zeros(3)})
    with pytest.raises(DataFormatError, match="lacks the array 'm/"):
        load_properties(path)
