from __future__ import annotations

import contextlib
import multiprocessing
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from molecular_files import write_info
from phonopy import Phonopy

from pft_lightning.data.readers import (
    PhononReadOptions,
    list_entries,
    read_entry,
    read_phonon,
)
from pft_lightning.data.readers.hessian_layout import hessian_to_force_constants
from pft_lightning.data.readers.lmdb_check import check_pages
from pft_lightning.data.upstream import UpstreamFrames
from pft_lightning.errors import DataFormatError


OPTIONS = PhononReadOptions()


def exact(phonon: Phonopy) -> np.ndarray:
    phonon.produce_force_constants(calculate_full_force_constants=True)
    return phonon.force_constants


def to_atoms(phonon: Phonopy) -> Atoms:
    cell = phonon.supercell
    return Atoms(
        numbers=cell.numbers, cell=cell.cell, positions=cell.positions, pbc=True
    )


def write(path: Path, atoms: Atoms, **data: object) -> Path:
    with ase.db.connect(path) as database:
        database.write(atoms, data=data)
    return path


def as_reference(full: np.ndarray) -> np.ndarray:
    """Layout and precision that the reference implementation writes."""
    n_atoms = len(full)
    hessian = full.swapaxes(1, 2).reshape(3 * n_atoms, 3 * n_atoms)
    return hessian.astype(np.float32)


def test_a_database_of_the_reference_implementation(
    tmp_path: Path, any_spring_phonon: Phonopy
) -> None:
    full, atoms = exact(any_spring_phonon), to_atoms(any_spring_phonon)
    atoms.calc = SinglePointCalculator(
        atoms,
        energy=-3.0,
        forces=np.zeros_like(atoms.positions),
        stress=np.zeros((3, 3)),
    )
    path = write(tmp_path / "data_0000.aselmdb", atoms, hessian=as_reference(full))
    (entry,) = list_entries(path)
    record = read_entry(path, entry, OPTIONS)
    np.testing.assert_allclose(record.force_constants.full(), full, atol=1e-5)
    assert record.force_constants.n_primitive == len(any_spring_phonon.primitive)
    assert record.energy == pytest.approx(-3.0)
    assert record.forces.shape == (len(atoms), 3)
    assert record.stress.shape == (3, 3)
    assert record.name == "data_0000/1"


def test_targets_that_the_row_lacks(tmp_path: Path, spring_phonon) -> None:
    phonon = spring_phonon()
    path = write(
        tmp_path / "a.aselmdb",
        to_atoms(phonon),
        hessian=as_reference(exact(phonon)),
        mp_id="mp-22862",
    )
    record = read_entry(path, 1, OPTIONS)
    assert record.name == "mp-22862"
    assert record.energy is None
    assert not record.forces.any()
    unknown = read_entry(path, 1, PhononReadOptions(relaxed="none"))
    assert unknown.forces is None
    assert unknown.stress is None


def test_rows_are_entries(tmp_path: Path, spring_phonon) -> None:
    path = tmp_path / "many.aselmdb"
    names = ("NaCl conventional", "simple cubic", "bcc, oblique")
    for name in names:
        phonon = spring_phonon(name)
        write(path, to_atoms(phonon), hessian=as_reference(exact(phonon)))
    entries = list_entries(path)
    sizes = [read_entry(path, entry, OPTIONS).n_atoms for entry in entries]
    assert sizes == [len(spring_phonon(name).supercell) for name in names]


@pytest.mark.parametrize("n_atoms", [1, 2, 3, 4])
def test_layouts(n_atoms: int) -> None:
    generator = np.random.default_rng(n_atoms)
    full = generator.standard_normal((n_atoms, n_atoms, 3, 3))
    full += full.transpose(1, 0, 3, 2)
    coordinates = full.swapaxes(1, 2)
    layouts = [
        full,
        coordinates,
        coordinates.reshape(3 * n_atoms, 3 * n_atoms),
        coordinates.reshape(-1),
        full.reshape(-1),
    ]
    for layout in layouts:
        np.testing.assert_array_equal(hessian_to_force_constants(layout, n_atoms), full)


def test_ambiguous_and_foreign_layouts() -> None:
    noise = np.random.default_rng(0).standard_normal(36)
    with pytest.raises(DataFormatError, match="ambiguous for 2 atoms"):
        hessian_to_force_constants(noise, 2)
    with pytest.raises(DataFormatError, match=r"shape \(6, 6\).*\(9, 9\)"):
        hessian_to_force_constants(np.zeros((6, 6)), 3)


def test_bad_rows(tmp_path: Path, spring_phonon) -> None:
    phonon = spring_phonon()
    path, atoms = tmp_path / "bad.aselmdb", to_atoms(phonon)
    good = as_reference(exact(phonon))
    broken = good.copy()
    broken[0, 3] = np.nan
    write(path, atoms)
    write(path, atoms, hessian=good[:9, :9])
    write(path, atoms, hessian=broken)
    write(path, atoms, hessian=good + np.float32(1.0))
    messages = [
        "row 1: there is no 'hessian'",
        r"row 2: the hessian has shape \(9, 9\)",
        "row 3: hessian.* is nan",
        "row 4: .*max_asymmetry",
    ]
    for entry, message in zip(list_entries(path), messages, strict=True):
        with pytest.raises(DataFormatError, match=message):
            read_entry(path, entry, OPTIONS)


# ASE's LMDB class complains when it is deleted after it failed to open a file.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "x.aselmdb"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DataFormatError, match=r"x\.aselmdb"):
        list_entries(path)


def test_elements_without_a_standard_mass(tmp_path: Path, spring_phonon) -> None:
    phonon = spring_phonon("simple cubic")
    atoms = to_atoms(phonon)
    atoms.numbers[:] = 84
    path = write(tmp_path / "Po.aselmdb", atoms, hessian=as_reference(exact(phonon)))
    assert read_entry(path, 1, OPTIONS).atomic_numbers[0] == 84


def test_a_forked_process_reads_it(tmp_path: Path, spring_phonon) -> None:
    phonon = spring_phonon()
    hessian = as_reference(exact(phonon))
    path = write(tmp_path / "a.aselmdb", to_atoms(phonon), hessian=hessian)
    expected = read_entry(path, 1, OPTIONS).positions
    with multiprocessing.get_context("fork").Pool(1) as pool:
        record = pool.apply_async(read_entry, (path, 1, OPTIONS)).get(timeout=60)
    np.testing.assert_array_equal(record.positions, expected)
    np.testing.assert_array_equal(read_entry(path, 1, OPTIONS).positions, expected)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Database of upstream frames, with a branch above its leaves and large values."""
    path = tmp_path / "frames.aselmdb"
    generator = np.random.default_rng(0)
    with ase.db.connect(path) as database:
        for i in range(24):
            atoms = Atoms("Cu4", positions=np.eye(4, 3) * 2.5, cell=np.eye(3) * 5)
            forces = generator.standard_normal((4, 3))
            atoms.calc = SinglePointCalculator(atoms, energy=-3.0, forces=forces)
            notes = generator.bytes(3000).hex() if i == 5 else ""
            database.write(atoms, data={"notes": notes})
    return path


def flipped(path: Path, position: int, bit: int) -> Path:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    target = path.with_name(f"{position}-{bit}.aselmdb")
    target.write_bytes(content)
    return target


def test_a_flipped_bit_in_the_pages_of_a_database_is_named(frames: Path) -> None:
    """LMDB would end the process."""
    check_pages(frames)
    n_pages = frames.stat().st_size // 4096
    kinds = {frames.read_bytes()[4096 * page + 10] for page in range(2, n_pages)}
    assert kinds >= {1, 2, 4}  # branch, leaf, large value
    generator, said = np.random.default_rng(0), []
    for page in range(2, n_pages):
        # Number, kind, and where the entries are.
        bits = [8 * byte + b for byte in (0, 10, 12, 14) for b in (3, 5)]
        for bit in generator.choice(bits, 4, replace=False):
            target = flipped(frames, 4096 * page + bit // 8, bit % 8)
            with contextlib.suppress(DataFormatError):  # of a page that is free
                check_pages(target)
                continue
            with pytest.raises(DataFormatError, match=r"page \d+ is damaged.*again"):
                check_pages(target)
            said.append(page)
    assert len(said) > 10


def test_a_damaged_database_is_a_skip_among_others(frames: Path) -> None:
    content = bytearray(frames.read_bytes())
    for page in range(2, len(content) // 4096):
        if content[4096 * page + 10] == 1:
            # Of its first entry: the page below, which is then beyond the last one.
            pointer = int.from_bytes(content[4096 * page + 16 :][:2], "little")
            content[4096 * page + pointer + 1] ^= 0x40
    bad = frames.with_name("bad.aselmdb")
    bad.write_bytes(content)
    found = UpstreamFrames([bad, frames], 1.0)
    assert len(found) == 24
    ((name, reason),) = found.skipped
    assert name == str(bad)
    assert "is damaged" in reason


def test_a_row_without_a_lattice_is_a_molecule(tmp_path: Path, water) -> None:
    atoms, hessian = water
    write_info(tmp_path / "a.xyz", atoms, hessian)
    atoms.set_cell([10.0, 10.0, 10.0])
    path = write(tmp_path / "a.aselmdb", atoms, hessian=hessian)
    row, frame = read_entry(path, 1, OPTIONS), read_phonon(tmp_path / "a.xyz")
    assert not row.pbc.any()
    assert row.stress is None
    np.testing.assert_allclose(
        row.force_constants.compact, frame.force_constants.compact, atol=1e-9
    )


def test_a_row_that_may_be_a_crystal_is_refused(tmp_path: Path, water) -> None:
    """ASE says pbc F F F of a cell, too, where nobody says anything."""
    atoms, hessian = water
    atoms.set_cell([10.0, 10.0, 10.0])
    path = write(tmp_path / "a.aselmdb", atoms, hessian=hessian)
    with pytest.raises(DataFormatError, match="nobody knows whether it is a crystal"):
        read_entry(path, 1, PhononReadOptions(relaxed="none"))
