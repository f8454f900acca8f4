from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from pft_lightning.errors import ShapeError
from pft_lightning.evaluation.bands import kelvin_per_thz
from pft_lightning.evaluation.folder import BANDS, ERRORS
from pft_lightning.evaluation.metrics import (
    compare,
    count_found,
    dos_error,
    summarise,
)
from pft_lightning.evaluation.properties import compute_properties
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.testing import PairPotential
from tests.conftest import CRYSTALS, CUTOFF, ELEMENTS, phonon_of, true_potential

from .conftest import einstein


PROTOCOL = Protocol(mesh=(2, 2, 2), temperatures=(0.0, 400.0, 100.0), band_points=0)


def properties(stiffness: float):
    return compute_properties(einstein(stiffness), PROTOCOL)


def test_equal_properties_have_no_error_at_all():
    row = compare(properties(3.0), properties(3.0), PROTOCOL)
    assert all(row[name] == 0.0 for name in ERRORS if name not in BANDS)
    assert row["frequency_ratio"] == 1.0


def test_errors_of_a_softer_einstein_crystal_are_those_by_hand():
    soft, hard = properties(2.0), properties(3.0)
    row = compare(soft, hard, PROTOCOL)
    factor = 15.633302  # THz per sqrt(eV/Å²/AMU)
    difference = factor * (math.sqrt(3 / 20) - math.sqrt(2 / 20))
    for name in ("commensurate_frequency_mae", "mesh_frequency_mae"):
        assert row[name] == pytest.approx(difference, rel=1e-6)
    assert row["max_frequency_error"] == pytest.approx(difference, rel=1e-6)
    assert row["max_frequency_error_K"] == pytest.approx(
        difference * 47.99243073, rel=1e-6
    )
    # Three of 8 x 9 components differ, by 1 eV/Å².
    assert row["force_constants_mae"] == pytest.approx(3 / 72, rel=1e-12)
    assert row["frequency_ratio"] == pytest.approx(math.sqrt(2 / 3), rel=1e-9)
    at = int(np.flatnonzero(hard.temperatures == 300)[0])
    assert row["entropy_error"] == pytest.approx(soft.entropy[at] - hard.entropy[at])
    assert row["reference_entropy"] == pytest.approx(hard.entropy[at])
    assert row["entropy_curve_mae"] == pytest.approx(
        np.mean(soft.entropy - hard.entropy)
    )
    # Softer modes: more entropy, less free energy.
    assert soft.entropy[at] > hard.entropy[at]
    assert soft.free_energy[at] < hard.free_energy[at]


def test_kelvin_per_thz_is_h_over_k():
    assert kelvin_per_thz() == pytest.approx(47.99243073, rel=1e-6)


def test_the_error_of_a_density_of_states_runs_from_zero_to_one():
    hard = properties(3.0)
    assert dos_error(hard, hard) == 0.0
    # Two lines, 15 smearing widths apart, share nothing.
    assert dos_error(properties(2.0), hard) == pytest.approx(1.0, abs=1e-6)
    # Shifted by d: 1 - overlap of two Gaussians = erf(d / (2 sqrt(2) sigma)).
    near = properties(2.9)
    shift = float(hard.max_frequency - near.max_frequency)
    expected = math.erf(shift / (2 * math.sqrt(2) * PROTOCOL.dos_smearing))
    # Sums over points half a width apart.
    assert dos_error(near, hard) == pytest.approx(expected, rel=2e-2)


def test_the_spectrum_distance_is_that_of_scipy_on_the_mesh_of_phonopy():
    potentials = true_potential(), PairPotential(CUTOFF, ELEMENTS)
    phonons = [phonon_of(CRYSTALS["NaCl"], potential) for potential in potentials]
    protocol = Protocol(mesh=(4, 4, 4), band_points=0)
    theirs, ours = (compute_properties(phonon, protocol) for phonon in phonons)
    spectra, counts = [], []
    for phonon in phonons:
        phonon.run_mesh([4, 4, 4], is_gamma_center=True)
        spectra.append(phonon.mesh.frequencies.ravel())
        counts.append(np.repeat(phonon.mesh.weights, 6))
    distance = wasserstein_distance(*spectra, *counts)
    assert abs(distance - wasserstein_distance(*spectra)) > 1e-3  # weights matter
    row = compare(ours, theirs, protocol)
    assert row["spectrum_w1"] == pytest.approx(distance, rel=1e-12)
    # The best of all pairs of modes.
    assert 0 < row["spectrum_w1"] <= row["mesh_frequency_mae"] + 1e-9


def test_a_material_is_unstable_below_the_threshold():
    # -1 eV/Å²: an imaginary frequency of 3.5 THz.
    row = compare(properties(-1.0), properties(3.0), PROTOCOL)
    assert row["model_unstable"]
    assert not row["reference_unstable"]
    assert row["min_frequency"] == pytest.approx(-15.633302 / math.sqrt(20), rel=1e-6)
    patient = Protocol(mesh=(2, 2, 2), instability_threshold=4.0)
    assert not compare(properties(-1.0), properties(3.0), patient)["model_unstable"]


def test_totals_have_means_medians_and_the_classification():
    truths = [(True, True), (True, True), (True, False), (False, True), (False, False)]
    rows = [
        {
            "status": "ok",
            "entropy_error": error,
            "reference_unstable": reference,
            "model_unstable": model,
        }
        for error, (reference, model) in zip([1, 2, 3, 4, 10], truths, strict=True)
    ]
    rows.append({"status": "failed", "entropy_error": 1e9})
    rows[0]["spectrum_w1"] = 0.5  # the others are of an earlier version
    totals = summarise(rows, PROTOCOL)
    assert totals["entropy_error"] == {"mean": 4.0, "median": 3.0, "n": 5}
    assert totals["dos_error"] == {"mean": None, "median": None, "n": 0}
    assert totals["spectrum_w1"] == {"mean": 0.5, "median": 0.5, "n": 1}
    assert totals["instability"] == {
        "true_positive": 2,
        "false_positive": 1,
        "true_negative": 1,
        "false_negative": 1,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "threshold": 0.3,
    }


def test_imaginary_modes_are_counted_at_each_commensurate_q_point():
    # All modes of the Einstein crystal but the three translations are at -3.5 THz.
    soft, hard = properties(-1.0), properties(3.0)
    n_imaginary = int((soft.commensurate_frequencies < -0.3).sum())
    assert n_imaginary > 3
    rows = [
        {"status": "ok", **compare(model, reference, PROTOCOL)}
        for model, reference in ((soft, hard), (soft, soft), (hard, soft))
    ]
    columns = "imaginary_modes", "reference_imaginary_modes", "imaginary_modes_of_both"
    assert [[row[name] // n_imaginary for name in columns] for row in rows] == [
        [1, 0, 0],
        [1, 1, 1],
        [0, 1, 0],
    ]
    early = {"status": "ok", "reference_unstable": False, "model_unstable": False}
    assert summarise([*rows, early], PROTOCOL)["imaginary_modes"] == {
        "model": 2 * n_imaginary,
        "reference": 2 * n_imaginary,
        "both": n_imaginary,
        "precision": 0.5,
        "recall": 0.5,
        "n": 3,
    }


def test_more_modes_than_dft_has_at_a_q_point_do_not_make_up_for_others():
    found = count_found(np.array([3, 0, 1]), np.array([1, 2, 1]))
    assert found == {"model": 4, "reference": 4, "both": 2}


def test_precision_without_any_positive_is_unknown_and_not_zero():
    row = {"status": "ok", "reference_unstable": False, "model_unstable": False}
    totals = summarise([row], PROTOCOL)
    for name in ("instability", "imaginary_modes"):
        assert totals[name]["precision"] is None
        assert totals[name]["recall"] is None


def test_properties_on_other_points_are_refused():
    finer = Protocol(mesh=(4, 4, 4), temperatures=PROTOCOL.temperatures, band_points=0)
    with pytest.raises(ShapeError, match="mesh_frequencies"):
        compare(
            compute_properties(einstein(3.0), finer, mesh_symmetry=False),
            properties(3.0),
            PROTOCOL,
        )
