"""``pft-evaluate task=qha`` from its configuration on."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import ase.io
import numpy as np
import phonopy
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from phonopy import PhonopyQHA

import pft_lightning as pft
from pft_lightning.cli import common  # noqa: F401  (registers the resolvers)
from pft_lightning.errors import ConfigError, QuasiHarmonicError
from pft_lightning.evaluation import processes
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.evaluation.qha import runner
from pft_lightning.evaluation.qha.fit import fit_volumes
from pft_lightning.evaluation.qha.options import QhaOptions
from pft_lightning.evaluation.qha.runner import evaluate_qha
from pft_lightning.evaluation.qha.volumes import VolumePoint, compute_volume
from pft_lightning.runs.evaluate import check_evaluation
from pft_lightning.testing import PairPotential

from .conftest import COMPARED, SMALL_CELL


def volumes(name: str = "copper", label: str = "model") -> list[dict]:
    files = sorted(Path(f"run/materials/{name}/model-{label}").glob("volume-*.json"))
    return [json.loads(file.read_text())["point"] for file in files]


def curve(name: str) -> np.ndarray:
    return np.loadtxt(f"run/materials/copper/model-model/{name}").T


def test_phonopys_own_calculation_from_the_same_force_constants_is_met(again, capsys):
    found = again("structures=copper.cif")
    check_evaluation(found.summary)
    (row,) = found.rows
    temperatures = np.arange(0, 440, 20.0)
    thermal = []
    points = volumes()
    for point in points:
        file = f"run/materials/copper/model-model/volume-{point['ratio']:.6f}.yaml"
        phonon = phonopy.load(file, log_level=0)
        phonon.run_mesh([4, 4, 4], is_gamma_center=True)
        phonon.run_thermal_properties(temperatures=temperatures, cutoff_frequency=1e-3)
        thermal.append(phonon.thermal_properties.thermal_properties)
        assert phonon.primitive.volume == pytest.approx(point["volume"], rel=1e-12)
    free_energy, entropy, heat_capacity = np.array(thermal)[:, 1:].transpose(1, 2, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to be called by another name
        theirs = PhonopyQHA(
            [point["volume"] for point in points],
            [point["energy"] for point in points],
            temperatures=temperatures,
            free_energy=free_energy,
            cv=heat_capacity,
            entropy=entropy,
        )
    expected = {
        "thermal_expansion": theirs.thermal_expansion,
        "volume": theirs.volume_temperature,
        "bulk_modulus": theirs.bulk_modulus_temperature,
        "heat_capacity_p": theirs.heat_capacity_P_polyfit,
        "gibbs": theirs.gibbs_temperature,
    }
    assert row["curves"]["temperatures"] == temperatures[:-1].tolist()
    for name, values in expected.items():
        # Files round force constants to 15 digits.
        np.testing.assert_allclose(row["curves"][name], values, rtol=1e-7, atol=1e-12)
    assert row["thermal_expansion"] == pytest.approx(
        1e6 * theirs.thermal_expansion[15], rel=1e-7
    )
    assert np.array_equal(curve("thermal_expansion.dat")[0], temperatures[:-1])
    assert "copper" in capsys.readouterr().out
    # Anharmonicity two ways: third derivatives, and volumes 3 % apart.
    assert row["gruneisen"] == pytest.approx(row["gruneisen_qha"], rel=0.25)
    page = Path("run/report.html").read_text()
    assert "<figcaption>copper: per mole" in page.replace("\n", "")
    with Path("run/per_material.csv").open(newline="") as file:
        (written,) = csv.DictReader(file)
    assert float(written["thermal_expansion"]) == row["thermal_expansion"]


def test_a_volume_that_is_done_is_not_computed_again(again, monkeypatch):
    run = again
    first = run("structures=copper.cif")
    computed = []

    def count(setting, crystal, ratio):
        computed.append(ratio)
        return compute_volume(setting, crystal, ratio)

    monkeypatch.setattr(runner, "compute_volume", count)
    assert run("structures=copper.cif").rows == first.rows
    assert not computed
    Path("run/materials/copper.json").unlink()
    Path("run/materials/copper/model-model/volume-0.990000.json").write_text("{")
    again = run("structures=copper.cif")
    assert computed == [0.99]
    assert again.rows[0]["curves"] == first.rows[0]["curves"]
    computed.clear()
    run("structures=copper.cif", "qha.n_volumes=6", "qha.volume_range=[0.96,1.11]")
    assert computed == [1.11]


def test_shape_and_ions_relax_at_every_volume(run):
    ase.io.write("hcp.cif", bulk("Cu", "hcp", a=2.4, c=4.2))
    run("structures=hcp.cif", "protocol.fmax=2e-4", "protocol.mesh=[2,2,2]")
    model = pft.load_model("true.pair", dtype="float64")
    points = volumes("hcp")
    assert max(point["relax_steps"] for point in points) > 0
    for point in points:
        file = f"run/materials/hcp/model-model/volume-{point['ratio']:.6f}.yaml"
        cell = phonopy.load(file, log_level=0, produce_fc=False).unitcell
        atoms = ase.Atoms(
            numbers=cell.numbers, cell=cell.cell, positions=cell.positions, pbc=True
        )
        atoms.calc = pft.Calculator(model)
        stress = atoms.get_stress(voigt=False)
        pressure = np.trace(stress) / 3
        # As far as forces of 2e-4 eV/Å go, which the filter takes of volume x stress.
        left = np.abs(stress - pressure * np.eye(3)).max() * atoms.get_volume()
        assert left < 4e-4
        assert atoms.get_volume() == pytest.approx(point["volume"], rel=1e-9)


def test_what_cannot_expand_is_named_and_the_others_go_on(run):
    # Central forces hold no simple cubic lattice at any volume.
    ase.io.write("simple.cif", bulk("Cu", "sc", a=2.4))
    ase.io.write("boxed.extxyz", molecule("H2O", cell=(8, 8, 8)))
    slab = fcc111("Cu", (1, 1, 2), vacuum=6)
    slab.info.clear()
    ase.io.write("slab.extxyz", slab)
    ase.io.write("gold.cif", bulk("Al", "fcc", a=4.0))
    model = PairPotential(4.0, (29, 79))
    with torch.no_grad():
        model.depth *= -1  # repulsion
    model.save(Path("repelling.pair"))
    found = run(
        "structures=[copper.cif,simple.cif,boxed.extxyz,slab.extxyz,gold.cif]",
        "compare.repelling.checkpoint=repelling.pair",
    )
    errors = {(r["name"], r["model"]): r["error"] for r in found.rows if r["error"]}
    assert ("copper", "model") not in errors
    simple = errors["simple", "model"]
    assert "0 of 5 volumes are left and 5 are needed" in simple
    assert "0.96: imaginary modes, the lowest at -" in simple
    assert "qha.volume_range" in simple
    assert "the relaxation exploded" in errors["copper", "repelling"]
    for name in ("boxed", "slab"):
        assert "expected a crystal" in errors[name, "model"]
    assert "UnknownElementError" in errors["gold", "model"]
    assert all("\n" not in error for error in errors.values())
    assert found.summary["counts"]["failed"] == {"model": 4, "repelling": 5}


def test_volumes_left_out_and_temperatures_not_reached_are_named(run):
    found = run(
        "structures=copper.cif",
        *("qha.n_volumes=8", "qha.volume_range=[0.95,1.85]"),
        "protocol.temperatures=[0,1000,50]",
    )
    (row,) = found.rows
    assert row["status"] == "ok"
    assert 5 <= row["volumes_used"] < 8
    assert "volume 1.85 left out: imaginary modes" in row["remark"]
    (failure,) = found.summary["failures"]
    assert failure["error"] == row["remark"]
    # Cold enough a crystal has its volume; the range of another ends before 400 K.
    short = run("structures=copper.cif", "qha.volume_range=[0.96,1.055]", out="short")
    (row,) = short.rows
    assert row["highest_temperature"] < 400
    assert "ends early: at" in row["remark"]
    none = run("structures=copper.cif", "qha.volume_range=[0.9,0.97]", out="none")
    assert "lies outside of those from" in none.rows[0]["error"]
    assert "properties at 300 K cannot be given" in none.rows[0]["error"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("qha.n_volumes=4", "qha.n_volumes=4"),
        ("qha.volume_range=[1.1,0.9]", r"qha\.volume_range=\[1\.1, 0\.9\]"),
        ("qha.volume_range=[0.9]", "qha.volume_range"),
        ("qha.volume_range=[0.01,1.0]", "between 0.3 and 3"),
        ("qha.equation_of_state=debye", "qha.equation_of_state"),
        ("phonons=dft", "phonons is given, and task=qha"),
    ],
)
def test_wrong_options_are_refused(run, option, message):
    with pytest.raises(ConfigError, match=message):
        run("structures=copper.cif", option)


def test_crystals_are_needed(run):
    with pytest.raises(ConfigError, match="task=qha needs structures=PATH"):
        run()


def test_an_ase_calculator_has_no_mode_parameters_and_says_so(run):
    atoms = bulk("Cu", "fcc", a=3.6)
    ase.io.write("emt.cif", atoms)
    found = evaluate_qha(
        EMT(),
        "emt.cif",
        "run",
        supercell=SMALL_CELL,
        qha=QhaOptions(n_volumes=5, volume_range=(0.97, 1.05)),
        protocol=Protocol(
            **{"relax": True, "method": "finite_displacement", "mesh": (4, 4, 4)},
            temperatures=(200.0, 300.0, 25.0),
        ),
        progress=False,
    )
    (row,) = found.rows
    assert row["status"] == "ok"
    assert "gruneisen" not in row
    assert "ASE calculators give no third derivatives" in row["remark"]
    assert row["curves"]["temperatures"] == [200.0, 225.0, 250.0, 275.0, 300.0]
    # EMT's copper: 16.7e-6/K along a line is what experiments have.
    assert 40 < row["thermal_expansion"] < 80


def test_processes_share_the_crystals(run, monkeypatch):
    ase.io.write("gold.cif", bulk("Au", "fcc", a=3.5))
    models = {"model": PairPotential(4.0, (29, 79))}
    options = {
        "protocol": Protocol(
            relax=True, mesh=(3, 3, 3), fmax=5e-3, temperatures=(250.0, 350.0, 25.0)
        ),
        "supercell": SMALL_CELL,
        "qha": QhaOptions(n_volumes=5, volume_range=(0.96, 1.08)),
        "progress": False,
    }

    def compute(out: str):
        return evaluate_qha(models, ["copper.cif", "gold.cif"], out, **options)

    whole = compute("whole")
    assert [row["status"] for row in whole.rows] == ["ok"] * 2
    sent = json.loads(Path("whole/materials/copper.json").read_text())
    monkeypatch.setattr(processes, "rank", lambda: (1, 2))
    monkeypatch.setattr(processes, "gather", lambda own: [{"copper": sent}, own])
    shared = compute("shared")
    assert not list(Path("shared").glob("*.*"))
    assert [file.name for file in Path("shared/materials").glob("*.json")] == [
        "gold.json"
    ]
    for name in COMPARED:
        assert [r[name] for r in shared.rows] == [r[name] for r in whole.rows]


def test_free_energies_without_a_minimum_are_named():
    nothing = {
        "temperatures": np.array([0.0, 300.0, 310.0]),
        "free_energy": np.zeros(3),
        "entropy": np.zeros(3),
        "heat_capacity": np.ones(3),
    }
    points = [
        VolumePoint(v / 10, v, -0.5 * (v - 10.0) ** 2, 0.0, 0, "", **nothing)
        for v in np.linspace(9, 11, 5)
    ]
    with pytest.raises(QuasiHarmonicError, match=r"at 0 K .*, and properties at 300 K"):
        fit_volumes(points, QhaOptions(), first=0.0, temperature=300.0)
