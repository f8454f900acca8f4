from __future__ import annotations

import copy
import csv
import json
import lzma
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

import pft_lightning as pft
from pft_lightning.data.store import build_store
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.evaluation import protocols
from pft_lightning.evaluation.folder import COLUMNS, ERRORS
from pft_lightning.evaluation.properties_io import load_properties
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.evaluation.runner import Evaluation
from pft_lightning.testing import PairPotential

from .conftest import CUTOFF, ELEMENTS, make_phonon


FAST = Protocol(mesh=(4, 4, 4), temperatures=(0.0, 400.0, 100.0), band_points=5)
NAMES = ["hcp", "rocksalt, conventional with F", "wurtzite"]


class Counting(PairPotential):
    """Counts its evaluations, and is interrupted where told to."""

    evaluated = 0
    interrupt_at = math.inf

    def derivatives(self, batch: Batch, **options):
        type(self).evaluated += 1
        if type(self).evaluated >= type(self).interrupt_at:
            raise KeyboardInterrupt
        return super().derivatives(batch, **options)


@pytest.fixture
def counting():
    Counting.evaluated, Counting.interrupt_at = 0, math.inf
    model = Counting(CUTOFF, ELEMENTS)
    with torch.no_grad():
        model.depth *= 0.8
    return model


@pytest.fixture
def phonons(potential):
    found = {}
    for name in NAMES:
        phonon = make_phonon(name)
        phonon.force_constants = pft.force_constants(potential, phonon)
        found[name] = phonon
    return found


@pytest.fixture
def folder(phonons, tmp_path):
    path = tmp_path / "phonons"
    path.mkdir()
    for name, phonon in phonons.items():
        phonon.save(
            path / f"{name.split(',')[0]}.yaml", settings={"force_constants": True}
        )
    return path


def evaluate(models, phonons, **options) -> Evaluation:
    options = {"protocol": FAST, "progress": False, **options}
    return pft.evaluate_phonons(models, phonons, **options)


def without_time(summary: dict) -> dict:
    kept = copy.deepcopy(summary)
    for totals in kept["models"].values():
        totals.pop("seconds")
    return json.loads(json.dumps(kept))


def test_the_force_constants_of_dft_themselves_have_no_error_at_all(
    folder, potential, monkeypatch
):
    from pft_lightning.evaluation.reference import read_reference

    exact = {
        phonon.unitcell.formula: phonon.force_constants
        for phonon in map(read_reference, sorted(folder.iterdir()))
    }
    monkeypatch.setattr(
        protocols,
        "compute_force_constants",
        lambda model, phonon, **_: SimpleNamespace(
            compact=exact[phonon.unitcell.formula], n_products=0
        ),
    )
    result = evaluate(potential, folder)
    assert len(result.rows) == len(NAMES)
    for row in result.rows:
        assert row["status"] == "ok", row
        assert [row[name] for name in ERRORS] == [0.0] * len(ERRORS)
        assert row["frequency_ratio"] == 1.0


def test_the_potential_that_made_the_reference_has_errors_of_rounding(
    phonons, potential
):
    result = evaluate(potential, phonons)
    for row in result.rows:
        assert row["force_constants_mae"] < 1e-12
        # Near Γ a frequency is the root of a small number.
        assert row["mesh_frequency_mae"] < 1e-7
        assert row["entropy_error"] < 1e-6


def test_rows_and_totals_say_what_a_softer_potential_does(phonons, potential, counting):
    result = evaluate({"base": counting, "better": potential}, phonons)
    assert [(r["name"], r["model"]) for r in result.rows] == [
        (name, label) for name in NAMES for label in ("base", "better")
    ]
    totals = result.summary["models"]
    # Depths times 0.8: all frequencies times the square root of it.
    assert totals["base"]["frequency_ratio"]["mean"] == pytest.approx(
        0.8**0.5, rel=1e-6
    )
    assert totals["better"]["frequency_ratio"]["mean"] == pytest.approx(1, rel=1e-6)
    assert totals["base"]["hvps"]["n"] == len(NAMES)
    for name, found in result.properties.items():
        assert set(found) == {"reference", "base", "better"}, name
    assert result.summary["protocol"]["mesh"] == (4, 4, 4)


def test_a_folder_holds_every_number(phonons, counting, tmp_path):
    out = tmp_path / "eval"
    in_memory = evaluate(counting, phonons)
    on_disk = evaluate(counting, phonons, out=out)
    summary = json.loads((out / "metrics.json").read_text())
    assert without_time(summary) == without_time(in_memory.summary)
    with (out / "per_material.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    for row, expected in zip(rows, in_memory.rows, strict=True):
        for name in (*ERRORS, "entropy", "reference_min_frequency"):
            assert float(row[name]) == expected[name]
    assert on_disk.properties == {}
    for name, found in in_memory.properties.items():
        stored = load_properties(out / "materials" / f"{name}.npz")
        assert list(stored) == list(found)
        for label, properties in found.items():
            for field in ("mesh_frequencies", "dos", "entropy", "force_constants"):
                np.testing.assert_array_equal(
                    getattr(stored[label], field), getattr(properties, field)
                )
            assert stored[label].bands.labels == properties.bands.labels
            np.testing.assert_array_equal(
                np.concatenate(stored[label].bands.frequencies),
                np.concatenate(properties.bands.frequencies),
            )


def test_an_interrupted_evaluation_goes_on_and_computes_nothing_twice(
    phonons, counting, tmp_path
):
    whole = evaluate(counting, phonons, out=tmp_path / "whole")
    per_material = Counting.evaluated // len(NAMES)
    assert Counting.evaluated == per_material * len(NAMES)
    Counting.evaluated, Counting.interrupt_at = 0, 2 * per_material
    with pytest.raises(KeyboardInterrupt):
        evaluate(counting, phonons, out=tmp_path / "cut")
    assert not (tmp_path / "cut" / "metrics.json").exists()
    records = sorted((tmp_path / "cut" / "materials").glob("*.json"))
    assert [path.stem for path in records] == NAMES[:1]
    before = records[0].read_bytes()
    Counting.evaluated, Counting.interrupt_at = 0, math.inf
    resumed = evaluate(counting, phonons, out=tmp_path / "cut")
    assert Counting.evaluated == per_material * (len(NAMES) - 1)
    assert records[0].read_bytes() == before
    assert without_time(resumed.summary) == without_time(whole.summary)
    Counting.evaluated = 0
    evaluate(counting, phonons, out=tmp_path / "cut")
    assert Counting.evaluated == 0


@pytest.mark.parametrize("change", ["model", "protocol", "source"])
def test_what_changed_is_computed_again(folder, counting, tmp_path, change):
    out = tmp_path / "eval"
    evaluate(counting, folder, out=out)
    everything, Counting.evaluated = Counting.evaluated, 0
    options = {}
    if change == "model":
        with torch.no_grad():
            counting.depth *= 1.01
    elif change == "protocol":
        options["protocol"] = Protocol(mesh=(5, 5, 5), band_points=0)
    else:
        file = folder / "hcp.yaml"
        file.write_text(file.read_text() + "\n")
    evaluate(counting, folder, out=out, **options)
    expected = everything // len(NAMES) if change == "source" else everything
    assert Counting.evaluated == expected


def test_a_potential_that_is_added_is_computed_alone(folder, counting, tmp_path):
    out = tmp_path / "out"
    evaluate({"soft": counting}, folder, out=out)
    first = Counting.evaluated
    stiff = Counting(CUTOFF, ELEMENTS)
    with torch.no_grad():
        stiff.depth *= 1.2
    both = evaluate({"stiff": stiff, "soft": counting}, folder, out=out)
    assert Counting.evaluated == 2 * first
    # The same as if both had been there from the start.
    at_once = evaluate(
        {"stiff": stiff, "soft": counting}, folder, out=tmp_path / "at_once"
    )
    for row, expected in zip(both.rows, at_once.rows, strict=True):
        assert {**row, "seconds": 0} == {**expected, "seconds": 0}
    for path in sorted((out / "materials").glob("*.npz")):
        assert list(load_properties(path)) == ["reference", "stiff", "soft"]

    # Damaged arrays are made again, and so is a model whose weights changed.
    Counting.evaluated = 0
    path.write_bytes(path.read_bytes()[:100])
    with torch.no_grad():
        stiff.depth *= 1.01
    evaluate({"stiff": stiff, "soft": counting}, folder, out=out)
    assert first < Counting.evaluated < 2 * first
    assert list(load_properties(path)) == ["reference", "stiff", "soft"]


def test_failures_are_named_and_the_rest_is_unharmed(folder, potential, tmp_path):
    packed = lzma.compress((folder / "wurtzite.yaml").read_bytes())
    (folder / "truncated.yaml.xz").write_bytes(packed[: len(packed) // 2])
    knows_less = PairPotential(CUTOFF, (8, 12, 30))
    same = [ELEMENTS.index(number) for number in knows_less.atomic_numbers]
    with torch.no_grad():
        for ours, theirs in zip(
            knows_less.parameters(), potential.parameters(), strict=True
        ):
            ours.copy_(theirs[same])
    explosive = copy.deepcopy(potential)
    with torch.no_grad():
        explosive.radius *= 0.2
        explosive.depth *= 50
    models = {"good": potential, "knows less": knows_less, "explosive": explosive}
    protocol = Protocol(
        name="relaxed", relax=True, mesh=(3, 3, 3), band_points=0, max_steps=300
    )
    result = evaluate(models, folder, protocol=protocol, out=tmp_path / "eval")
    summary = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    by_name = {(f["name"], f["model"]): f["error"] for f in summary["failures"]}
    assert "truncated.yaml.xz" in by_name["truncated", None]
    assert "no parameters for Na, Cl" in by_name["rocksalt", "knows less"]
    exploded = [key for key, error in by_name.items() if "exploded" in error]
    assert {label for _, label in exploded} == {"explosive"}
    ok = {(r["name"], r["model"]) for r in result.rows if r["status"] == "ok"}
    assert {name for name, label in ok if label == "good"} == {
        "hcp",
        "rocksalt",
        "wurtzite",
    }
    assert {name for name, label in ok if label == "knows less"} == {"hcp", "wurtzite"}
    assert summary["counts"]["materials"] == 4
    assert summary["counts"]["unreadable"] == 1
    assert summary["counts"]["failed"]["good"] == 1
    assert summary["models"]["good"]["entropy_error"]["n"] == 3
    # All rows are in the table, failed ones without numbers.
    assert len(result.rows) == 4 * 3


def test_a_store_has_the_numbers_of_its_files(folder, counting, tmp_path):
    build_store(folder, tmp_path / "a.store", cutoff=3.0, progress=False)
    from_files = evaluate(counting, folder)
    from_store = evaluate(counting, tmp_path / "a.store")
    for ours, theirs in zip(from_store.rows, from_files.rows, strict=True):
        assert ours["name"] == theirs["name"]
        assert [ours[e] for e in ERRORS] == [theirs[e] for e in ERRORS]


def test_an_ase_calculator_stands_beside_a_model(phonons, potential, counting):
    protocol = Protocol(
        mesh=(4, 4, 4), band_points=0, method="finite_displacement", displacement=1e-3
    )
    models = {"ours": counting, "ase": pft.Calculator(counting)}
    rows = evaluate(models, phonons, protocol=protocol).rows
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        assert theirs["entropy"] == pytest.approx(ours["entropy"], rel=1e-6)
    with pytest.raises(ConfigError, match="finite_displacement"):
        evaluate({"ase": pft.Calculator(potential)}, phonons)


def test_float32_models_are_evaluated_in_float64_and_left_alone(phonons, counting):
    single = counting.to(torch.float32)
    rows = evaluate(single, phonons).rows
    assert single.dtype == torch.float32
    double = copy.deepcopy(single).to(torch.float64)
    for ours, theirs in zip(rows, evaluate(double, phonons).rows, strict=True):
        assert [ours[e] for e in ERRORS] == [theirs[e] for e in ERRORS]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({}, "no model"),
        ({"reference": PairPotential(CUTOFF, ELEMENTS)}, "reference"),
        ({"a/b": PairPotential(CUTOFF, ELEMENTS)}, "a/b"),
        ({"a": 3}, "int"),
    ],
)
def test_models_that_cannot_be_used_are_named(phonons, models, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(models, phonons)


def test_a_path_that_matches_nothing_is_named(potential):
    with pytest.raises(DataFormatError, match="/nowhere"):
        evaluate(potential, "/nowhere")


def test_graphs_reach_the_cutoff_of_each_model(phonons):
    # A longer cutoff must not be cut by one that came before.
    short, long = PairPotential(3.0, ELEMENTS), PairPotential(6.0, ELEMENTS)
    both = evaluate({"short": short, "long": long}, phonons).rows
    alone = evaluate({"long": long}, phonons).rows
    for ours, theirs in zip(both[1::2], alone, strict=True):
        assert ours["force_constants_mae"] == theirs["force_constants_mae"]
