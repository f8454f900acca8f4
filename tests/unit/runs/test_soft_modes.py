"""``task=soft_modes`` of both commands from their configuration on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from hydra import compose, initialize_config_module
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.cli import common  # noqa: F401  (registers the resolvers)
from pft_lightning.cli.prepare import prepare
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.evaluation.force_constants import compute_force_constants
from pft_lightning.evaluation.soft_modes import runner
from pft_lightning.runs.evaluate import evaluate
from pft_lightning.testing import PairPotential


SMALL = (
    *("soft_modes.points=3", "soft_modes.max_directions=1", "soft_modes.candidates=1"),
    *("soft_modes.supercell_matrix=[2,2,2]", "soft_modes.max_cell_atoms=4"),
    "soft_modes.symprec=0.03",  # as far as forces of 0.005 eV/Å leave hcp open
)


def soft() -> PairPotential:
    """Pairs do not hold bcc together; it becomes hcp."""
    return PairPotential(4.0, (26, 29))


def dft_file(name: str, factor: float) -> None:
    """Phonons of bcc by the potential, weakened, in the place of DFT."""
    atoms = bulk("Cu", "bcc", a=2.57)
    cell = PhonopyAtoms(
        numbers=atoms.numbers, cell=atoms.cell.array, scaled_positions=[[0, 0, 0]]
    )
    phonon = Phonopy(cell, [2, 2, 2], primitive_matrix="P", log_level=0)
    phonon.force_constants = factor * compute_force_constants(soft(), phonon).compact
    phonon.save(name, settings={"force_constants": True})


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soft().save(Path("soft.pair"))
    ase.io.write("bcc.cif", bulk("Cu", "bcc", a=2.6))
    ase.io.write("fcc.cif", bulk("Cu", "fcc", a=3.6))

    def start(*overrides: str, command: str = "evaluate"):
        with initialize_config_module("pft_lightning.conf", version_base="1.3"):
            if command == "prepare":
                first = ("task=soft_modes", "model.checkpoint=soft.pair", *SMALL)
                return prepare(compose("prepare", [*first, *overrides]))
            config = compose(
                "evaluate",
                overrides=[
                    *("task=soft_modes", "protocol=mdr_analytic", "paths.run=run"),
                    *("accelerator=cpu", "progress=false", "protocol.fmax=5e-3"),
                    *("model.checkpoint=soft.pair", *SMALL, *overrides),
                ],
            )
        return evaluate(config)

    return start


def test_models_are_followed_to_their_phases_and_these_compared(run, capsys):
    ase.io.write("phase.cif", bulk("Cu", "hcp", a=2.55, c=4.16))
    Path("cut.cif").write_text(Path("bcc.cif").read_text()[:200])
    found = run(
        "structures=[bcc.cif,fcc.cif,cut.cif]",
        "reference=phase.cif",
        "compare.same.checkpoint=soft.pair",
    )
    rows = {(row["name"], row["model"]): row for row in found.rows}
    bcc = rows["bcc", "model"]
    assert bcc["parent_group"] == "Im-3m"
    assert bcc["end_group"] == "P6_3/mmc"
    assert bcc["end_stable"]
    assert bcc["end_energy"] < bcc["well_depth"] / 2 < 0
    assert bcc["generations"] == 1
    assert not bcc["is_subgroup"]
    assert bcc["same_phase_as"] == "same"
    assert bcc["same_phase_as_reference"]
    fcc = rows["fcc", "model"]
    assert fcc["soft_modes"] == fcc["end_energy"] == 0
    assert fcc["end_group"] == "Fm-3m"
    assert not fcc["same_phase_as_reference"]
    totals = found.summary["models"]["model"]
    assert totals["with_soft_modes"] == totals["ended_stable"] == 1
    assert totals["same_phase_as_reference"] == 1
    assert totals["imaginary"] == {}
    assert [f["name"] for f in found.summary["failures"]] == ["cut"]
    with Path("run/per_material.csv").open(newline="") as file:
        written = {(row["name"], row["model"]): row for row in csv.DictReader(file)}
    assert float(written["bcc", "model"]["end_energy"]) == bcc["end_energy"]
    stored = json.loads(Path("run/materials/bcc.json").read_text())
    (wells, none) = stored["models"]["model"]["wells"]
    assert none == []
    for well in wells:
        assert well["curvature"] == pytest.approx(well["eigenvalue"], rel=1e-10)
    assert "P6_3/mmc" in capsys.readouterr().out


def test_imaginary_modes_are_compared_with_those_of_dft(run):
    dft_file("same.yaml", 1.0)
    dft_file("weak.yaml", 1 / 16)
    found = run(
        "phonons=[same.yaml,weak.yaml]",
        "protocol=dft_cell",
        "soft_modes.generations=0",
        "soft_modes.thresholds=[0.1,1.0]",
    )
    same, other = found.rows
    # N has six arms, each with one imaginary mode.
    counts = {"model": 6, "reference": 6, "both": 6}
    assert same["imaginary"] == {"0.1": counts, "1": counts}
    assert same["reference_lowest_frequency"] == pytest.approx(
        same["lowest_frequency"], rel=1e-6
    )
    # A quarter of the model's frequency, of -1.6 THz.
    assert other["imaginary"]["0.1"] == counts
    assert other["imaginary"]["1"] == counts | {"reference": 0, "both": 0}
    total = found.summary["models"]["model"]["imaginary"]
    assert total["0.1"]["precision"] == total["0.1"]["recall"] == 1.0
    assert total["1"]["precision"] == 0.5
    assert total["1"]["recall"] == 1.0


def test_a_second_call_computes_only_what_is_not_there(run, monkeypatch):
    first = run("structures=bcc.cif")
    calls = []
    whole = runner.compute_generations

    def counted(*args, **options):
        calls.append(args)
        return whole(*args, **options)

    monkeypatch.setattr(runner, "compute_generations", counted)
    assert run("structures=bcc.cif").rows == first.rows
    assert calls == []
    Path("run/materials/bcc/model-model/soft_modes.xyz").unlink()
    run("structures=bcc.cif")
    assert len(calls) == 1
    run("structures=bcc.cif", "soft_modes.points=4")
    assert len(calls) == 2


def test_frames_along_the_paths_are_written_for_dft(run, capsys):
    run("structures=[bcc.cif,fcc.cif]", "out=frames.xyz", command="prepare")
    assert "along soft modes of 1 crystals" in capsys.readouterr().out
    frames = ase.io.read("frames.xyz", index=":")
    assert {frame.info["material"] for frame in frames} == {"bcc"}
    paths = {frame.info["path"] for frame in frames}
    assert len(paths) == 1
    undistorted = [f for f in frames if f.info.get("amplitude") == 0]
    (parent,) = undistorted
    assert parent.info["model_energy"] == 0
    # A label of DFT is what none of them has yet.
    assert all(frame.calc is None for frame in frames)
    for path in paths:
        along = [f for f in frames if f.info["path"] == path and "amplitude" in f.info]
        (end,) = [
            f for f in frames if f.info["path"] == path and "amplitude" not in f.info
        ]
        lowest = min(f.info["model_energy"] for f in along)
        assert end.info["model_energy"] < lowest < 0
        assert np.isin([-1, 1], np.sign([f.info["amplitude"] for f in along])).all()


def test_what_has_no_soft_modes_is_said(run):
    with pytest.raises(ConfigError, match="none of 1 crystals has a mode below"):
        run("structures=fcc.cif", "out=frames.xyz", command="prepare")


def test_wrong_input_is_named(run):
    with pytest.raises(ConfigError, match="either phonons=PATH"):
        run()
    with pytest.raises(ConfigError, match="either phonons=PATH"):
        run("structures=bcc.cif", "phonons=bcc.cif")
    with pytest.raises(ConfigError, match="measures no forgetting"):
        run("structures=bcc.cif", "upstream=frames.xyz")
    with pytest.raises(ConfigError, match="points"):
        run("structures=bcc.cif", "soft_modes.points=1")
    with pytest.raises(DataFormatError):
        run("structures=bcc.cif", "reference=missing.cif")


def test_a_molecule_is_named_and_ends_nothing(run):
    water = molecule("H2O")
    water.set_cell(np.eye(3) * 8)
    water.pbc = True
    ase.io.write("water.cif", water)
    found = run("structures=[water.cif,fcc.cif]")
    (failure,) = found.summary["failures"]
    assert failure["name"] == "water"
    assert "UnknownElementError" in failure["error"]
