"""``pft-evaluate task=qha`` from its configuration on."""

from __future__ import annotations

import csv
import json
import shutil
import warnings
from pathlib import Path

import ase.io
import numpy as np
import phonopy
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from hydra import compose, initialize_config_module
from phonopy import PhonopyQHA

import pft_lightning as pft
from pft_lightning.cli import common  # noqa: F401  (registers the resolvers)
from pft_lightning.data.supercells import SupercellOptions, build_supercell
from pft_lightning.errors import ConfigError, DataFormatError, QuasiHarmonicError
from pft_lightning.evaluation import processes
from pft_lightning.evaluation.protocols import Protocol, relax
from pft_lightning.evaluation.qha import runner
from pft_lightning.evaluation.qha.fit import fit_volumes
from pft_lightning.evaluation.qha.options import QhaOptions
from pft_lightning.evaluation.qha.runner import evaluate_qha
from pft_lightning.evaluation.qha.volumes import VolumePoint, compute_volume
from pft_lightning.runs.evaluate import check_evaluation, evaluate
from pft_lightning.testing import PairPotential


SMALL = (
    *(
        "qha.supercell_matrix=[2,2,2]",
        "qha.n_volumes=5",
        "qha.volume_range=[0.96,1.08]",
    ),
    *("protocol.mesh=[4,4,4]", "protocol.temperatures=[0,400,20]"),
    "protocol.fmax=2e-3",
)
SMALL_CELL = SupercellOptions(supercell_matrix=[2, 2, 2])
COMPARED = ("thermal_expansion", "bulk_modulus", "heat_capacity_p")


def start(*overrides: str, out: str = "run"):
    """Evaluate copper, or what else is asked for, in the folder that we are in."""
    with initialize_config_module("pft_lightning.conf", version_base="1.3"):
        config = compose(
            "evaluate",
            overrides=[
                *("task=qha", "protocol=mdr_analytic", f"paths.run={out}"),
                *("accelerator=cpu", "progress=false", *SMALL),
                *("model.checkpoint=true.pair", *overrides),
            ],
        )
    return evaluate(config)


def write_inputs() -> None:
    PairPotential(4.0, (29, 79)).save(Path("true.pair"))
    ase.io.write("copper.cif", bulk("Cu", "fcc", a=3.35))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_inputs()
    return start


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Folder of an evaluation of copper, and what it took."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_inputs()
        start("structures=copper.cif")
    return folder


@pytest.fixture
def again(run, finished, tmp_path):
    """``start`` where copper is done already: its volumes are kept."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return run


def save_volume(
    path: Path, a: float, element: str = "Cu", *, n: int = 2, structure: str = "fcc"
) -> None:
    cells = SupercellOptions(supercell_matrix=[n, n, n])
    phonon = build_supercell(bulk(element, structure, a=a), cells, "", 1e-5)
    n_atoms = len(phonon.supercell)
    springs = np.eye(n_atoms) - 1 / n_atoms
    phonon.force_constants = springs[..., None, None] * np.eye(3)
    phonon.save(path, settings={"force_constants": True})


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


def test_errors_against_curves_of_phonopy_qha(again):
    first = again("structures=copper.cif")
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
    assert "DFT" in Path("run/report.html").read_text()
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
