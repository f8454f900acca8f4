from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from phonopy import Phonopy
from phonopy.file_IO import (
    write_FORCE_CONSTANTS,
    write_force_constants_to_hdf5,
    write_FORCE_SETS,
)
from phonopy.interface.vasp import write_vasp

from pft_lightning.data.readers import read_phonon
from pft_lightning.data.records import StructureRecord
from pft_lightning.errors import ConfigError, DataFormatError


@pytest.fixture
def phonon(spring_phonon) -> Phonopy:
    return spring_phonon()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "NaCl"
    path.mkdir()
    return path


def save_cells(phonon: Phonopy, folder: Path, name: str = "phonopy_disp.yaml") -> None:
    phonon.save(folder / name, settings={"force_sets": False, "displacements": True})


def exact(phonon: Phonopy, *, full: bool = True) -> np.ndarray:
    dataset = phonon.dataset
    phonon.produce_force_constants(calculate_full_force_constants=full)
    phonon.dataset, constants = dataset, phonon.force_constants
    return constants


def check(record: StructureRecord, phonon: Phonopy) -> None:
    assert record.name == "NaCl"
    np.testing.assert_allclose(record.force_constants.full(), exact(phonon), atol=1e-7)
    np.testing.assert_allclose(record.positions, phonon.supercell.positions, atol=1e-7)


def test_force_sets_beside_cells(phonon: Phonopy, folder: Path) -> None:
    save_cells(phonon, folder)
    write_FORCE_SETS(phonon.dataset, folder / "FORCE_SETS")
    check(read_phonon(folder), phonon)


def test_force_sets_of_random_displacements(phonon: Phonopy, folder: Path) -> None:
    expected = exact(phonon).copy()
    phonon.generate_displacements(distance=0.01, number_of_snapshots=4, random_seed=1)
    displacements = phonon.dataset["displacements"]
    phonon.forces = -np.einsum("ijab,njb->nia", expected, displacements)
    save_cells(phonon, folder)
    write_FORCE_SETS(phonon.dataset, folder / "FORCE_SETS")
    record = read_phonon(folder)
    np.testing.assert_allclose(record.force_constants.full(), expected, atol=1e-5)
    text = (folder / "FORCE_SETS").read_text().splitlines()
    (folder / "FORCE_SETS").write_text("\n".join(text[:-3]))
    with pytest.raises(DataFormatError, match="no multiple of the supercell's 16"):
        read_phonon(folder)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("hdf5", [True, False])
def test_force_constants_beside_cells(
    phonon: Phonopy, folder: Path, full: bool, hdf5: bool
) -> None:
    save_cells(phonon, folder, "phonopy.yaml")
    array, rows = exact(phonon, full=full), phonon.primitive.p2s_map
    if hdf5:
        write_force_constants_to_hdf5(
            array,
            filename=folder / "force_constants.hdf5",
            p2s_map=rows,
            physical_unit="eV/angstrom^2",
        )
    else:
        write_FORCE_CONSTANTS(array, folder / "FORCE_CONSTANTS", p2s_map=rows)
    check(read_phonon(folder), phonon)


def test_rows_of_other_atoms_are_refused(phonon: Phonopy, folder: Path) -> None:
    save_cells(phonon, folder)
    rows = np.array([1, 9])
    write_FORCE_CONSTANTS(exact(phonon)[rows], folder / "FORCE_CONSTANTS", p2s_map=rows)
    with pytest.raises(DataFormatError, match="p2s_map"):
        read_phonon(folder)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("p2s_map", {"shape": (10**7,), "dtype": "i8"}, r"shape \(10000000,\); exp"),
        ("p2s_map", {"shape": (2,), "dtype": "S70000000"}, "p2s_map has the type"),
        (
            "p2s_map",
            {"shape": (2,), "maxshape": (None,), "chunks": (10**7,), "dtype": "i8"},
            "chunks of 80000000 bytes",
        ),
        ("physical_unit", {"shape": (10**7,), "dtype": "S9"}, "one name of a unit"),
        ("physical_unit", {"shape": (1,), "dtype": "S70000000"}, "one name of a"),
    ],
)
def test_arrays_of_hdf5_that_fill_the_memory_are_refused_unread(
    phonon: Phonopy, folder: Path, name: str, values: dict, message: str
) -> None:
    import h5py

    save_cells(phonon, folder, "phonopy.yaml")
    path = folder / "force_constants.hdf5"
    rows = None if name == "p2s_map" else phonon.primitive.p2s_map
    write_force_constants_to_hdf5(
        exact(phonon, full=False), filename=path, p2s_map=rows
    )
    with h5py.File(path, "a") as content:
        # Nothing is stored of zeros.
        content.create_dataset(name, **values)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataFormatError, match=message):
        read_phonon(folder)


def test_poscar_and_its_supercell(phonon: Phonopy, folder: Path) -> None:
    write_FORCE_CONSTANTS(exact(phonon), folder / "FORCE_CONSTANTS")
    write_vasp(folder / "POSCAR", phonon.unitcell)
    with pytest.raises(DataFormatError, match=r"8 atoms.*16.*supercell_matrix"):
        read_phonon(folder)
    check(read_phonon(folder, supercell_matrix=[2, 1, 1]), phonon)
    nested = [[2, 0, 0], [0, 1, 0], [0, 0, 1]]
    check(read_phonon(folder, supercell_matrix=nested), phonon)
    with pytest.raises(ConfigError, match="has 2 entries"):
        read_phonon(folder, supercell_matrix=[2, 1])
    write_vasp(folder / "SPOSCAR", phonon.supercell)
    check(read_phonon(folder), phonon)
    (folder / "POSCAR").unlink()
    check(read_phonon(folder), phonon)


def test_poscar_of_the_whole_cell(phonon: Phonopy, folder: Path) -> None:
    write_vasp(folder / "POSCAR", phonon.supercell)
    write_FORCE_CONSTANTS(exact(phonon), folder / "FORCE_CONSTANTS")
    check(read_phonon(folder), phonon)


def test_foreign_supercell_is_refused(phonon: Phonopy, folder: Path) -> None:
    write_FORCE_CONSTANTS(exact(phonon), folder / "FORCE_CONSTANTS")
    write_vasp(folder / "POSCAR", phonon.unitcell)
    stretched = phonon.supercell.copy()
    stretched.cell = stretched.cell * 1.1
    write_vasp(folder / "SPOSCAR", stretched)
    with pytest.raises(DataFormatError, match="no supercell of POSCAR"):
        read_phonon(folder)


def cut(folder: Path, name: str, lines: int) -> None:
    text = (folder / name).read_text().splitlines()
    (folder / name).write_text("\n".join(text[:-lines]) + "\n")


def remove_cells(folder: Path) -> None:
    (folder / "phonopy_disp.yaml").unlink()


def other_atom_count(folder: Path) -> None:
    text = (folder / "FORCE_SETS").read_text()
    (folder / "FORCE_SETS").write_text(text.replace("16", "15", 1))


def other_displacement(folder: Path) -> None:
    text = (folder / "FORCE_SETS").read_text().splitlines()
    row = next(i for i, line in enumerate(text) if len(line.split()) == 3)
    text[row] = "0.02 0.03 0.0"
    (folder / "FORCE_SETS").write_text("\n".join(text) + "\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: cut(f, "FORCE_SETS", 4), "FORCE_SETS: has .* lines; 2 displ.*again"),
        (lambda f: (f / "FORCE_SETS").write_text(""), "is empty"),
        (other_atom_count, "forces on 15 atoms, but the supercell has 16"),
        (other_displacement, "different calculations"),
        (remove_cells, "cells are missing.*phonopy_disp.yaml"),
    ],
)
def test_bad_force_sets(
    phonon: Phonopy, folder: Path, change: Callable[[Path], None], message: str
) -> None:
    save_cells(phonon, folder)
    write_FORCE_SETS(phonon.dataset, folder / "FORCE_SETS")
    change(folder)
    with pytest.raises(DataFormatError, match=message):
        read_phonon(folder)


def test_bad_force_constants(phonon: Phonopy, folder: Path) -> None:
    save_cells(phonon, folder)
    path = folder / "FORCE_CONSTANTS"
    write_FORCE_CONSTANTS(exact(phonon), path)
    cut(folder, "FORCE_CONSTANTS", 7)
    with pytest.raises(DataFormatError, match=r"16 x 16 blocks of .* need 2816"):
        read_phonon(folder)
    write_FORCE_CONSTANTS(exact(phonon)[:8, :8], path)
    with pytest.raises(DataFormatError, match=r"forces on 8 atoms, .* has 16"):
        read_phonon(folder)
    path.write_text("these are no numbers\n")
    with pytest.raises(DataFormatError, match="FORCE_CONSTANTS"):
        read_phonon(folder)
