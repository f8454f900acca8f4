"""``pft-evaluate task=measured`` from its configuration to its files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms
from scipy.stats import wasserstein_distance

import pft_lightning as pft
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.evaluation.measured.runner import evaluate_measured
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.runs.evaluate import check_evaluation
from tests.conftest import CRYSTALS

from .conftest import ALL, FREQUENCIES, start


# The Hessian is the same to rounding; square roots and phonopy's symmetrising keep it.
ROUNDING = 1e-9


def phonon_of(name: str, model, cell=None) -> Phonopy:
    """Phonons of a crystal as phonopy computes them, alone."""
    atoms = CRYSTALS[name]
    unit = PhonopyAtoms(
        numbers=atoms.numbers,
        cell=atoms.cell.array if cell is None else cell,
        scaled_positions=atoms.get_scaled_positions(),
        masses=atoms.get_masses(),  # those of phonopy differ by 1e-5
    )
    phonon = Phonopy(unit, np.eye(3, dtype=int) * 2, primitive_matrix=np.eye(3))
    phonon.force_constants = pft.force_constants(model, phonon)
    return phonon


def values_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "values.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize(("label", "file"), [("model", "true"), ("base", "base")])
def test_values_of_models_are_those_of_phonopy(finished, label, file):
    model = pft.load_model(f"{file}.pair", dtype="float64")
    mgo, nacl = phonon_of("LiF", model), phonon_of("NaCl", model)
    mgo.run_qpoints([[0, 0, 0], [0.5, 0, 0]])
    nacl.run_qpoints([[0.5, 0.5, 0]])
    gamma, zone_edge = mgo.qpoints.frequencies
    mgo.run_mesh([3, 3, 3], is_gamma_center=True)
    mgo.run_thermal_properties(temperatures=[300, 100], cutoff_frequency=1e-3)
    found = values_of(finished)
    computed = [float(row[f"computed_{label}"]) for row in found]
    assert [row["name"] for row in found] == ["LiF"] * 5 + ["NaCl"]
    assert computed[0] == pytest.approx(gamma[3:].mean(), rel=ROUNDING)
    # Of all modes those that are nearest in ascending order.
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    nearest = min(
        pairs, key=lambda p: abs(zone_edge[p[0]] - 5) + abs(zone_edge[p[1]] - 6)
    )
    np.testing.assert_allclose(computed[1:3], zone_edge[[*nearest]], rtol=ROUNDING)
    heats = mgo.thermal_properties.heat_capacity
    np.testing.assert_allclose(computed[3:5], heats, rtol=ROUNDING)
    assert computed[5] == pytest.approx(
        nacl.qpoints.frequencies[0][:2].mean(), rel=ROUNDING
    )
    for row, value in zip(found, computed, strict=True):
        difference = float(row[f"difference_{label}"])
        assert difference == pytest.approx(value - float(row["measured"]), abs=1e-12)


def test_measured_values_are_in_the_units_of_the_house(finished):
    rows = values_of(finished)
    assert [row["unit"] for row in rows] == ["THz"] * 3 + ["J/K/mol-cell"] * 2 + ["THz"]
    # Two atoms in a cell.
    assert [float(row["measured"]) for row in rows[3:5]] == [40.0, 16.0]
    assert [row["temperature"] for row in rows[3:5]] == ["300.0", "100.0"]
    assert float(rows[5]["measured"]) == pytest.approx(2.99792458, rel=1e-12)
    assert [row["uncertainty"] != "" for row in rows] == [1, 1, 0, 1, 0, 1]
    assert float(rows[3]["uncertainty"]) == 1.0
    places = [(row["q_point"], row["branch"]) for row in rows]
    assert places[0] == ("0,0,0", "TO")
    assert places[5] == ("1/2,1/2,0", "1")


def test_means_are_over_values_and_the_spectrum_distance_is_that_of_scipy(finished):
    rows, totals = values_of(finished), metrics_of(finished)["models"]["model"]
    differences = np.array([float(row["difference_model"]) for row in rows])
    is_frequency = np.array([row["quantity"] == "frequencies" for row in rows])
    found = totals["frequencies_mae"]
    assert found["n"] == 4
    mean = np.abs(differences[is_frequency]).mean()
    assert found["mean"] == pytest.approx(mean, rel=1e-12)
    assert totals["heat_capacity_mae"]["n"] == 2
    sizes = np.array([float(row["uncertainty"] or "nan") for row in rows])
    known = is_frequency & np.isfinite(sizes)
    weighed = totals["frequencies_over_uncertainty"]
    assert weighed["n"] == 3
    mean = (np.abs(differences) / sizes)[known].mean()
    assert weighed["mean"] == pytest.approx(mean, rel=1e-12)
    assert "entropy_mae" not in totals

    phonon = phonon_of("LiF", pft.load_model("true.pair", dtype="float64"))
    phonon.run_mesh([3, 3, 3], is_gamma_center=True)
    points = np.arange(0.0, 9.1, 0.5)
    distance = wasserstein_distance(
        phonon.mesh.frequencies.ravel(),
        points,
        np.repeat(phonon.mesh.weights, 6),
        points**2 * (9 - points),  # of the same pitch, and zero at both ends
    )
    # The file has four digits.
    assert totals["spectrum_w1"]["mean"] == pytest.approx(distance, rel=1e-6)
    assert totals["spectrum_w1"]["n"] == 1


def compare(out: str, *labels: str, files="modes.csv", **options):
    """Compare ``true.pair``, or potentials of these names, without a report."""
    return evaluate_measured(
        {label: pft.load_model(f"{label}.pair") for label in labels or ("true",)},
        files,
        options.pop("structures", ["LiF/POSCAR", "NaCl/POSCAR"]),
        out,
        progress=False,
        **options,
    )


def test_an_evaluation_that_is_gone_on_with_computes_what_is_missing_only(inputs):
    def times() -> dict[str, int]:
        files = sorted(Path("out/materials").glob("*.json"))
        return {file.stem: file.stat().st_mtime_ns for file in files}

    compare("out")
    before, rows = times(), values_of(Path("out"))
    compare("out")
    assert times() == before
    # One value of a crystal is another now, and a comment moves all lines.
    changed = FREQUENCIES.replace(",100,", ",110,")
    Path("modes.csv").write_text(f"# neutrons\n{changed}")
    compare("out")
    assert {name for name, time in times().items() if time != before[name]} == {"NaCl"}
    after = values_of(Path("out"))
    assert after[:3] == rows[:3]
    assert float(after[3]["measured"]) == pytest.approx(3.297717038)
    assert after[3]["computed_true"] == rows[3]["computed_true"]


def test_each_model_relaxes_the_crystal_for_itself(inputs):
    Path("raman.csv").write_text("\n".join(FREQUENCIES.splitlines()[:2]))
    found = compare(
        "relaxed",
        *("base", "true"),
        files="raman.csv",
        structures="LiF/POSCAR",
        protocol=Protocol(relax=True, fmax=1e-3),
    )
    rows = {row["model"]: row for row in found.rows}
    ratio = rows["true"]["volume_ratio"]
    assert abs(ratio - rows["base"]["volume_ratio"]) > 1e-3
    assert rows["true"]["relax_steps"] > 0
    model = pft.load_model("true.pair", dtype="float64")
    # Cubic: the lattice only grows, or shrinks.
    phonon = phonon_of("LiF", model, CRYSTALS["LiF"].cell.array * ratio ** (1 / 3))
    phonon.run_qpoints([[0, 0, 0]])
    expected = phonon.qpoints.frequencies[0][3:].mean()
    computed = float(values_of(Path("relaxed"))[0]["computed_true"])
    # Shear that symmetry forbids is rounding of the relaxation.
    assert computed == pytest.approx(expected, rel=1e-7)


def test_finite_displacements_come_near_to_analytic_derivatives(inputs):
    compare("analytic")
    protocol = Protocol(method="finite_displacement", displacement=1e-3)
    compare("differences", protocol=protocol)
    analytic, found = (
        [float(row["computed_true"]) for row in values_of(Path(out))]
        for out in ("analytic", "differences")
    )
    # Their error is of second order in the displacement.
    np.testing.assert_allclose(found, analytic, rtol=1e-4)
    assert found != analytic


def test_an_ase_calculator_is_compared_by_its_forces(tmp_path):
    ase.io.write(tmp_path / "Cu.cif", ase.build.bulk("Cu"))
    table = tmp_path / "modes.csv"
    table.write_text("structure,q1,q2,q3,frequency,unit\nCu,1/2,1/2,0,7.2,THz\n")
    evaluated = evaluate_measured(
        {"emt": EMT()},
        table,
        tmp_path / "Cu.cif",
        tmp_path / "out",
        protocol="mdr",
        progress=False,
    )
    (row,) = evaluated.rows
    assert row["status"] == "ok"
    assert row["frequencies_mae"] < 2.0  # THz, of a potential of 1996
    assert row["hvps"] == 6


def test_a_model_that_does_not_know_an_element_fails_alone(inputs):
    found = compare("out", "few", "true")
    check_evaluation(found.summary)
    rows = {(row["name"], row["model"]): row for row in found.rows}
    assert rows["NaCl", "few"]["status"] == "failed"
    assert rows["LiF", "few"]["status"] == rows["NaCl", "true"]["status"] == "ok"
    (failure,) = found.summary["failures"]
    assert (failure["name"], failure["model"]) == ("NaCl", "few")
    assert "no parameters for Na" in failure["error"]
    last = values_of(found.folder)[-1]
    assert last["computed_few"] == ""
    assert last["computed_true"] != ""


def test_a_crystal_that_cannot_be_used_does_not_end_the_others(inputs):
    Path("NaCl/POSCAR").write_text("NaCl\n1.0\n5 0 0\n")
    found = compare("out")
    assert {row["name"] for row in found.rows if row["status"] == "ok"} == {"LiF"}
    (failure,) = found.summary["failures"]
    assert failure["name"] == "NaCl"
    assert "NaCl/POSCAR" in failure["error"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["measured.files=null"], "task=measured needs measured.files=PATH"),
        (["structures=null"], "task=measured needs structures=PATH"),
        (["structures=LiF/POSCAR"], "NaCl: values are given .* Add its file to struct"),
        (["phonons=LiF"], "phonons is given, and task=measured"),
        (["upstream=frames.xyz"], "upstream is given, and task=measured"),
        (["reference=moduli.json"], "reference=moduli.json: task=measured"),
        (["task=elastic"], "measured.files=.*only task=measured compares"),
        (["task=qha", "measured.files=null", "reference=nowhere"], "nowhere"),
        (["task=compare", "phonons=LiF"], "structures="),
        (["measured.files=missing.csv"], "missing.csv"),
        (["measured.max_order=0"], "measured.max_order=0"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(inputs, overrides, message):
    with pytest.raises((ConfigError, DataFormatError), match=message) as caught:
        start(*overrides, values=ALL)
    assert "Traceback" not in str(caught.value)


def test_messages_name_the_options_of_this_command(inputs):
    Path("modes.csv").write_text(FREQUENCIES.replace("NaCl,1/2", "NaCl,1/9"))
    found = compare("out")
    (failure,) = found.summary["failures"]
    assert "modes.csv, line 5" in failure["error"]
    assert "Raise measured.max_order" in failure["error"]
    Path("bare.csv").write_text("structure,q1,q2,q3,frequency\nLiF,0,0,0,8\n")
    with pytest.raises(DataFormatError, match=r"or give measured\.frequency_unit"):
        compare("out", files="bare.csv")


def test_what_is_left_out_is_said(inputs):
    """q-points that need large cells (odd fourteenths), and crystals without values."""
    phonon = phonon_of("LiF", pft.load_model("true.pair"))
    phonon.run_band_structure([np.linspace([0, 0, 0], [0.5, 0.5, 0], 8)])
    phonon.band_structure.write_yaml(filename="LiF/band.yaml")
    with pytest.warns(UserWarning, match="q-points need") as caught:
        compare("out", files="LiF/band.yaml", structures=".")
    said = "\n".join(str(warning.message) for warning in caught)
    assert "3 of 8 q-points need more than 8 primitive cells" in said
    assert "measured.max_order" in said
    assert "no measured value names 'NaCl'" in said
