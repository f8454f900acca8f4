"""Structures for DFT runs, and labels of a base model."""

from __future__ import annotations

import os
import subprocess

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.geometry import get_distances
from commands import run_command
from hydra import compose, initialize_config_module

from pft_lightning import Calculator, load_model
from pft_lightning.cli.prepare import prepare
from pft_lightning.data.crystals import read_structures, read_supercells
from pft_lightning.data.upstream import UpstreamFrames
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.preparation.pseudolabel import pseudolabel
from pft_lightning.preparation.rattle import RattleOptions, rattle
from pft_lightning.preparation.structures import write_structures


NACL = bulk("NaCl", "rocksalt", 5.6)


def shortest(atoms) -> float:
    _, distances = get_distances(atoms.positions, cell=atoms.cell, pbc=True)
    np.fill_diagonal(distances, np.inf)
    return float(distances.min())


def test_rattled_structures_keep_their_limits_and_their_seed():
    options = RattleOptions(
        n_rattled=12, volume=(0.9, 1.1), displacement=(0.02, 0.2), min_atoms=16
    )
    made = rattle(NACL, options)
    assert len(made) == 12
    volume = NACL.get_volume() * 8
    for atoms in made:
        assert len(atoms) == 16
        # The strain is scaled to the drawn volume, to rounding.
        assert 0.9 - 1e-9 <= atoms.get_volume() / volume <= 1.1 + 1e-9
        assert shortest(atoms) >= 0.7 * 2.8
        assert atoms.get_chemical_formula() == "Cl8Na8"
    again, other = rattle(NACL, options), rattle(NACL, options, index=1)
    for first, second, third in zip(made, again, other, strict=True):
        assert np.array_equal(first.positions, second.positions)
        assert not np.array_equal(first.positions, third.positions)


def test_displacements_have_the_asked_for_size():
    options = RattleOptions(
        n_rattled=2, displacement=(0, 0.1), volume=(1, 1), shear=0, min_atoms=500
    )
    ideal, moved = rattle(NACL, options)
    assert len(ideal) == len(moved) == 512
    # 1536 draws: the standard deviation is known to 0.1 / sqrt(2 * 1536) = 0.0018.
    assert (moved.positions - ideal.positions).std() == pytest.approx(0.1, abs=0.007)


def test_a_relaxation_path_goes_down_in_energy(world):
    calculator = Calculator(load_model(world.base))
    options = RattleOptions(n_rattled=0, n_path=4, displacement=(0.1, 0.1), min_atoms=4)
    crystal = bulk("LiF", "rocksalt", 4.9)
    path = rattle(crystal, options, calculator=calculator)
    energies = []
    for atoms in path:
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
    assert len(path) >= 2
    assert energies == sorted(energies, reverse=True)
    with pytest.raises(ConfigError, match=r"model\.checkpoint"):
        rattle(crystal, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"volume": (1.1, 0.9)}, r"volume is \[1.1, 0.9\]"),
        ({"n_rattled": 0}, "both 0"),
        ({"min_atoms": 0}, "min_atoms is 0"),
        ({"shear": -1}, "shear is -1"),
    ],
)
def test_limits_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        RattleOptions(**options)


def test_displacements_that_break_every_limit_are_refused():
    options = RattleOptions(displacement=(3.0, 3.0), min_distance=0.99)
    with pytest.raises(ConfigError, match=r"Lower rattle\.displacement"):
        rattle(NACL, options)


def test_structures_are_read_from_phonopy_files_and_written_for_vasp(world, tmp_path):
    crystals = list(read_structures(str(world.phonons_train / "*.yaml")))
    assert sorted(c.get_chemical_formula() for c in crystals) == [
        "ClNa", "FLi", "MgO", "Si2",
    ]  # fmt: skip
    write_structures(crystals, tmp_path / "inputs")
    for i, crystal in enumerate(crystals):
        read = ase.io.read(tmp_path / "inputs" / str(i) / "POSCAR", format="vasp")
        assert read.get_chemical_formula() == crystal.get_chemical_formula()
        assert np.allclose(read.cell, crystal.cell, atol=1e-10)
    with pytest.raises(ConfigError, match="exists already"):
        write_structures(crystals, tmp_path / "inputs")
    with pytest.raises(DataFormatError, match="matches nothing"):
        list(read_structures(str(tmp_path / "*.cif")))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command("pft-prepare", *arguments)


def test_rattled_and_pseudolabelled_structures_are_an_upstream_source(world, tmp_path):
    rattled, labelled = tmp_path / "rattled.xyz", tmp_path / "labelled.xyz"
    result = run(
        "task=rattle",
        f"structures={world.phonons_val}/*.yaml",
        f"out={rattled}",
        "rattle.n_rattled=3",
    )
    assert result.returncode == 0, result.stderr
    assert "3 structures around 1 crystals" in result.stdout
    result = run(
        "task=pseudolabel",
        f"structures={rattled}",
        f"out={labelled}",
        f"model.checkpoint={world.base}",
    )
    assert result.returncode == 0, result.stderr
    frames = UpstreamFrames(labelled, cutoff=4.0)
    assert frames.known.all()
    model = load_model(world.base)
    for i, atoms in enumerate(ase.io.read(rattled, ":")):
        atoms.calc = Calculator(model)
        record = frames.record(i)
        # Extended XYZ holds eight decimals of positions and forces.
        assert record.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        assert np.abs(record.forces - atoms.get_forces()).max() < 1e-6
        assert np.abs(record.stress - atoms.get_stress(voigt=False)).max() < 1e-6


def test_a_structure_that_cannot_be_read_is_skipped_and_named(tmp_path):
    path, pipe = tmp_path / "x.xyz", tmp_path / "pipe.xyz"
    ase.io.write(path, [NACL, bulk("Al", "fcc", 4.0), NACL], format="extxyz")
    path.write_text(path.read_text().replace("Al ", "D "))
    flat = NACL.copy()
    flat.cell[2] = 0
    ase.io.write(path, flat, format="extxyz", append=True)
    os.mkfifo(pipe)
    spec = [str(pipe), str(path)]
    told = r"(?s)3 skipped:.*pipe.*'D'.*lattice"
    with pytest.warns(UserWarning, match=told):
        assert len(list(read_structures(spec))) == 2
    with pytest.warns(UserWarning, match=told):
        assert [name for name, _ in read_supercells(spec)] == ["x-0", "x-2"]
    with pytest.raises(DataFormatError, match=r"(?s)none of 1 .*a named pipe"):
        list(read_structures(str(pipe)))


def test_pseudolabels_replace_the_labels_that_were_there(world, tmp_path):
    frame = bulk("LiF", "rocksalt", 4.9)
    frame.info |= {"REF_energy": 99.0, "config_energy_weight": 0.0, "note": "kept"}
    frame.arrays["REF_forces"] = np.full((2, 3), 7.0)
    model = load_model(world.base)
    (labelled,) = pseudolabel(model, [frame])
    assert labelled.info["note"] == "kept"
    ase.io.write(tmp_path / "x.xyz", labelled, format="extxyz")
    frames = UpstreamFrames(tmp_path / "x.xyz", cutoff=4.0)
    frame.calc = Calculator(model)
    # Extended XYZ writes energies in full.
    assert frames.record(0).energy == pytest.approx(frame.get_potential_energy())
    assert np.abs(frames.record(0).forces).max() < 1e-6
    assert frames.is_plain


@pytest.mark.parametrize("task", ["rattle", "pseudolabel"])
def test_structures_are_not_replaced_by_what_is_made_of_them(world, tmp_path, task):
    path, link = tmp_path / "x.xyz", tmp_path / "link.xyz"
    ase.io.write(path, bulk("LiF", "rocksalt", 4.9), format="extxyz")
    link.symlink_to(path)
    before = path.read_bytes()
    for out in (path, tmp_path / "new" / ".." / "x.xyz", link):
        options = (f"task={task}", f"structures={tmp_path}/x*.xyz", f"out={out}")
        with initialize_config_module("pft_lightning.conf", version_base="1.3"):
            config = compose(
                "prepare", overrides=[*options, f"model.checkpoint={world.base}"]
            )
        (tmp_path / "new").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=r"is the file .*x\.xyz, which this"):
            prepare(config)
    assert path.read_bytes() == before


def test_atoms_that_a_relaxation_held_fixed_have_labels_like_others(world, tmp_path):
    """ASE reads move_mask as a constraint, and gives zero for forces on such atoms."""
    path = tmp_path / "slab.xyz"
    frame = bulk("LiF", "rocksalt", 4.9, cubic=True)
    frame.rattle(0.1, seed=1)
    frame.set_constraint(FixAtoms([0, 3]))
    ase.io.write(path, frame, format="extxyz")
    assert "move_mask" in path.read_text()
    model = load_model(world.base)
    (labelled,) = pseudolabel(model, read_structures(str(path)))
    write_structures([labelled], tmp_path / "labelled.xyz")
    free = labelled.copy()
    free.calc = Calculator(model)
    found = UpstreamFrames(tmp_path / "labelled.xyz", cutoff=4.0).record(0).forces
    assert np.abs(found - free.get_forces()).max() < 1e-6
    assert np.abs(found[[0, 3]]).max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task=store2", "out=a"], "expected one of store, rattle, pseudolabel"),
        (["task=rattle", "out=a.xyz"], "needs structures="),
        (["task=pseudolabel", "out=a.store", "structures=b"], "ending in .xyz"),
        (["task=pseudolabel", "out=a.xyz", "structures=b"], "needs a model"),
    ],
)
def test_a_task_that_cannot_run_says_why(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_names_that_look_like_patterns_are_read_and_new_folders_made(tmp_path):
    out = tmp_path / "new" / "a [1].xyz"
    write_structures([bulk("NaCl", "rocksalt", 5.6)], out)
    (found,) = read_structures(str(out))
    assert found.get_chemical_formula() == "ClNa"
