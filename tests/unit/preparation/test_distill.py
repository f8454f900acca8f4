"""A teacher's Hessians as an ordinary source of phonon data."""

from __future__ import annotations

import json
import subprocess

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from commands import run_command

import pft_lightning as pft
from pft_lightning.data.crystals import read_supercells
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.readers.registry import read_entry
from pft_lightning.data.supercells import SupercellOptions


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command("pft-prepare", "task=distill", *arguments)


def test_every_column_of_the_teacher_s_hessian_is_the_target(world, tmp_path):
    out = tmp_path / "teacher"
    command = (
        f"structures={world.phonons_train}/*.yaml",
        f"model.checkpoint={world.base}",
        f"out={out}",
    )
    result = run(*command)
    assert result.returncode == 0, result.stderr
    assert "force constants of 4 materials computed" in result.stdout
    teacher = pft.load_model(world.base, dtype="float64")
    for path in sorted(out.glob("*.yaml.xz")):
        record = read_entry(path, None, PhononReadOptions())
        atoms = Atoms(
            numbers=record.atomic_numbers,
            positions=record.positions,
            cell=record.cell,
            pbc=True,
        )
        atoms.calc = pft.Calculator(teacher)
        # Relaxed to fmax: the reader's targets, zero forces and stress, are true.
        assert np.abs(atoms.get_forces()).max() < 0.005
        tangent = np.random.default_rng(0).standard_normal((len(atoms), 3))
        tangent -= tangent.mean(axis=0)
        product = pft.hessian_vector_product(teacher, atoms, tangent)
        target = record.force_constants.multiply(tangent[:, None])[:, 0]
        # Positions in the file have 15 digits after the point.
        assert np.abs(product - target).max() < 1e-9 * np.abs(target).max()

    again = run(*command)
    assert "force constants of 0 materials computed" in again.stdout
    other = run(*command, "distill.relax=false")
    assert other.returncode == 2
    assert "made by another teacher or with other settings" in other.stderr


def test_a_student_trained_on_the_folder_nears_its_teacher(world, tmp_path):
    out = tmp_path / "teacher"
    crystals = tmp_path / "crystals.xyz"
    ase.io.write(
        crystals, [bulk("NaCl", "rocksalt", 5.0), bulk("LiF", "rocksalt", 4.9)]
    )
    result = run(
        f"structures={crystals}",
        f"model.checkpoint={world.base}",
        f"out={out}",
        "distill.supercell_matrix=[2,2,2]",
    )
    assert result.returncode == 0, result.stderr
    student = pft.load_model(world.base)
    student.stiffness.data *= 1.2
    student.save(tmp_path / "student.pair")
    trained = run_command(
        "pft-train",
        f"model.checkpoint={tmp_path / 'student.pair'}",
        f"data.phonons.train={out}",
        f"data.phonons.val={out}",
        "optimizer.lr=1e-2",
        "trainer.max_steps=30",
        "trainer.max_epochs=-1",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert trained.returncode == 0, trained.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    error = summary["phonon/hvp_mae"]
    assert error["after"] < 0.5 * error["before"]


def test_a_crystal_gets_the_supercell_that_phonopy_estimates(tmp_path):
    ase.io.write(tmp_path / "NaCl.cif", bulk("NaCl", "rocksalt", 5.6))
    ((name, phonon),) = read_supercells(
        tmp_path / "NaCl.cif", SupercellOptions(max_atoms=100)
    )
    assert name == "NaCl"
    # Twice the cubic cell of eight atoms; three times it would have 216.
    assert len(phonon.supercell) == 64
    assert np.allclose(phonon.supercell.cell, 11.2 * np.eye(3), atol=1e-6)
    assert len(phonon.primitive) == 2
    ((_, phonon),) = read_supercells(
        tmp_path / "NaCl.cif", SupercellOptions(supercell_matrix=[1, 2, 3])
    )
    assert phonon.supercell_matrix.tolist() == [[1, 0, 0], [0, 2, 0], [0, 0, 3]]


def test_two_materials_of_one_name_are_refused(world, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        ase.io.write(tmp_path / folder / "x.cif", bulk("LiF", "rocksalt", 4.9))
    result = run(
        f"structures={tmp_path}/*/x.cif",
        f"model.checkpoint={world.base}",
        f"out={tmp_path / 'out'}",
        "distill.max_atoms=16",
    )
    assert result.returncode == 2
    assert "two materials are named 'x'" in result.stderr


def test_elements_that_the_teacher_lacks_are_named(world, tmp_path):
    ase.io.write(tmp_path / "Cu.cif", bulk("Cu"))
    result = run(
        f"structures={tmp_path / 'Cu.cif'}",
        f"model.checkpoint={world.base}",
        f"out={tmp_path / 'out'}",
    )
    assert result.returncode == 2
    assert "Cu" in result.stderr
    assert "Traceback" not in result.stderr
