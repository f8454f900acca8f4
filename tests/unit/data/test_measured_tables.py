"""Tables of measured values and phonopy's results: what is read, what is refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from ase.data import atomic_masses
from phonopy.physical_units import get_physical_units

from pft_lightning.data.measured.phonopy_results import read_results
from pft_lightning.data.measured.reading import read_measured
from pft_lightning.data.measured.rows import to_fraction
from pft_lightning.data.measured.tables import read_table
from pft_lightning.errors import DataFormatError
from pft_lightning.units import FREQUENCY_UNITS, THERMAL_UNITS
from tests.conftest import CRYSTALS, phonon_of, true_potential


HEAD = "structure,q1,q2,q3,frequency,unit,branch,degeneracy,uncertainty"
LINE = "Si,1/2,1/2,0,4.49,THz,TA,2,0.06"
HEATS = "structure,temperature,heat_capacity,unit,uncertainty"


def write(path, *lines: str):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_lines_of_frequencies_are_read_in_thz(tmp_path):
    table = write(
        tmp_path / "f.csv",
        "# by neutrons, 300 K",
        HEAD,
        LINE,
        "",
        "Si, 0, -1/3, 0.6667, 100, cm-1, 4, , 2",
        '"Si, strained",0,0,0,10,meV,,3,',
    )
    first, second, third = read_table(table, None).frequencies
    half = Fraction(1, 2)
    assert first.q_point == (half, half, 0)
    assert (first.value, first.uncertainty, first.branch) == (4.49, 0.06, None)
    assert (first.label, first.degeneracy) == ("TA", 2)
    assert first.where == f"{table}, line 3"
    # Of a wave of -1/3 no other is told than that of 2/3.
    assert second.q_point == (0, Fraction(2, 3), Fraction(2, 3))
    assert (second.branch, second.label, second.degeneracy) == (3, "", 1)
    np.testing.assert_allclose(
        (second.value, second.uncertainty), (2.99792458, 0.05995849)
    )
    assert third.structure == "Si, strained"
    assert third.uncertainty is None
    np.testing.assert_allclose(third.value, 2.4179892, rtol=1e-7)


def test_frequency_units_are_those_of_phonopy():
    constants = get_physical_units()
    # CODATA 2014 and 2018 differ in the last digits.
    for name, expected in (
        ("meV", 1e-3 / constants.THzToEv),
        ("cm-1", 1 / constants.THzToCm),
    ):
        assert FREQUENCY_UNITS[name] == pytest.approx(expected, rel=1e-7)


def test_an_option_names_the_unit_of_a_table_without_one(tmp_path):
    table = write(tmp_path / "f.csv", "structure,q1,q2,q3,frequency", "Si,0,0,0,520")
    (row,) = read_table(table, "cm-1").frequencies
    np.testing.assert_allclose(row.value, 15.58920781)


def test_heat_capacities_are_per_mole_of_cells():
    """Quartz has three formula units in a cell."""
    numbers = [14] * 3 + [8] * 6
    mass = atomic_masses[numbers].sum()
    heats = THERMAL_UNITS["heat_capacity"]
    factors = {name: unit.to_cells(numbers) for name, unit in heats.items()}
    assert factors == {
        "J/K/mol-cell": 1.0,
        "J/K/mol-formula": 3.0,
        "J/K/mol-atom": 9.0,
        "J/K/kg": pytest.approx(mass / 1000, rel=1e-14),
        "J/K/g": pytest.approx(mass, rel=1e-14),
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What phonopy writes of a crystal, in a folder of its name."""
    folder = tmp_path_factory.mktemp("phonopy") / "LiF"
    folder.mkdir()
    phonon = phonon_of(CRYSTALS["LiF"], true_potential())
    phonon.run_band_structure([np.linspace(0, 0.5, 5)[:, None] * [1, 1, 0]])
    phonon.band_structure.write_yaml(filename=folder / "band.yaml")
    phonon.run_mesh([2, 2, 2], is_gamma_center=True)
    phonon.mesh.write_yaml(filename=folder / "mesh.yaml")
    phonon.run_total_dos()
    phonon.total_dos.write(filename=folder / "total_dos.dat")
    phonon.run_thermal_properties(t_min=0, t_max=300, t_step=150)
    phonon.thermal_properties.write_yaml(filename=folder / "thermal_properties.yaml")
    return folder, phonon


def test_results_of_phonopy_are_read(results):
    folder, phonon = results
    rows = read_measured([str(folder)])
    assert rows.structures() == {"LiF"}
    band, mesh = rows.modes
    # Written with seven and ten digits.
    np.testing.assert_allclose(
        band.q_points, phonon.band_structure.qpoints[0], atol=1e-7
    )
    np.testing.assert_allclose(
        band.frequencies, phonon.band_structure.frequencies[0], atol=1e-9
    )
    np.testing.assert_allclose(mesh.frequencies, phonon.mesh.frequencies, atol=1e-9)
    np.testing.assert_allclose(band.lattice, phonon.primitive.cell, atol=1e-12)
    (density,) = rows.densities
    np.testing.assert_allclose(
        density.points, phonon.total_dos.frequency_points, atol=1e-9
    )
    np.testing.assert_allclose(density.values, phonon.total_dos.dos, atol=1e-9)
    temperatures, *_, entropies, _ = phonon.thermal_properties.thermal_properties
    found = [row for row in rows.thermal if row.quantity == "entropy"]
    assert [row.temperature for row in found] == [150, 300] == temperatures[1:].tolist()
    np.testing.assert_allclose([row.value for row in found], entropies[1:], atol=1e-6)


def changed(**cells: str) -> str:
    named = dict(zip(HEAD.split(","), LINE.split(","), strict=True)) | cells
    return ",".join(named.values())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (changed(unit="THZ"), "unit is 'THZ'; expected THz, cm-1 or meV"),
        (changed(unit="eV"), "unit is 'eV'"),
        (changed(frequency="nan"), "frequency is 'nan'; expected a frequency above 0"),
        (changed(frequency="1e999"), "frequency is '1e999'"),
        (changed(frequency="-3"), "frequency is '-3'"),
        (changed(frequency="4,49"), "has 10 cells; expected 9"),
        (changed(frequency="1_5"), "frequency is '1_5'"),
        (changed(frequency="5200"), "at most 200 THz"),
        (changed(frequency=""), "frequency is ''"),
        (changed(uncertainty="-0.1"), "uncertainty is '-0.1'; expected a number above"),
        (changed(uncertainty="0"), "uncertainty is '0'"),
        (changed(q1="0.31"), "q1 is '0.31'; expected a fraction"),
        (changed(q1="1/1000"), "denominator of at most 24"),
        (changed(q1="1/0"), "q1 is '1/0'"),
        (changed(q1="9" * 400 + "/2"), "expected a fraction"),
        (changed(q1="inf"), "q1 is 'inf'"),
        (changed(branch="0"), "branch is '0'; expected a whole number"),
        (changed(branch="1.5"), "branch is '1.5'"),
        (changed(degeneracy="two"), "degeneracy is 'two'"),
        (changed(structure=""), "structure is ''; expected the name of a crystal"),
        ("Si,1/2", "has 2 cells; expected 9"),
        ('"Si,1/2', "is no line of CSV"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, line, words):
    table = write(tmp_path / "f.csv", HEAD, LINE, line)
    with pytest.raises(DataFormatError) as caught:
        read_table(table, None)
    message = str(caught.value)
    assert message.startswith(f"{table}, line 3: ")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "has no line"),
        ([HEAD], "no value"),
        (["structure,q1,q2,frequency,unit", "Si,0,0,3,THz"], "has no column q3"),
        ([HEAD.replace("uncertainty", "error"), LINE], "the column 'error'"),
        ([HEAD.replace("branch", "unit"), LINE], "twice the column 'unit'"),
        (["structure,q1,q2,q3,frequency", "Si,0,0,0,3"], "has no column unit"),
        (
            ["structure,temperature,energy,unit", "Si,1,1,J"],
            "expected one of frequency",
        ),
        (["structure,heat_capacity,unit", "Si,1,J"], "has no column temperature"),
        (
            [HEATS, "Si,0,20,J/K/kg,"],
            "temperature is '0'; expected a temperature above",
        ),
        ([HEATS, "Si,300,-20,J/K/kg,"], "heat_capacity is '-20'"),
        ([HEATS, "Si,300,20,J/K/mol,"], "unit is 'J/K/mol'; expected J/K/mol-cell"),
        ([HEATS, "Si,300,20,J/K/g,nan"], "uncertainty is 'nan'"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(tmp_path, lines, words):
    table = write(tmp_path / "t.csv", *lines)
    with pytest.raises(DataFormatError, match=str(table)) as caught:
        read_table(table, None)
    assert words in str(caught.value)


def test_other_files_than_text_are_refused(tmp_path):
    binary = tmp_path / "t.csv"
    binary.write_bytes(b"structure\xff\xfe")
    with pytest.raises(DataFormatError, match="is no text in UTF-8"):
        read_table(binary, None)
    with pytest.raises(DataFormatError, match="no such file"):
        read_measured(str(tmp_path / "missing.csv"))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("band.yaml", lambda t: t[: len(t) // 2], "band|frequenc|YAML|has no"),
        ("band.yaml", lambda t: t.replace("natom: 2", "natom: 3"), "expected 9 of 3"),
        ("band.yaml", lambda t: t.replace("natom: 2", "natom: 2.5"), "natom is 2.5"),
        (
            "band.yaml",
            lambda t: "phonon: !!python/object:os.system\n",
            "more than data",
        ),
        ("band.yaml", lambda t: "a: &a [1]\nb: 2\n", "neither phonon nor"),
        ("band.yaml", lambda t: t.replace("phonon:", "phonon: 3\nx:"), "phonon is '3'"),
        ("mesh.yaml", lambda t: t.replace("lattice:", "cell:"), "it has no lattice"),
        ("mesh.yaml", lambda t: t.replace("frequency: ", "frequency: 1e"), "."),
        ("thermal_properties.yaml", lambda t: t.replace("kJ/mol", "eV"), "is 'eV'"),
        (
            "thermal_properties.yaml",
            lambda t: t.replace("entropy:  ", "S: "),
            "unit of",
        ),
        ("total_dos.dat", lambda t: t + "   1.0  nan\n", "expected a frequency"),
        ("total_dos.dat", lambda t: t + "   1.0  2.0\n", "do not all rise"),
        ("total_dos.dat", lambda t: "1.0 1.0\n2.0 -3.0\n", "none below 0"),
        ("total_dos.dat", lambda t: "# nothing\n", "has 0 frequencies"),
    ],
)
def test_damaged_results_are_refused_in_one_sentence(
    results, tmp_path, name, change, words
):
    text = change((results[0] / name).read_text())
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataFormatError, match=words) as caught:
        read_results(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fractions_are_those_that_digits_stand_for():
    assert to_fraction(0.6667, 4e-4) == Fraction(2, 3)
    assert to_fraction(1 / 24, 4e-4) == Fraction(1, 24)
    assert to_fraction(0.31, 4e-4) is None
    assert to_fraction(0.3333, 2e-7) is None
