"""Scores along band structures, as ML-PEG 0.7 takes them."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from functools import partial

import numpy as np
import pytest
from phonopy.phonon.band_structure import get_band_qpoints_by_seekpath

import pft_lightning as pft
from pft_lightning.errors import ConfigError, ShapeError
from pft_lightning.evaluation.bands import compare_bands, find_stable, kelvin_per_thz
from pft_lightning.evaluation.folder import BANDS
from pft_lightning.evaluation.ml_peg import TEMPERATURES, describe_files
from pft_lightning.evaluation.properties import compute_properties
from pft_lightning.evaluation.protocols import ML_PEG, Protocol, relax
from pft_lightning.plots.report import write_report

from .conftest import einstein, make_phonon


FAST = dataclasses.replace(ML_PEG, mesh=(4, 4, 4), band_points=5)


@pytest.fixture
def fast_is_published(monkeypatch):
    """Files of a mesh that takes no time."""
    monkeypatch.setattr("pft_lightning.evaluation.ml_peg.ML_PEG", FAST)


def bands_of(stiffness: float):
    return compute_properties(einstein(stiffness), FAST).bands


@pytest.fixture
def softened(potential):
    """A crystal of the potential's own, and one whose force constants are softer."""
    phonon = make_phonon("wurtzite")
    exact = pft.force_constants(potential, phonon)
    phonon.force_constants = 0.81 * exact
    return phonon


def test_errors_along_the_path_of_einstein_crystals_are_those_by_hand():
    row = compare_bands(bands_of(2.0), bands_of(3.0))
    factor = 15.633302  # THz per sqrt(eV/Å²/AMU)
    difference = factor * (math.sqrt(3 / 20) - math.sqrt(2 / 20)) * 47.99243073
    for name in BANDS:
        assert row[name] == pytest.approx(difference, rel=1e-6)
    assert row["band_min_frequency"] == pytest.approx(factor * math.sqrt(2 / 20))
    assert compare_bands(None, bands_of(3.0)) == {}


def test_paths_of_other_lengths_are_not_compared():
    other = dataclasses.replace(FAST, band_points=6)
    bands = compute_properties(einstein(2.0), other).bands
    with pytest.raises(ShapeError, match="one path"):
        compare_bands(bands, bands_of(2.0))


def test_stable_materials_are_found_by_their_lowest_frequency():
    def row(reference: float, model: float):
        return {"reference_band_min_frequency": reference, "band_min_frequency": model}

    rows = [row(-0.01, 0.0), row(-0.01, -1.0), row(-2.0, -0.04), row(-2.0, -3.0), {}]
    rows.append(row(0.0, -0.02))
    found = find_stable(rows, 0.05)
    # Two of both, one of each alone: precision and recall are two thirds.
    assert found["f1"] == pytest.approx(2 / 3, rel=1e-15)
    assert [found[f"stable_of_{who}"] for who in ("both", "model", "reference")] == [
        *(2, 1, 1)
    ]
    assert found["unstable_of_both"] == 1
    assert find_stable([], 0.05)["f1"] is None


def test_atoms_are_relaxed_in_a_lattice_that_stays(potential):
    phonon = make_phonon("wurtzite")
    relaxed, steps = relax(potential, phonon, ML_PEG)
    assert steps > 0
    np.testing.assert_array_equal(relaxed.cell.array, phonon.unitcell.cell)
    assert np.abs(relaxed.get_forces()).max() < ML_PEG.fmax
    assert np.abs(relaxed.positions - phonon.unitcell.positions).max() > 1e-3


def test_what_has_not_converged_is_kept_where_ml_peg_keeps_it(potential):
    impatient = dataclasses.replace(ML_PEG, max_steps=1)
    _, steps = relax(potential, make_phonon("wurtzite"), impatient)
    assert steps == 1


@pytest.mark.usefixtures("fast_is_published")
def test_files_are_those_that_ml_peg_reads(softened, potential, tmp_path):
    evaluation = pft.evaluate_phonons(
        potential, {"mp-1": softened}, protocol=FAST, out=tmp_path, progress=False
    )
    row = evaluation.rows[0]
    read = {}
    for who in ("DFT", "model"):
        place = tmp_path / "leaderboard" / who
        with (place / "mp-1_band_structure.npz").open("rb") as file:
            bands = pickle.load(file)["frequencies"]
        with (place / "mp-1_dos.npz").open("rb") as file:
            assert {*pickle.load(file)} == {"frequency_points", "total_dos"}
        thermal = json.loads((place / "mp-1_thermal_properties.json").read_text())
        read[who] = np.concatenate(bands) * kelvin_per_thz(), thermal
    ours, theirs = read["model"], read["DFT"]
    # Sums of some hundred numbers in another order.
    same = partial(pytest.approx, rel=1e-12)
    assert abs(ours[0].mean() - theirs[0].mean()) == same(row["band_mean_error_K"])
    assert np.abs(ours[0] - theirs[0]).mean() == same(row["band_mae_K"])
    at = TEMPERATURES.index(300.0)
    assert at == 3  # what it takes for 300 K
    for name in ("entropy", "free_energy", "heat_capacity"):
        assert abs(ours[1][name][at] - theirs[1][name][at]) == row[f"{name}_error"]


@pytest.mark.usefixtures("fast_is_published")
def test_changed_options_make_no_files_and_are_named(softened, potential, tmp_path):
    files = tmp_path / "leaderboard"

    def told(**changed: object) -> str:
        protocol = dataclasses.replace(FAST, **changed)
        pft.evaluate_phonons(
            potential, {"mp-1": softened}, protocol=protocol, out=tmp_path,
            progress=False,
        )  # fmt: skip
        return describe_files(files, dataclasses.asdict(protocol))

    assert told(volume_limits=(0.9, 1.1)) == f"For ML-PEG: {files}"
    said = told(relax=False, temperatures=(0.0, 600.0, 100.0))
    assert "No files for ML-PEG: protocol.relax, protocol.temperatures" in said
    assert not list(files.glob("*/*"))


def test_a_model_takes_no_place_of_dft(softened, potential, tmp_path):
    with pytest.raises(ConfigError, match=r"'dft'.*another label"):
        pft.evaluate_phonons(
            {"dft": potential}, {"mp-1": softened}, protocol=FAST, out=tmp_path
        )


@pytest.mark.usefixtures("fast_is_published")
def test_files_of_a_model_that_is_gone_do_not_stay(softened, potential, tmp_path):
    for label in ("before", "after"):
        pft.evaluate_phonons(
            {label: potential},
            {"mp-1": softened},
            protocol=FAST,
            out=tmp_path,
            progress=False,
        )
    left = {file.parent.name for file in (tmp_path / "leaderboard").glob("*/*")}
    assert left == {"DFT", "after"}


def test_both_follow_the_path_of_the_reference(potential):
    """A model may relax into a cell that seekpath would give another path."""
    phonon = make_phonon("wurtzite")
    phonon.force_constants = pft.force_constants(potential, phonon)
    own = Protocol(relax=True, mesh=(3, 3, 3), band_points=5)
    evaluation = pft.evaluate_phonons(
        potential, {"crystal": phonon}, protocol=own, progress=False
    )
    reference, model = (
        evaluation.properties["crystal"][who].bands for who in ("reference", "model")
    )
    path, _, _ = get_band_qpoints_by_seekpath(
        phonon.primitive, 5, is_const_interval=True
    )
    assert [len(f) for f in model.frequencies] == [len(q) for q in path]
    assert model.labels == reference.labels
    # Distances are those of the model's own lattice.
    assert evaluation.rows[0]["volume_ratio"] != 1.0
    assert model.distances[0][-1] != reference.distances[0][-1]


def test_a_report_says_the_f1_of_stable_materials(potential, tmp_path):
    stable = make_phonon("hcp")
    stable.force_constants = pft.force_constants(potential, stable)
    pft.evaluate_phonons(
        potential, {"mp-1": stable}, protocol=FAST, out=tmp_path, progress=False
    )
    page = write_report(tmp_path).read_text()
    assert "F1 of the stable ones: model 1." in page
    assert "<i>ω</i><sub>avg</sub> error along the path (K)" in page
    assert "mathrm" not in page  # every formula of a table is written as HTML
