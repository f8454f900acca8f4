"""What ``pft-evaluate task=qha`` is compared with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

import pft_lightning as pft
from pft_lightning.data.supercells import SupercellOptions, build_supercell
from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation.protocols import Protocol, relax

from .conftest import COMPARED, SMALL_CELL


def save_volume(
    path: Path, a: float, element: str = "Cu", *, n: int = 2, structure: str = "fcc"
) -> None:
    cells = SupercellOptions(supercell_matrix=[n, n, n])
    phonon = build_supercell(bulk(element, structure, a=a), cells, "", 1e-5)
    n_atoms = len(phonon.supercell)
    springs = np.eye(n_atoms) - 1 / n_atoms
    phonon.force_constants = springs[..., None, None] * np.eye(3)
    phonon.save(path, settings={"force_constants": True})


def test_errors_against_curves_of_phonopy_qha(again):
    first = again("structures=copper.cif")
    heading, report = "Absolute errors against the reference", Path("run/report.html")
    assert heading not in report.read_text()
    source = Path("source")
    shutil.copytree("run/materials/copper/model-model", source)
    (same,) = again("structures=copper.cif", f"reference={source}").rows
    for name in COMPARED:
        assert same[f"reference_{name}"] == pytest.approx(first.rows[0][name], rel=1e-9)
        assert same[f"{name}_curve_mae"] < 1e-9 * abs(same[name])
    # Of a conventional cell: extensive values are of four primitive ones.
    conventional = Path("curves/copper")
    conventional.mkdir(parents=True)
    for file, factor in {
        "volume-temperature.dat": 4.0,
        "Cp-temperature.dat": 4.4,
        "thermal_expansion.dat": 0.5,
    }.items():
        own = file.replace(".dat", "_polyfit.dat") if file.startswith("Cp") else file
        table = np.loadtxt(source / own)
        np.savetxt(conventional / file, table * [1.0, factor])
    found = again("structures=copper.cif", "reference=curves")
    row = found.rows[0]
    assert row["heat_capacity_p_error"] == pytest.approx(
        -0.1 * row["heat_capacity_p"], rel=1e-6
    )
    assert row["thermal_expansion_error"] == pytest.approx(
        row["thermal_expansion"] / 2, rel=1e-6
    )
    assert "bulk_modulus_error" not in row
    assert found.summary["models"]["model"]["thermal_expansion"]["n"] == 1
    assert heading in report.read_text()
    # A volume that is no multiple is another crystal's.
    table = np.loadtxt(source / "volume-temperature.dat")
    np.savetxt(conventional / "volume-temperature.dat", table * [1.0, 1.5])
    row = again("structures=copper.cif", "reference=curves").rows[0]
    assert "Is it another crystal?" in row["error"]


def test_mode_parameters_are_compared_with_force_constants_at_three_volumes(again):
    source = Path("known/copper")
    source.mkdir(parents=True)
    model = pft.load_model("true.pair", dtype="float64")
    crystal = build_supercell(bulk("Cu", "fcc", a=3.0), SMALL_CELL, "", 1e-5)
    atoms, _ = relax(model, crystal, Protocol(relax=True, fmax=2e-3))
    for ratio in (0.994, 1.0, 1.006):
        scaled = bulk("Cu", "fcc", a=(4 * ratio * atoms.get_volume()) ** (1 / 3))
        phonon = build_supercell(scaled, SMALL_CELL, "", 1e-5)
        phonon.force_constants = pft.force_constants(model, phonon)
        phonon.save(source / f"{ratio}.yaml", settings={"force_constants": True})
    found = again("structures=copper.cif", "reference=known")
    (row,) = found.rows
    # Where a relaxation ends depends on where it starts: forces of 2e-3 eV/Å are some
    # 1e-4 of the volume. Differences of 1.2 % have an error of the square of 0.6 %.
    for name in ("gruneisen", "gruneisen_mean"):
        assert row[f"reference_{name}"] == pytest.approx(row[name], rel=1e-3)
        assert row[f"{name}_error"] == row[name] - row[f"reference_{name}"]
        mean = found.summary["models"]["model"][name]["mean"]
        assert mean == abs(row[f"{name}_error"])
    with np.load("run/materials/copper/model-model/gruneisen.npz") as stored:
        theirs, ours = stored["reference_gruneisen"], stored["gruneisen"]
        np.testing.assert_allclose(theirs, ours, rtol=3e-3)
        assert np.isfinite(theirs).sum() > 10
    page = Path("run/report.html").read_text()
    assert "reference Grüneisen parameter of modes" in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "b.yaml").unlink(), "has 2 phonopy files"),
        (
            lambda folder: (folder / "b.yaml").write_bytes(
                (folder / "a.yaml").read_bytes()
            ),
            "have the same volume",
        ),
        (lambda folder: (folder / "b.yaml").write_text("phonopy: {"), r"b\.yaml: "),
        (lambda folder: save_volume(folder / "b.yaml", 3.4, "Au"), "holds Au"),
        (lambda folder: save_volume(folder / "b.yaml", 3.4, n=3), "in 27 atoms"),
    ],
)
def test_volumes_that_make_no_reference_are_refused(run, change, message):
    folder = Path("known/copper")
    folder.mkdir(parents=True)
    for name, a in {"a": 3.3, "b": 3.35, "c": 3.4}.items():
        save_volume(folder / f"{name}.yaml", a)
    change(folder)
    with pytest.raises(DataFormatError, match=message):
        run("structures=copper.cif", "reference=known")


def test_mode_parameters_of_another_crystal_are_refused(run):
    folder = Path("known/copper")
    folder.mkdir(parents=True)
    for a in (3.3, 3.35, 3.4):
        save_volume(folder / f"{a}.yaml", a, structure="hcp")
    (row,) = run("structures=copper.cif", "reference=known").rows
    assert "has 6 branches" in row["error"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0 1\nten 2\n", "cannot be read as numbers"),
        ("0 1\n10\n", "cannot be read as numbers"),
        ("0 1\n", r"expected at least two lines"),
        ("10 1\n0 2\n", "do not ascend"),
        ("0 nan\n10 1\n", "not finite"),
        (None, "nor a folder in it has the files of phonopy-qha"),
    ],
)
def test_what_is_no_reference_is_refused(run, content, message):
    Path("curves/copper").mkdir(parents=True)
    if content is not None:
        Path("curves/copper/thermal_expansion.dat").write_text(content)
    with pytest.raises(DataFormatError, match=message):
        run("structures=copper.cif", "reference=curves")
    assert not list(Path("run").glob("materials/*"))
