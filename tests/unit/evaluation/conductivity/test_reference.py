"""Tables of conductivities of DFT."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.evaluation.conductivity.reference import (
    find_crystal,
    read_conductivities,
)
from pft_lightning.evaluation.conductivity.score import (
    compute_score,
    relative_difference,
)
from pft_lightning.evaluation.conductivity.totals import SRE, SRME, summarise

from .conftest import row_of


def test_a_table_comes_back_as_it_was_written(modes, write_table):
    path = write_table(row_of(modes), row_of(modes, "mp-2", "CaO"))
    crystals = read_conductivities(path, 300.0)
    assert list(crystals) == ["mp-1", "mp-2"]
    one = crystals["mp-1"]
    assert (one.formula, one.space_group, one.mesh) == ("MgO", 225, (4, 4, 4))
    assert compute_score(one.conductivity, modes).srme == 0
    np.testing.assert_array_equal(one.conductivity.frequencies, modes.frequencies)


def test_the_names_of_the_leaderboard_are_read_too(modes, write_table):
    names = {
        "mp_id": "material_id",
        "kappa_TOT_ave": "kappa_tot_avg",
        "mode_kappa_TOT_ave": "mode_kappa_tot_avg",
        "weights": "mode_weights",
        "qpoints": "q_points",
        "frequencies": "ph_freqs",
    }
    row = {names[key]: value for key, value in row_of(modes).items() if key in names}
    (crystal,) = read_conductivities(write_table(row)).values()
    assert compute_score(crystal.conductivity, modes).srme == 0
    assert (crystal.formula, crystal.space_group, crystal.mesh) == ("", 0, None)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kappa_TOT_ave": [99.0]}, "add up to"),
        ({"kappa_TOT_ave": [None]}, "missing or not finite"),
        ({"weights": [1.0, 2.0]}, r"weights have the shape \(2,\)"),
        ({"mode_kappa_TOT_ave": [[1.0]]}, r"shape \(1, 1\)"),
        ({"frequencies": "abc"}, "no number"),
        ({"weights": [-1.0, 29.0, 36.0]}, "not positive"),
        ({"q_mesh": 3}, "no mesh"),
        ({"q_mesh": ["a", "b", "c"]}, "no number"),
        ({"q_mesh": {"a": 1}}, "no number"),
        ({"q_mesh": [4, 4, 4.5]}, "no mesh"),
        ({"q_mesh": [4, 4, 5]}, "has 80 q-points, and the weights add up to 64"),
        ({"q_mesh": [1500, 1500, 1500]}, "numbers from 1 to 500"),
        ({"symm.no": "Pm-3m"}, "no number"),
        ({"symm.no": 225.5}, "no number of a space group"),
        ({"symm.no": 1000}, "no number of a space group"),
        ({"mp_id": None}, "no identifier"),
        ({"mp_id": ["mp-1"]}, "no identifier"),
    ],
)
def test_a_bad_row_is_named_and_the_others_are_read(modes, write_table, change, why):
    bad = {**row_of(modes, "mp-2"), **change}
    with pytest.warns(UserWarning, match=f"row 1.*{why}"):
        crystals = read_conductivities(write_table(row_of(modes), bad))
    assert list(crystals) == ["mp-1"]
    with pytest.raises(DataFormatError, match=f"none of its 1 .*\n.*{why}"):
        read_conductivities(write_table(bad))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cannot be read as JSON"),
        (b"[1, 2]", "lacks the columns mp_id or material_id"),
        (b'{"mp_id": {"0": "a"}}', "lacks the columns kappa_TOT_ave or"),
        (b'{"mp_id": {"0"', "cannot be read as JSON"),
    ],
)
def test_what_is_no_table_is_one_sentence(tmp_path, content, why):
    path = tmp_path / "kappa.json.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(DataFormatError, match=f"kappa.json.gz.*{why}"):
        read_conductivities(path)


def test_a_missing_and_a_cut_file_are_named(tmp_path, modes, write_table):
    with pytest.raises(DataFormatError, match=r"no\.json"):
        read_conductivities(tmp_path / "no.json")
    path = write_table(row_of(modes))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataFormatError, match=r"reference\.json\.gz.*truncated"):
        read_conductivities(path)


def test_another_temperature_is_refused_with_those_there_are(modes, write_table):
    with pytest.raises(ConfigError, match=r"protocol\.temperature=400.*300 K"):
        read_conductivities(write_table(row_of(modes)), 400.0)


def test_modes_that_conduct_less_than_nothing_are_refused(modes, write_table):
    row = row_of(modes)
    changed = np.array(row["mode_kappa_TOT_ave"])
    changed[0, 1, :2] += 1e4, -1e4  # their sum is as before
    row["mode_kappa_TOT_ave"] = changed.tolist()
    with pytest.raises(DataFormatError, match="the magnitudes of the modes add up to"):
        read_conductivities(write_table(row))


def test_a_name_that_another_crystal_has_is_refused(modes, write_table):
    crystals = read_conductivities(write_table(row_of(modes)))
    with pytest.raises(DataFormatError, match=r"this is NaCl, and mp-1 .*MgO"):
        find_crystal(crystals, ["mp-1"], "NaCl", [225])


def test_another_space_group_under_the_same_name_is_told(modes, write_table):
    crystals = read_conductivities(write_table(row_of(modes)))
    with pytest.warns(UserWarning, match="mp-1: .* space group 99, .* reference 225"):
        assert find_crystal(crystals, ["mp-1"], "MgO", [99, 221]) is crystals["mp-1"]


def test_every_number_tells_that_a_reference_has_changed(modes, write_table):
    row = row_of(modes)
    found = {read_conductivities(write_table(row)).state}
    for change in (
        {"q_mesh": None},
        {"name": "MgS"},
        {"weights": row["weights"][::-1]},
        {"qpoints": (modes.q_points / 2).tolist()},
        {"mode_kappa_TOT_ave": [modes.modes[:, ::-1].tolist()]},
    ):
        found.add(read_conductivities(write_table({**row, **change})).state)
    assert len(found) == 6
    assert read_conductivities(write_table(row)).state in found


def test_a_row_at_another_temperature_stops_no_others(modes, write_table):
    warm = {**row_of(modes, "mp-2"), "temperatures": [600.0]}
    with pytest.warns(UserWarning, match=r"reference\.json.*row 1.*at 600 K alone"):
        crystals = read_conductivities(write_table(row_of(modes), warm))
    assert list(crystals) == ["mp-1"]


def test_a_crystal_is_found_by_name_or_else_by_formula_and_space_group(
    modes, write_table
):
    crystals = read_conductivities(
        write_table(
            row_of(modes),
            row_of(modes, "mp-2", "CaO"),
            row_of(modes, "mp-3", "CaO"),
        )
    )
    assert find_crystal(crystals, ["x", "mp-2"], "CaO", [99, 225]) is crystals["mp-2"]
    assert find_crystal(crystals, ["MgO"], "MgO", [225]) is crystals["mp-1"]
    assert find_crystal(crystals, [], "MgO", [221]) is None
    # Two of them: which one is meant nobody knows.
    assert find_crystal(crystals, [], "CaO", [225]) is None


@pytest.fixture(scope="module")
def phonondb(shared_data):
    folder = shared_data / "kappa"
    if not (folder / "kappas_phononDB_PBE_noNAC.json.gz").is_file():
        pytest.skip("the conductivities of phononDB are not on this machine")
    return folder


def test_dft_against_itself_is_perfect_for_every_binary(phonondb):
    crystals = read_conductivities(phonondb / "kappas_phononDB_PBE_noNAC.json.gz")
    assert len(crystals) == 103
    found = [crystal.conductivity for crystal in crystals.values()]
    assert {compute_score(one, one).srme for one in found} == {0.0}


def test_the_non_analytical_correction_makes_the_difference_that_was_published(
    phonondb,
):
    table = json.loads((phonondb / "dft_kappa_103_PBE_300K.json").read_text())
    found = [
        abs(
            relative_difference(
                row["kappa_TOT_ave_NAC"][0], row["kappa_TOT_ave_noNAC"][0]
            )
        )
        for row in table
    ]
    assert np.mean(found) == pytest.approx(0.0239, abs=5e-5)


def test_modes_with_and_without_the_non_analytical_correction(phonondb):
    file = phonondb / "kappas_phononDB_PBE_NAC.json.gz"
    if not file.is_file():
        pytest.skip("modes with the non-analytical correction are not on this machine")
    corrected = read_conductivities(file)
    without = read_conductivities(phonondb / "kappas_phononDB_PBE_noNAC.json.gz")
    found = [
        compute_score(corrected[name].conductivity, crystal.conductivity).srme
        for name, crystal in without.items()
    ]
    # Computed once with the code of k_SRME.
    assert np.mean(found) == pytest.approx(0.0584, abs=5e-5)


@pytest.mark.parametrize(
    ("model", "srme", "sre"),
    [("nequix-mp-1", 0.4461, 0.2901), ("nequix-mp-1-pft", 0.3066, 0.1689)],
)
def test_the_published_means_come_of_the_published_rows(phonondb, model, srme, sre):
    file = phonondb / "matbench_kappa103_dft_and_selected_ml.json"
    table = json.loads(file.read_text())
    found = table["models"][model]
    rows = [
        {
            "outcome": "computed" if kappa else "failed",
            SRME: 2.0 if error is None else error,
            SRE: abs(relative_difference(kappa or float("nan"), dft)),
            "structure_type": number,
        }
        for kappa, error, dft, number in zip(
            found["kappa_ml"],
            found["srme"],
            table["_base"]["kappa_dft"],
            map(str, table["_base"]["spg_nums"]),
            strict=True,
        )
    ]
    totals = summarise(rows)
    assert totals["srme"]["n"] == 103
    # Rows are rounded to four digits.
    assert totals["srme"]["mean"] == pytest.approx(srme, abs=6e-5)
    assert totals["sre"]["mean"] == pytest.approx(sre, abs=6e-5)
    parts = [totals["by_structure"][name]["srme"] for name in ("186", "216", "225")]
    assert [part["n"] for part in parts] == [33, 33, 37]
    whole = sum(part["mean"] * part["n"] for part in parts) / 103
    assert whole == pytest.approx(totals["srme"]["mean"], rel=1e-12)
