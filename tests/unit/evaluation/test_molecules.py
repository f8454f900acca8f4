from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.optimize import BFGS
from molecular_files import REFERENCE, molecule, write_orca, write_vibrations

import pft_lightning as pft
from pft_lightning.data.molecules import Molecule
from pft_lightning.data.readers import PhononReadOptions
from pft_lightning.evaluation.folder import BANDS, ERRORS
from pft_lightning.evaluation.molecules import molecule_properties
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.evaluation.reference import read_reference
from pft_lightning.runs.tables import print_evaluation
from pft_lightning.testing import PairPotential

from .conftest import make_phonon


PROTOCOL = Protocol(mesh=(2, 2, 2), temperatures=(0.0, 300.0, 100.0), band_points=0)


@pytest.fixture
def model() -> PairPotential:
    return PairPotential(4.0, (1, 8, 11, 17)).to(torch.float64)


@pytest.fixture
def file(tmp_path: Path, model: PairPotential) -> Path:
    """Sodium oxide at the minimum of the model, with the model's own Hessian."""
    atoms, _ = molecule("H2O")
    atoms.symbols[1:] = "Na"  # whose bonds are as long as those of the model
    atoms.set_masses("defaults")
    atoms.calc = pft.Calculator(model)
    BFGS(atoms, logfile=None).run(fmax=1e-9)
    folder = tmp_path / "molecules"
    folder.mkdir()
    write_vibrations(folder / "oxide.json", atoms, _hessian(model, atoms))
    return folder / "oxide.json"


def _hessian(model: PairPotential, atoms: Atoms) -> np.ndarray:
    n = len(atoms)
    columns = np.eye(3 * n).reshape(n, 3, 3 * n).transpose(0, 2, 1)
    products = pft.hessian_vector_product(model, atoms, columns)
    return products.transpose(0, 2, 1).reshape(3 * n, 3 * n)


def test_thermal_properties_of_vibrations_are_those_of_another_code(
    tmp_path: Path,
) -> None:
    write_orca(tmp_path / "CO2.hess", *molecule("CO2"))
    reference = read_reference(tmp_path / "CO2.hess")
    assert isinstance(reference, Molecule)
    properties = molecule_properties(reference, PROTOCOL)
    at = list(properties.temperatures).index(300.0)
    # Hartree/K to J/K/mol
    factor = 2625499.6394799
    expected = REFERENCE["CO2"]
    for name in ("entropy", "heat_capacity"):
        value = getattr(properties, name)[at]
        assert value == pytest.approx(expected[name] * factor, rel=1e-6)
        assert getattr(properties, name)[0] == 0.0
    zero_point = expected["zero_point_energy"] * factor / 1000
    assert properties.free_energy[0] == pytest.approx(zero_point, rel=1e-6)
    pitch = PROTOCOL.dos_pitch
    assert properties.dos.sum() * pitch == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize(
    ("method", "tolerance"),
    [
        ("hvp", 1e-6),
        ("full", 1e-6),
        # Third derivatives of the energy enter differences of 0.001 Å.
        ("finite_displacement", 1.0),
    ],
)
def test_the_model_that_made_the_hessian_has_no_error(
    file: Path, model: PairPotential, method, tolerance: float
) -> None:
    protocol = Protocol(method=method, displacement=1e-3, band_points=0)
    (row,) = pft.evaluate_phonons(model, file, protocol=protocol, progress=False).rows
    assert row["status"] == "ok", row["error"]
    assert row["formula"] == "Na2O"
    assert row["frequency_mae_cm1"] < tolerance
    assert row["zero_point_energy_error"] < 1e-4 * tolerance
    assert len(row["frequencies_cm1"]) == 3
    total = sum(row["reference_frequencies_cm1"])
    # Half the quanta; 8065.54 cm⁻¹ are 1 eV.
    assert row["zero_point_energy"] == pytest.approx(total / 2 / 8065.544, rel=1e-4)


def test_a_calculator_is_evaluated_by_differences(
    file: Path, model: PairPotential
) -> None:
    protocol = Protocol(method="finite_displacement", displacement=1e-3)
    calculator = pft.Calculator(model)
    (row,) = pft.evaluate_phonons(
        calculator, file, protocol=protocol, progress=False
    ).rows
    assert row["frequency_mae_cm1"] < 1.0
    assert row["hvps"] == 18


def test_relaxing_finds_the_minimum_of_the_model_without_a_lattice(
    file: Path, model: PairPotential
) -> None:
    content = json.loads(file.read_text())
    positions = content["atoms"]["positions"]["__ndarray__"][2]
    positions[-1] += 0.02
    file.write_text(json.dumps(content))
    options = {"progress": False, "options": PhononReadOptions(relaxed="none")}
    (apart,) = pft.evaluate_phonons(model, file, protocol=PROTOCOL, **options).rows
    relaxing = Protocol(relax=True, fmax=1e-6, band_points=0)
    (row,) = pft.evaluate_phonons(model, file, protocol=relaxing, **options).rows
    assert apart["frequency_mae_cm1"] > 1.0
    assert row["relax_steps"] > 0
    # The Hessian of the file is that of the minimum, at a geometry beside it.
    assert row["frequency_mae_cm1"] < 0.2 * apart["frequency_mae_cm1"]


def test_molecules_and_crystals_are_rows_of_one_table(
    file: Path, model: PairPotential, tmp_path: Path, capsys
) -> None:
    phonon = make_phonon("rocksalt, conventional with F")
    phonon.force_constants = pft.force_constants(model, phonon)
    phonon.save(file.parent / "NaCl.yaml", settings={"force_constants": True})
    out = tmp_path / "evaluation"
    options = {"protocol": PROTOCOL, "out": out, "progress": False}
    evaluation = pft.evaluate_phonons(model, file.parent, **options)
    with (out / "per_material.csv").open() as opened:
        crystal, molecular = csv.DictReader(opened)
    assert (crystal["name"], molecular["name"]) == ("NaCl", "oxide")
    assert crystal["frequency_mae_cm1"] == crystal["zero_point_energy"] == ""
    assert float(molecular["frequency_mae_cm1"]) < 1e-6
    # A molecule has no path of q-points.
    assert all((molecular[name] == "") == (name in BANDS) for name in ERRORS)
    totals = evaluation.summary["models"]["model"]
    assert totals["frequency_mae_cm1"]["n"] == 1
    assert totals["force_constants_mae"]["n"] == 2
    print_evaluation(evaluation.summary, out, out / "report.html")
    assert "zero-point energy error, molecules" in capsys.readouterr().out
    record = json.loads((out / "materials/oxide.json").read_text())
    assert len(record["models"]["model"]["frequencies_cm1"]) == 3
    # What is done is not done again.
    written = (out / "materials/oxide.npz").stat().st_mtime_ns
    pft.evaluate_phonons(model, file.parent, **options)
    assert (out / "materials/oxide.npz").stat().st_mtime_ns == written
