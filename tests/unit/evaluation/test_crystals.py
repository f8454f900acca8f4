"""Force constants of a potential for phonopy, from crystals alone."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import ase
import ase.io
import numpy as np
import phonopy
import pytest
import yaml
from ase.build import bulk

import pft_lightning as pft
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation import crystals, processes
from pft_lightning.evaluation.crystals import compute_crystals
from pft_lightning.evaluation.protocols import PROTOCOLS, Protocol
from pft_lightning.evaluation.reference import read_reference

from .conftest import make_phonon


FAST = Protocol(mesh=(2, 2, 2), temperatures=(0.0, 300.0, 300.0), band_points=0)
CELLS = SupercellOptions(supercell_matrix=[1, 1, 1])
DOUBLE = SupercellOptions(supercell_matrix=[2, 1, 1])
FORMATS = ("phonopy_params.yaml", "FORCE_CONSTANTS", "force_constants.hdf5")


@pytest.fixture
def rocksalt_file(tmp_path) -> Path:
    path = tmp_path / "NaCl.cif"
    ase.io.write(path, bulk("NaCl", "rocksalt", a=5.2, cubic=True))
    return path


@pytest.fixture
def compute(potential, tmp_path):
    def run(structures, **options):
        options = {"protocol": FAST, "supercell": CELLS, "progress": False, **options}
        out = options.pop("out", tmp_path / "out")
        return compute_crystals({"model": potential}, structures, out, **options)

    return run


def load(folder: Path, name: str, **options) -> phonopy.Phonopy:
    return phonopy.load(folder / name, log_level=0, **options)


@pytest.mark.parametrize("form", FORMATS)
def test_phonopy_loads_the_exact_force_constants_in_every_form(
    compute, potential, rocksalt_file, form, tmp_path
):
    result = compute(rocksalt_file, formats=form, supercell=DOUBLE)
    folder = result.files / "NaCl"
    if form == "phonopy_params.yaml":
        phonon = load(folder, form)
    else:
        phonon = load(folder, "phonopy.yaml", force_constants_filename=folder / form)
    found = phonon.force_constants
    assert found.shape == (2, 16, 3, 3)
    # All 48 columns of the Hessian against the two that were computed; text has 15
    # digits after the point.
    full = pft.force_constants(potential, phonon, method="full")
    np.testing.assert_allclose(found, full, rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-13)


def test_frequencies_are_those_of_finite_differences(compute, potential, rocksalt_file):
    folder = compute(rocksalt_file).files / "NaCl"
    phonon = load(folder, "phonopy_params.yaml")
    points = [[0, 0, 0], [0.5, 0.5, 0], [0.1, 0.2, 0.3]]
    analytic = phonon.run_qpoints(points).frequencies
    fine, coarse = (
        pft.force_constants(
            potential, phonon, method="finite_displacement", displacement=length
        )
        for length in (5e-4, 1e-3)
    )
    phonon.force_constants = (4 * fine - coarse) / 3
    # The error in the square of the displacement is gone; that of rounding stays,
    # which the square root magnifies where acoustic frequencies vanish.
    np.testing.assert_allclose(
        phonon.run_qpoints(points).frequencies, analytic, rtol=0, atol=1e-5
    )
    assert np.abs(analytic[0, :3]).max() < 1e-3


def test_bands_and_thermal_properties_lie_beside_and_the_table_sums_up(
    compute, rocksalt_file
):
    protocol = dataclasses.replace(FAST, band_points=3)
    result = compute(rocksalt_file, formats=FORMATS, protocol=protocol)
    folder = result.files / "NaCl"
    assert {path.name for path in folder.iterdir()} == {
        *FORMATS,
        *("band.yaml", "thermal_properties.yaml", "total_dos.dat"),
    }
    thermal = yaml.safe_load((folder / "thermal_properties.yaml").read_text())
    (row,) = csv.DictReader((result.folder / "per_material.csv").open())
    last = thermal["thermal_properties"][-1]
    assert last["temperature"] == 300
    # phonopy writes seven digits after the point.
    assert float(row["entropy"]) == pytest.approx(last["entropy"], abs=1e-6)
    assert float(row["heat_capacity"]) == pytest.approx(last["heat_capacity"], abs=1e-6)
    assert (row["hvps"], row["n_atoms"], row["n_primitive"]) == ("2", "8", "2")
    # Forces on centres of inversion are rounding.
    assert float(row["max_force"]) < 1e-12
    assert len(yaml.safe_load((folder / "band.yaml").read_text())["phonon"]) > 6


def test_files_are_a_reference_again(compute, potential, rocksalt_file):
    folder = compute(rocksalt_file).files
    result = pft.evaluate_phonons(potential, folder, protocol=FAST, progress=False)
    (row,) = result.rows
    assert row["name"] == "NaCl"
    assert row["force_constants_mae"] < 1e-13


def test_a_phonopy_file_keeps_its_supercell_and_born_charges(
    compute, potential, tmp_path
):
    phonon = make_phonon("wurtzite")
    charges = np.einsum("i,ab->iab", [2.0, 2.0, -2.0, -2.0], np.eye(3))
    phonon.nac_params = {"born": charges, "dielectric": 4 * np.eye(3), "factor": 14.4}
    phonon.generate_displacements()
    (tmp_path / "ZnO").mkdir()
    phonon.save(tmp_path / "ZnO" / "phonopy_disp.yaml")
    result = compute(
        [tmp_path / "ZnO", tmp_path / "ZnO" / "phonopy_disp.yaml"],
        supercell=SupercellOptions(),
    )
    assert [row["name"] for row in result.rows] == ["ZnO", "ZnO (2)"]
    for name in ("ZnO", "ZnO (2)"):
        written = result.files / name / "phonopy_params.yaml"
        again = read_reference(written)
        assert again.supercell_matrix.tolist() == phonon.supercell_matrix.tolist()
        np.testing.assert_allclose(again.nac_params["born"], charges, atol=1e-12)
        expected = pft.force_constants(potential, phonon, method="full")
        np.testing.assert_allclose(again.force_constants, expected, atol=1e-12)


def test_a_supercell_that_is_asked_for_wins_over_that_of_a_phonopy_file(
    compute, tmp_path
):
    phonon = make_phonon("rocksalt, conventional with F")
    phonon.save(tmp_path / "NaCl.yaml", settings={"force_sets": False})
    (own,) = compute(tmp_path / "NaCl.yaml", supercell=SupercellOptions()).rows
    (asked,) = compute(tmp_path / "NaCl.yaml", supercell=CELLS).rows
    # 5.2 Å long; ten need twice.
    long = SupercellOptions(min_length=10)
    (longer,) = compute(tmp_path / "NaCl.yaml", supercell=long).rows
    assert (own["n_atoms"], asked["n_atoms"], longer["n_atoms"]) == (16, 8, 64)
    assert own["n_primitive"] == asked["n_primitive"] == longer["n_primitive"] == 2


def test_a_relaxation_goes_before_where_the_protocol_says_so(compute, tmp_path):
    atoms = bulk("ZnO", "wurtzite", a=3.2, c=5.2, u=0.38)
    ase.io.write(tmp_path / "ZnO.vasp", atoms, format="vasp")
    (as_it_is,) = compute(tmp_path / "ZnO.vasp").rows
    protocol = dataclasses.replace(
        PROTOCOLS["mdr_analytic"],
        **{"mesh": (2, 2, 2), "band_points": 0, "volume_limits": (0.1, 10)},
    )
    (relaxed,) = compute(tmp_path / "ZnO.vasp", protocol=protocol).rows
    assert as_it_is["volume_ratio"] == 1.0
    assert as_it_is["max_force"] > 0.1
    assert relaxed["status"] == "ok", relaxed["error"]
    assert relaxed["relax_steps"] > 0
    assert relaxed["max_force"] <= protocol.fmax


def test_bad_crystals_are_counted_and_named_and_the_others_computed_once(
    compute, rocksalt_file, tmp_path, monkeypatch
):
    folder = tmp_path / "in"
    folder.mkdir()
    text = rocksalt_file.read_text()
    (folder / "cut.cif").write_text(text[: len(text) // 2])
    (folder / "empty.cif").touch()
    (folder / "gold.cif").write_text(text.replace("Na", "Au"))
    rocksalt_file.rename(folder / "good.cif")
    result = compute(folder)
    failures = {f["name"]: f["error"] for f in result.summary["failures"]}
    assert set(failures) == {"cut", "empty", "gold"}
    assert "cut.cif" in failures["cut"]
    assert "is empty" in failures["empty"]
    assert "Au" in failures["gold"]
    counts = result.summary["counts"]
    assert (counts["materials"], counts["unreadable"]) == (4, 2)
    assert counts["failed"] == {"model": 3}
    stored = json.loads((result.folder / "metrics.json").read_text())
    assert stored["failures"] == result.summary["failures"]

    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(crystals, "compute_phonons", refuse)
    again = compute(folder)
    assert [row["status"] for row in again.rows] == [r["status"] for r in result.rows]


def test_an_interrupted_run_goes_on_and_what_changed_is_computed_again(
    compute, rocksalt_file, tmp_path, monkeypatch
):
    other = tmp_path / "MgO.cif"
    ase.io.write(other, bulk("MgO", "rocksalt", a=4.2, cubic=True))
    computed: list[str] = []
    original = crystals.compute_phonons

    def counting(model, cells, *arguments, **options):
        computed.append(cells.unitcell.formula)
        if stop and len(computed) > 1:
            raise KeyboardInterrupt
        return original(model, cells, *arguments, **options)

    monkeypatch.setattr(crystals, "compute_phonons", counting)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        compute([rocksalt_file, other])
    stop = False
    compute([rocksalt_file, other])
    assert computed == ["Cl4Na4", "Mg4O4", "Mg4O4"]
    (tmp_path / "out" / "materials" / "NaCl" / "total_dos.dat").unlink()
    compute([rocksalt_file, other])
    assert computed[3:] == ["Cl4Na4"]
    compute([rocksalt_file, other], supercell=DOUBLE)
    assert computed[4:] == ["Cl4Na4", "Mg4O4"]
    compute([rocksalt_file, other], supercell=DOUBLE, formats="FORCE_CONSTANTS")
    assert len(computed) == 8
    names = {p.name for p in (tmp_path / "out" / "materials" / "NaCl").iterdir()}
    assert "phonopy_params.yaml" not in names


def test_processes_share_the_crystals(compute, rocksalt_file, tmp_path, monkeypatch):
    other = tmp_path / "MgO.cif"
    ase.io.write(other, bulk("MgO", "rocksalt", a=4.2, cubic=True))
    first = compute(rocksalt_file)  # what the other process would send
    sent = json.loads((first.folder / "materials" / "NaCl.json").read_text())
    monkeypatch.setattr(processes, "rank", lambda: (1, 2))
    monkeypatch.setattr(processes, "gather", lambda own: [{"NaCl": sent}, own])
    result = compute([rocksalt_file, other], out=tmp_path / "shared")
    assert not (tmp_path / "shared" / "materials" / "NaCl").exists()
    assert (tmp_path / "shared" / "materials" / "MgO").is_dir()
    assert [row["name"] for row in result.rows] == ["NaCl", "MgO"]


def test_a_molecule_in_a_box_is_no_crystal(compute, rocksalt_file, tmp_path):
    boxed = ase.Atoms("NaCl", [[0, 0, 0], [0, 0, 2.4]], cell=[8, 8, 8], pbc=False)
    ase.io.write(tmp_path / "boxed.extxyz", boxed)
    found = compute([str(rocksalt_file), str(tmp_path / "boxed.extxyz")])
    assert [row["status"] for row in found.rows] == ["ok", "failed"]
    assert "is a molecule, periodic along no axis" in found.rows[1]["error"]


def test_a_long_name_is_cut_and_stays_its_own(compute, rocksalt_file, tmp_path):
    names = [f"{'L' * 240}{end}.cif" for end in "ab"] + ["晶" * 80 + ".cif"]
    for name in names:
        (tmp_path / name).write_text(rocksalt_file.read_text())
    found = compute([str(tmp_path / name) for name in names])
    assert [row["status"] for row in found.rows] == ["ok"] * 3
    assert len({row["name"] for row in found.rows}) == 3
    assert max(len(row["name"].encode()) for row in found.rows) < 200


def test_files_of_crystals_that_are_not_asked_for_any_more_are_named(
    compute, rocksalt_file, tmp_path
):
    other = tmp_path / "other.cif"
    other.write_text(rocksalt_file.read_text())
    compute([str(rocksalt_file), str(other)])
    with pytest.warns(UserWarning, match=r"1 folders in .* no crystal.*\(other\)"):
        compute(rocksalt_file)


def test_nothing_that_matches_is_an_error(compute, tmp_path):
    with pytest.raises(DataFormatError, match="no such file or folder"):
        compute(tmp_path / "nope.cif")
    (tmp_path / "in").mkdir()
    with pytest.raises(DataFormatError, match="no structure data in it"):
        compute(tmp_path / "in")
