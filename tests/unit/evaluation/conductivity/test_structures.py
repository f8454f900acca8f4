"""Crystals with their supercells and meshes, and crystals alone."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.evaluation.conductivity.structures import (
    ConductivityOptions,
    list_crystals,
)

from .crystals import DOUBLE, MESH, frame, write_frames


DEFAULT = ConductivityOptions()


def read_one(path, options=DEFAULT):
    (material,) = list_crystals(path, options)
    return material.read()


def test_frames_bring_supercells_mesh_and_name(tmp_path):
    path = write_frames(
        tmp_path / "some.extxyz",
        frame(fc2_supercell=3 * np.eye(3, dtype=int)),
        frame("mp-2", fc2_supercell=np.array([4, 4, 2])),
    )
    one, two = list_crystals(path, DEFAULT)
    assert (one.name, two.name) == ("mp-1", "mp-2")
    cells = one.read()
    np.testing.assert_array_equal(cells.fc2_supercell, 3 * np.eye(3))
    np.testing.assert_array_equal(cells.fc3_supercell, DOUBLE)
    assert cells.mesh == MESH
    assert cells.names[:2] == ("mp-1", "MgO")
    np.testing.assert_array_equal(two.read().fc2_supercell, np.diag([4, 4, 2]))


def test_the_published_file_is_read_as_it_is(shared_data):
    path = shared_data / "kappa" / "phononDB-PBE-structures.extxyz"
    if not path.is_file():
        pytest.skip("the structures of phononDB are not on this machine")
    materials = list_crystals(path, DEFAULT)
    assert len({material.name for material in materials}) == 103
    cells = next(m for m in materials if m.name == "mp-1070").read()
    np.testing.assert_array_equal(cells.fc2_supercell, np.diag([5, 5, 3]))
    np.testing.assert_array_equal(cells.fc3_supercell, np.diag([3, 3, 2]))
    assert cells.mesh == (19, 19, 15)


def test_one_supercell_serves_for_both_orders(tmp_path):
    path = write_frames(tmp_path / "a.xyz", frame(fc2_supercell=None, q_mesh=None))
    cells = read_one(path)
    np.testing.assert_array_equal(cells.fc2_supercell, DOUBLE)
    assert cells.mesh is None


def test_a_crystal_alone_gets_supercells_near_to_cubes(tmp_path):
    ase.io.write(tmp_path / "MgO.cif", bulk("MgO", "rocksalt", a=4.2))
    wurtzite = bulk("ZnO", "wurtzite", a=3.2, c=5.2, u=0.38)
    ase.io.write(tmp_path / "ZnO.vasp", wurtzite, format="vasp")
    cubic, hexagonal = read_one(tmp_path / "MgO.cif"), read_one(tmp_path / "ZnO.vasp")
    assert len(cubic.atoms) == 8
    np.testing.assert_array_equal(cubic.fc3_supercell, np.diag([2, 2, 2]))
    np.testing.assert_array_equal(cubic.fc2_supercell, np.diag([3, 3, 3]))
    # Those of the published reference.
    np.testing.assert_array_equal(hexagonal.fc3_supercell, np.diag([3, 3, 2]))
    np.testing.assert_array_equal(hexagonal.fc2_supercell, np.diag([5, 5, 3]))
    assert cubic.names == ("MgO",)


def test_supercells_that_are_asked_for_win(tmp_path):
    path = write_frames(tmp_path / "a.xyz", frame())
    options = ConductivityOptions(fc2_supercell=[3, 3, 3], fc3_supercell=[1, 1, 2])
    cells = read_one(path, options)
    np.testing.assert_array_equal(cells.fc2_supercell, 3 * np.eye(3))
    np.testing.assert_array_equal(cells.fc3_supercell, np.diag([1, 1, 2]))
    with pytest.raises(ConfigError, match="fc3_supercell is not given"):
        ConductivityOptions(fc2_supercell=[3, 3, 3])
    with pytest.raises(ConfigError, match=r"fc3_supercell=\[1, 1, -1\]"):
        ConductivityOptions(fc2_supercell=[1, 1, 1], fc3_supercell=[1, 1, -1])


PHONO3PY = """\
phono3py:
  version: "4.10.0"
  calculator: vasp
  configuration:
    mesh: "5 5 4"
{second}supercell_matrix:
- [2, 0, 0]
- [0, 2, 0]
- [0, 0, 2]
unit_cell:
  lattice:
  - [2.5, 0.0, 0.0]
  - [0.0, 2.5, 0.0]
  - [0.0, 0.0, 2.5]
  points:
  - {{symbol: Mg, coordinates: [0, 0, 0]}}
  - {{symbol: O, coordinates: [0.5, 0.5, 0.5]}}
"""


def test_the_mesh_that_phono3py_itself_writes_is_read(tmp_path):
    file = tmp_path / "phono3py.yaml"
    text = PHONO3PY.format(second="")
    assert "  mesh:" in text
    file.write_text(text.replace("  mesh:", "  mesh_numbers:"))
    assert read_one(file).mesh == (5, 5, 4)


@pytest.mark.parametrize("where", ["file", "folder"])
def test_phono3py_files_bring_both_supercells_and_the_mesh(tmp_path, where):
    second = "phonon_supercell_matrix: [[3, 0, 0], [0, 3, 0], [0, 0, 3]]\n"
    folder = tmp_path / "MgO"
    folder.mkdir()
    file = folder / "phono3py_disp.yaml"
    file.write_text(PHONO3PY.format(second=second))
    cells = read_one(file if where == "file" else folder)
    assert isinstance(cells.atoms, ase.Atoms)
    assert (
        cells.atoms.get_chemical_symbols()
        == PhonopyAtoms(
            symbols=["Mg", "O"], cell=np.eye(3), scaled_positions=np.zeros((2, 3))
        ).symbols
    )
    np.testing.assert_array_equal(cells.fc2_supercell, 3 * np.eye(3))
    np.testing.assert_array_equal(cells.fc3_supercell, DOUBLE)
    assert cells.mesh == (5, 5, 4)
    assert cells.names == ("MgO",)
    file.write_text(PHONO3PY.format(second=""))
    again = read_one(file)
    np.testing.assert_array_equal(again.fc2_supercell, DOUBLE)


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ({"fc2_supercell": np.array([2, 2])}, r"fc2_supercell \[2, 2\] makes no"),
        ({"fc3_supercell": np.array([2.5, 2, 2])}, "fc3_supercell .* makes no"),
        ({"fc3_supercell": np.zeros((3, 3), int)}, "fc3_supercell .* makes no"),
        ({"fc2_supercell": "cubic"}, "fc2_supercell cubic makes no"),
        ({"fc2_supercell": np.array([900, 900, 900])}, "supercell_matrix"),
        ({"q_mesh": np.array([0, 4, 4])}, "mesh of q-points"),
        ({"q_mesh": np.array([4, 4])}, "mesh of q-points"),
        ({"q_mesh": np.array([4, 4, 1000])}, "mesh of q-points"),
        ({"q_mesh": "dense"}, "mesh of q-points is dense"),
    ],
)
def test_what_makes_no_supercell_or_mesh_is_named_when_it_is_read(tmp_path, info, why):
    path = write_frames(tmp_path / "bad.xyz", frame(**info), frame("mp-2"))
    bad, good = list_crystals(path, DEFAULT)
    with pytest.raises(DataFormatError, match=f"bad.xyz.*{why}"):
        bad.read()
    assert good.read().mesh == MESH


def test_files_that_cannot_be_read_are_materials_that_fail(tmp_path):
    (tmp_path / "empty.cif").touch()
    write_frames(tmp_path / "good.xyz", frame())
    with pytest.raises(DataFormatError):
        list_crystals(tmp_path / "nothing.xyz", DEFAULT)
    materials = {m.name: m for m in list_crystals(tmp_path, DEFAULT)}
    assert set(materials) == {"empty", "mp-1"}
    with pytest.raises(DataFormatError, match="is empty"):
        materials["empty"].read()


def test_frames_that_come_later_change_nothing_of_those_before(tmp_path):
    path = write_frames(tmp_path / "a.xyz", frame())
    (before,) = list_crystals(path, DEFAULT)
    write_frames(path, frame(), frame("mp-2"))
    same, _ = list_crystals(path, DEFAULT)
    assert same.fingerprint == before.fingerprint
    write_frames(path, frame(a=2.6))
    (other,) = list_crystals(path, DEFAULT)
    assert other.fingerprint != before.fingerprint


def test_two_frames_of_a_name_are_numbered(tmp_path):
    path = write_frames(tmp_path / "a.xyz", frame(), frame())
    assert [m.name for m in list_crystals(path, DEFAULT)] == ["mp-1", "mp-1 (2)"]


@pytest.mark.parametrize(("pbc", "n_axes"), [((1, 1, 0), 2), ((0, 0, 0), 0)])
def test_a_slab_and_a_molecule_in_a_box_conduct_in_no_three_directions(
    tmp_path, pbc, n_axes
):
    atoms = frame()
    atoms.pbc = pbc
    path = write_frames(tmp_path / "slab.extxyz", atoms)
    with pytest.raises(DataFormatError, match=f"periodic along {n_axes} axes"):
        read_one(path)
