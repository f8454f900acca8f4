"""Crystals of files and folders, and the supercells that they get."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from pft_lightning.data.crystals import list_crystals, read_structures
from pft_lightning.data.sources import find_sources
from pft_lightning.data.supercells import SupercellOptions, build_supercell
from pft_lightning.errors import ConfigError, DataFormatError


ROCKSALT = """data_NaCl
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F m -3 m'
_space_group_IT_number 225
_chemical_formula_sum 'Na1 Cl1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na 0 0 0 1
Cl1 Cl 0.5 0.5 0.5 1.0(2)
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def operation(text: str) -> str:
    """The crystal with one operation of symmetry listed."""
    return ROCKSALT.replace(
        "loop_", f"_space_group_symop_operation_xyz '{text}'\nloop_"
    )


def read(path: Path) -> list[Atoms]:
    return list(read_structures(path))


def test_cif_is_read_plain_and_compressed_and_with_several_crystals(tmp_path):
    (crystal,) = read(write(tmp_path / "a.cif", ROCKSALT))
    assert crystal.get_chemical_formula() == "Cl4Na4"
    np.testing.assert_allclose(crystal.cell[:], 5.64 * np.eye(3), atol=1e-12)
    (tmp_path / "a.cif.bz2").write_bytes(bz2.compress(ROCKSALT.encode()))
    (again,) = read(tmp_path / "a.cif.bz2")
    np.testing.assert_array_equal(again.positions, crystal.positions)
    both = write(tmp_path / "b.cif", ROCKSALT + ROCKSALT.replace("NaCl", "x"))
    names = [crystal.name for crystal in list_crystals(both)]
    assert names == ["b-0", "b-1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROCKSALT.partition("loop_")[0], r"a\.cif: no crystal is in it"),
        (ROCKSALT[:300], r"a\.cif, data_NaCl: it lists no atoms"),
        (ROCKSALT[:-20], r"a\.cif: cannot be read .*incomplete row"),
        (ROCKSALT.rpartition("Cl1")[0], "its atoms are Na4, its formula Na1 Cl1"),
        (ROCKSALT.replace("0 0 0 1", "0 0 0 0.5"), "a site is occupied to 0.5"),
        (ROCKSALT.replace("0 0 0 1", "0 0 0 1.5"), "a site is occupied to 1.5"),
        (ROCKSALT.replace("0 0 0 1", "0 0 0 full"), "occupied to 'full'"),
        (ROCKSALT.replace("_length_c 5.64", "_length_c 0"), "_length_c is 0; a length"),
        (ROCKSALT.replace("_length_c 5.64", "_length_c -5.64"), "_length_c is -5.64"),
        (ROCKSALT.replace("_length_c 5.64", ""), "_length_c is missing"),
        (ROCKSALT.replace("_beta 90", "_beta 200"), "_beta is 200; from 0 to 180"),
        (ROCKSALT.replace("_beta 90", "_beta nan"), "_beta is 'nan'"),
        (ROCKSALT.replace("a 90", "a 30"), r"angles \[30, 30, 30\]|of its space group"),
        (ROCKSALT.replace("_gamma 90", "_gamma 120"), "not the symmetry of its space"),
        (ROCKSALT.replace("'F m -3 m'", "'Q 9'").replace("225", "999"), "number 999"),
        (ROCKSALT.replace("0 0 0 1", "0 0 ? 1"), "fract_z of the site Na is '[?]'"),
        (ROCKSALT.replace("0 0 0 1", "0 0 1e30 1"), "fract_z of the site Na is 1e"),
        (ROCKSALT.replace("0 0 0 1", "0 0 0 1 7"), "Wrong number 7 of tokens"),
        (ROCKSALT.replace("Na1 Na", "Na1 Qq"), "the site 'Qq' is of no element"),
        (ROCKSALT.replace("0.5 0.5 0.5", "0 0 0"), "Na and Cl share the site"),
        (operation("x, y, q"), "'x, y, q' is none"),
        (operation("x, y"), "'x, y' is none"),
        (operation("x, y, 2/0"), "'x, y, 2/0' is none"),
        (operation("x, x, z"), "'x, x, z' is none"),
        (ROCKSALT + ";text", "was begun does not end"),
        ("no crystal at all", "does not begin with data_"),
    ],
)
def test_a_cif_that_is_no_whole_crystal_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(DataFormatError, match=message):
        read(write(tmp_path / "a.cif", text))


@pytest.mark.parametrize(
    "formula", ["'Na4 Cl4'", "?", "'Cl Na'", "'NaCl (salt)'", "Na1.1.1"]
)
def test_a_formula_counts_up_to_its_multiple_and_only_if_it_is_one(tmp_path, formula):
    text = ROCKSALT.replace("'Na1 Cl1'", formula)
    assert len(read(write(tmp_path / "a.cif", text))) == 1


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("w.hess", b"$orca_hessian_file", r"w\.hess: is a file of .* as phonons="),
        ("w.fchk.gz", gzip.compress(b"water"), "Give it as phonons="),
        ("a.json", b'{"force_constants": []}', "Give it as phonons="),
        ("a.tar.gz", gzip.compress(b"a"), "is an archive, .* Unpack it"),
        ("b.zip", b"PK", "is an archive, .* Unpack it"),
        ("junk.dat", b"junk\n", r"junk\.dat: is of no format that ASE knows"),
        ("junk.nothing", b"junk\n", "is of no format .* Give CIF"),
        ("cut.json", b'{"a": ', r"cut\.json: is of no format .* or damaged"),
        (
            "texts.json",
            b'{"1": {"a": {"__ndarray__": [[3], "S70000000", ["a", "b", "c"]]}}}',
            "an array is of the kind 'S70000000'",
        ),
        # ASE would hold a line of 60 bytes for each break.
        ("a.gen.gz", gzip.compress(b"\n" * (1 << 25)), r"a\.gen\.gz: .* unpack to"),
    ],
    ids=lambda value: "data" if isinstance(value, bytes) else None,
)
def test_what_ase_cannot_read_is_refused_with_what_to_do(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataFormatError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.gen", "b@1.gen", "a.json"])
def test_other_formats_of_ase_are_read_plain_and_compressed(tmp_path, name):
    crystal = bulk("NaCl", "rocksalt", 5.6)
    ase.io.write(tmp_path / "x.tmp", crystal, format=name.rpartition(".")[2])
    (tmp_path / "x.tmp").rename(tmp_path / name)
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    for path in (tmp_path / name, packed):
        (found,) = read(path)
        np.testing.assert_allclose(found.positions, crystal.positions, atol=1e-9)


def test_folders_are_searched_for_crystals_of_all_kinds(tmp_path):
    atoms = bulk("NaCl", "rocksalt", 5.6)
    write(tmp_path / "cif" / "a.cif", ROCKSALT)
    for name in ("relax/POSCAR", "relax/CONTCAR", "flat/b.vasp", "c.poscar"):
        path = write(tmp_path / name, "")
        ase.io.write(path, atoms, format="vasp")
    write(tmp_path / "relax" / "INCAR", "ISIF = 3")
    write(tmp_path / "relax" / "thermal_properties.yaml", "a: 1")
    calculation = tmp_path / "phonon"
    build_supercell(atoms, SupercellOptions(supercell_matrix=[2, 2, 2]), "", 1e-5).save(
        write(calculation / "phonopy_disp.yaml", "")
    )
    for name in ("POSCAR", "SPOSCAR", "POSCAR-001"):
        ase.io.write(calculation / name, atoms, format="vasp")
    found = find_sources(tmp_path, kind="structure")
    assert not found.skipped
    assert [str(path.relative_to(tmp_path)) for path in found.paths] == [
        *("c.poscar", "cif/a.cif", "flat/b.vasp", "phonon", "relax/CONTCAR")
    ]
    crystals = list_crystals(tmp_path, SupercellOptions(max_atoms=8))
    assert [c.name for c in crystals] == ["c", "a", "b", "phonon", "relax"]
    assert [len(c.read().supercell) for c in crystals] == [8, 8, 8, 16, 8]


def test_a_supercell_is_as_long_as_is_asked_for_between_opposite_faces():
    hexagonal = bulk("Mg", "hcp", a=3.2, c=5.2)
    options = SupercellOptions(min_length=10)
    phonon = build_supercell(hexagonal, options, "Mg", 1e-5)
    # Faces of the cell are 3.2 sqrt(3)/2 = 2.77 Å and 5.2 Å apart.
    assert np.diag(phonon.supercell_matrix).tolist() == [4, 4, 2]
    distances = 1 / np.linalg.norm(np.linalg.inv(phonon.supercell.cell), axis=0)
    assert (distances >= 10).all()
    cubic = bulk("NaCl", "rocksalt", a=5.0)  # exactly twice, to rounding
    matrix = build_supercell(cubic, options, "NaCl", 1e-5).supercell_matrix
    assert np.diag(matrix).tolist() == [2, 2, 2]


def test_isotopes_keep_their_masses_and_lower_the_symmetry():
    atoms = bulk("Si", "diamond", 5.43)
    plain = build_supercell(atoms, SupercellOptions(), "Si", 1e-5)
    atoms.set_masses([28.0, 30.0])
    mixed = build_supercell(atoms, SupercellOptions(), "Si", 1e-5)
    assert sorted(set(mixed.unitcell.masses)) == [28.0, 30.0]
    assert len(mixed.supercell) == len(plain.supercell) == 64
    assert set(plain.unitcell.masses) == {plain.unitcell.masses[0]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"supercell_matrix": [2, 2, 2], "min_length": 9.0}, "give one of them"),
        ({"supercell_matrix": [1, 1, 0]}, "makes no supercell"),
        ({"supercell_matrix": [2, 2]}, "makes no supercell"),
        ({"supercell_matrix": [1, 0, 0, 0, 1, 0, 0, 0, -1]}, "positive determinant"),
    ],
)
def test_supercells_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SupercellOptions(**options)


def test_a_supercell_that_is_too_large_is_refused_by_the_name_of_the_file():
    with pytest.raises(DataFormatError, match=r"Si\.cif.*atoms"):
        build_supercell(
            bulk("Si", "diamond", 5.43),
            SupercellOptions(min_length=90),
            "Si.cif",
            1e-5,
        )
