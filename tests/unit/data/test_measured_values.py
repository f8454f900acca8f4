"""Measured values and their crystals: what an item is, and what does not fit."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule

from pft_lightning import keys
from pft_lightning.data.measured.items import Uncertainties
from pft_lightning.data.measured.source import MeasuredValues
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.errors import DataFormatError
from tests.conftest import CRYSTALS, CUTOFF, phonon_of, true_potential


HEAD = "structure,q1,q2,q3,frequency,unit,branch,degeneracy,uncertainty"
HEATS = "structure,temperature,heat_capacity,unit,uncertainty"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "Si").mkdir()
    ase.io.write(tmp_path / "Si" / "POSCAR", CRYSTALS["Si"])
    ase.io.write(tmp_path / "LiF.cif", bulk("LiF", "rocksalt", 4.9, cubic=True))
    return tmp_path


def values_of(folder, *lines: str, head: str = HEAD, **options) -> MeasuredValues:
    table = folder / "table.csv"
    table.write_text("\n".join([head, *lines]) + "\n")
    options = {"supercell": SupercellOptions(min_length=6.0), "mesh": 20.0} | options
    spec = [str(table), *options.pop("more", [])]
    return MeasuredValues(spec, str(folder), CUTOFF, **options)


def test_an_item_is_a_quantity_in_the_smallest_cell_that_holds_it(folder):
    found = values_of(
        folder,
        "Si,1/2,1/2,0,4.5,THz,TA,2,",
        "LiF,0,0,0,9,THz,,2,",
        "Si,0,1/3,2/3,8,THz,,,",
        "Si,0.5,0.5,0,13.9,THz,TO,2,",
        "Si,0,-1/3,-2/3,9,THz,,,",
    )
    # q and -q are one; the cubic cell of LiF has a primitive one of two atoms.
    assert found.names == ["LiF q=0,0,0", "Si q=1/2,1/2,0", "Si q=0,1/3,2/3"]
    assert found.n_atoms.tolist() == [2, 4, 6]
    measured = found.item(1).measured
    assert measured.values.tolist() == [4.5, 13.9]
    assert measured.labels == ("TA", "TO")
    data = found.data(1)
    assert data[keys.QUANTITY] == "frequencies"
    assert data[keys.FORCE_CONSTANTS].n_primitive == 2
    assert not data[keys.FORCES_MASK].any()
    kept, dropped = found.select([14])
    assert kept.names == found.names[1:]
    assert dropped == found.names[:1]


def test_thermal_properties_are_of_a_supercell_per_mole_of_cells(folder):
    head = HEATS.replace("heat_capacity", "entropy")
    found = values_of(folder, "Si,300,18.8,J/K/mol-atom,0.1", head=head)
    assert found.names == ["Si entropy"]
    item = found.item(0)
    np.testing.assert_allclose(item.measured.values, [37.6])
    np.testing.assert_allclose(item.measured.weights, [1])
    # The faces of the primitive cell are 3.1 Å apart.
    assert item.record.n_atoms == 2 * 2**3
    matrix = {"supercell": SupercellOptions(supercell_matrix=(1, 1, 2))}
    again = values_of(folder, "Si,300,18.8,J/K/mol-atom,0.1", head=head, **matrix)
    assert again.n_atoms.tolist() == [4]


def test_results_of_phonopy_are_those_of_the_crystal_of_their_folder(folder):
    phonon = phonon_of(CRYSTALS["Si"], true_potential())
    phonon.run_band_structure([np.linspace(0, 0.5, 11)[:, None] * [1, 1, 0]])
    path = folder / "Si" / "band.yaml"
    phonon.band_structure.write_yaml(filename=path)
    found = values_of(folder, "Si,1/2,1/2,0,4.5,THz,TA,2,", more=[str(path)])
    # Of 0, 1/20, ..., 1/2 those of denominators of at most eight; of the two values
    # of the last one the table counts.
    points = ["1/2,1/2,0", "0,0,0", "1/5,1/5,0", "1/4,1/4,0", "2/5,2/5,0"]
    assert found.names == [f"Si q={point}" for point in points]
    sizes = [len(found.item(i).measured.values) for i in range(5)]
    assert sizes == [1, 3, 6, 6, 6]
    assert any("6 of 11 q-points need more than 8" in text for _, text in found.skipped)


def test_q_points_are_turned_where_lattice_vectors_are_chosen_otherwise(folder):
    phonon = phonon_of(CRYSTALS["Si"], true_potential())
    other = CRYSTALS["Si"].copy()
    change = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    other.set_cell(change @ other.cell.array)
    other.wrap()
    ase.io.write(folder / "Si" / "POSCAR", other)
    path = folder / "Si" / "band.yaml"
    phonon.run_band_structure([[[0.25, 0.5, 0.0]]])
    phonon.band_structure.write_yaml(filename=path)
    (name,) = MeasuredValues(
        str(path),
        str(folder / "Si"),
        CUTOFF,
        supercell=SupercellOptions(min_length=6.0),
        mesh=20.0,
    ).names
    # b1 + b2 of a wave of 1/4, 1/2 along the new first vector a1 + a2; -q is the same.
    assert name == "Si q=1/4,1/2,0"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["Ge,0,0,0,9,THz,,,"], "Ge: values are given of this crystal, .* LiF, Si"),
        (["Si,1/9,0,0,9,THz,,,"], r"line 2: the q-point 1/9,0,0 needs a cell of 9 "),
        (["Si,0,0,0,15,THz,,4,"], "has 4 modes with this line; 2 atoms have 3 there"),
        (["Si,0,0,0,15,THz,3,,"], "branch is 3 .* has the modes 4 to 6"),
        (["Si,1/2,0,0,15,THz,6,2,"], "branch is 6 with a degeneracy of 2"),
        (
            ["Si,1/2,0,0,3,THz,1,2,", "Si,1/2,0,0,3,THz,2,,"],
            "branch 2 .* is there twice",
        ),
        (["Si,1/2,0,0,3,THz,1,,", "Si,1/2,0,0,5,THz,LA,,"], "line 3: has no number of"),
    ],
)
def test_values_that_fit_no_crystal_are_refused_in_one_sentence(folder, lines, words):
    with pytest.raises(DataFormatError, match=words) as caught:
        values_of(folder, *lines)
    assert "\n" not in str(caught.value)


def test_a_temperature_twice_is_refused(folder):
    line = "Si,300,19,J/K/mol-atom,"
    with pytest.raises(DataFormatError, match="line 3: heat_capacity of Si at 300 K"):
        values_of(folder, line, line, head=HEATS)


def test_results_of_another_crystal_are_refused(folder):
    phonon = phonon_of(CRYSTALS["MgO"], true_potential(), 2)
    phonon.run_band_structure([[[0.0, 0.0, 0.5]]])
    path = folder / "Si" / "band.yaml"
    phonon.band_structure.write_yaml(filename=path)
    with pytest.raises(
        DataFormatError, match=r"band\.yaml: is of 2 atoms with lattice"
    ):
        values_of(folder, "Si,0,0,0,15,THz,,3,", more=[str(path)])


def test_crystals_that_nobody_names_are_left_out_with_a_remark(folder):
    found = values_of(folder, "Si,0,0,0,15,THz,,3,")
    ((source, reason),) = found.skipped
    assert source.endswith("LiF.cif")
    assert "no measured value names 'LiF'" in reason


def test_a_crystal_has_one_file_and_is_periodic(folder):
    ase.io.write(folder / "Si.cif", CRYSTALS["Si"])
    with pytest.raises(DataFormatError, match="is called 'Si' like"):
        values_of(folder, "Si,0,0,0,15,THz,,3,")
    (folder / "Si.cif").unlink()
    ase.io.write(folder / "H2O.xyz", molecule("H2O"), format="extxyz")
    with pytest.raises(DataFormatError, match="periodic along 0 axes"):
        values_of(folder, "H2O,0,0,0,100,THz,,,")


def test_weights_are_inverse_uncertainties_of_mean_one():
    known = [0.1, None, 0.4, 0.1]
    uncertainties = Uncertainties.of(known)
    weights = uncertainties.weights(known)
    assert weights.mean() == pytest.approx(1)
    # One that is not known counts as the median.
    np.testing.assert_allclose(weights / weights[0], [1, 1, 0.25, 1])
    np.testing.assert_array_equal(Uncertainties.of([None]).weights([None]), [1])
