"""What is read from any source is the calculation that was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from phonopy import Phonopy
from phonopy.file_IO import write_FORCE_CONSTANTS

import pft_lightning as pft
from pft_lightning.data.readers import read_phonon
from pft_lightning.data.store import build_store
from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation.reference import (
    list_materials,
    read_reference,
    take_reference,
    to_phonopy,
)


CHARGES = np.array([1.1, -1.1])[:, None, None] * np.eye(3)


def check_same(found: Phonopy, expected: Phonopy) -> None:
    for name in ("unitcell", "supercell", "primitive"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        # Files have sixteen decimals.
        np.testing.assert_allclose(ours.cell, theirs.cell, atol=1e-12)
        np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-12)
        np.testing.assert_array_equal(ours.numbers, theirs.numbers)
        np.testing.assert_allclose(ours.masses, theirs.masses, rtol=1e-7)
    np.testing.assert_array_equal(found.primitive.p2s_map, expected.primitive.p2s_map)
    np.testing.assert_allclose(
        found.force_constants, expected.force_constants, atol=1e-12
    )


def write(phonon: Phonopy, potential, folder: Path) -> Path:
    phonon.force_constants = pft.force_constants(potential, phonon)
    path = folder / "crystal.yaml"
    phonon.save(path, settings={"force_constants": True})
    return path


@pytest.fixture
def written(rocksalt, potential, tmp_path):
    return rocksalt, write(rocksalt, potential, tmp_path)


def test_files_and_stores_give_the_calculation_back(any_phonon, potential, tmp_path):
    path = write(any_phonon, potential, tmp_path)
    check_same(read_reference(path), any_phonon)
    build_store(path, tmp_path / "a.store", cutoff=3.0, progress=False)
    check_same(read_reference(tmp_path / "a.store", 0), any_phonon)


def test_force_constants_in_memory_are_symmetrised_like_those_of_files(written):
    expected, _ = written
    expected.force_constants = expected.force_constants + 1e-3
    found = take_reference(expected)
    np.testing.assert_allclose(found.force_constants.sum(axis=1), 0, atol=1e-9)


def test_born_charges_travel_through_files_and_stores(rocksalt, potential, tmp_path):
    rocksalt.force_constants = pft.force_constants(potential, rocksalt)
    rocksalt.nac_params = {
        "born": CHARGES,
        "dielectric": 2.4 * np.eye(3),
        "factor": 14.399652,
    }
    path = tmp_path / "NaCl.yaml"
    rocksalt.save(path, settings={"force_constants": True})
    build_store(path, tmp_path / "a.store", cutoff=3.0, progress=False)
    for found in (read_reference(path), read_reference(tmp_path / "a.store", 0)):
        np.testing.assert_allclose(found.nac_params["born"], CHARGES, atol=1e-12)
        rocksalt.run_qpoints([[0.01, 0, 0]])
        found.run_qpoints([[0.01, 0, 0]])
        # phonopy's factors of charges differ in their seventh digit by version.
        np.testing.assert_allclose(
            found.qpoints.frequencies, rocksalt.qpoints.frequencies, atol=1e-5
        )


def test_a_born_file_in_a_folder_is_used(rocksalt, potential, tmp_path):
    rocksalt.force_constants = pft.force_constants(potential, rocksalt)
    rocksalt.save(tmp_path / "phonopy_disp.yaml")
    write_FORCE_CONSTANTS(
        rocksalt.force_constants,
        filename=tmp_path / "FORCE_CONSTANTS",
        p2s_map=rocksalt.primitive.p2s_map,
    )
    tensors = [2.4 * np.eye(3), *CHARGES]
    lines = [" ".join(map(str, tensor.ravel())) for tensor in tensors]
    (tmp_path / "BORN").write_text("\n".join(["14.4", *lines]))
    found = read_reference(tmp_path).nac_params
    np.testing.assert_allclose(found["born"], CHARGES, atol=1e-12)
    np.testing.assert_allclose(found["dielectric"], 2.4 * np.eye(3), atol=1e-12)


def test_a_code_in_bohr_and_rydberg_comes_back_in_angstrom_and_ev(rocksalt, potential):
    rocksalt.force_constants = pft.force_constants(potential, rocksalt)
    bohr, rydberg = 0.529177210, 13.605693
    cell = rocksalt.unitcell.copy()
    cell.cell = rocksalt.unitcell.cell / bohr
    in_bohr = Phonopy(
        cell,
        rocksalt.supercell_matrix,
        primitive_matrix="F",
        calculator="qe",
        log_level=0,
    )
    in_bohr.force_constants = rocksalt.force_constants / (rydberg / bohr**2)
    found = take_reference(in_bohr)
    # The constants above have nine digits.
    np.testing.assert_allclose(
        found.supercell.positions, rocksalt.supercell.positions, rtol=1e-7, atol=1e-9
    )
    np.testing.assert_allclose(
        found.force_constants, rocksalt.force_constants, rtol=1e-6, atol=1e-9
    )


def test_a_record_without_a_calculation_is_refused(written):
    import dataclasses

    record = dataclasses.replace(read_phonon(written[1]), cells=None)
    with pytest.raises(DataFormatError, match="no phonon calculation"):
        to_phonopy(record)


def test_a_calculation_without_force_constants_is_refused(rocksalt):
    with pytest.raises(DataFormatError, match="produce_force_constants"):
        take_reference(rocksalt)


def test_names_are_unique_and_fit_for_files(written, tmp_path):
    expected, path = written
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / path.name).write_bytes(path.read_bytes())
    names = [m.name for m in list_materials([tmp_path / "a", tmp_path / "b"])]
    assert names == ["crystal", "crystal (2)"]
    (odd,) = list_materials({"a/b: c": expected})
    assert odd.name == "a_b_ c"
