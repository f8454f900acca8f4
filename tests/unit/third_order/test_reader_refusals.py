"""What the reader of third-order force constants refuses, in one sentence each."""

from __future__ import annotations

import copy
import importlib.metadata
import os
from typing import Any

import numpy as np
import pytest
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.data import third_order
from pft_lightning.data.readers.options import PhononReadOptions
from pft_lightning.data.readers.pairs import infer_cutoff
from pft_lightning.data.readers.phono3py import read_third_order
from pft_lightning.data.third_order import ThirdOrderRecord, check_phono3py
from pft_lightning.errors import BackendUnavailableError, DataFormatError

from .crystals import calculated, edited, needs_phono3py, save, write_folder


@pytest.fixture(autouse=True)
def _phono3py() -> None:
    needs_phono3py()


def scale_forces(content: dict) -> None:
    entry = content["displacement_pairs"][0]["paired_with"][3]
    entry["forces"] = (np.array(entry["forces"]) * 3).tolist()


def exchange_pairs(content: dict) -> None:
    pairs = content["displacement_pairs"][0]["paired_with"]
    pairs[2]["forces"], pairs[6]["forces"] = pairs[6]["forces"], pairs[2]["forces"]


def drop_pair_forces(content: dict) -> None:
    del content["displacement_pairs"][0]["paired_with"][4]["forces"]


def drop_atom(content: dict) -> None:
    first = content["displacement_pairs"][0]
    last = first["paired_with"][-1]["atom"]
    first["paired_with"] = [p for p in first["paired_with"] if p["atom"] != last]


def drop_first(content: dict) -> None:
    del content["displacement_pairs"][1]


def shorten(content: dict) -> None:
    content["displacement_pairs"][0]["paired_with"][0]["forces"].pop()


def put_nan(content: dict) -> None:
    content["displacement_pairs"][0]["paired_with"][0]["forces"][3][1] = float("nan")


def zero_near(content: dict) -> None:
    entry = content["displacement_pairs"][0]["paired_with"][0]
    entry["forces"] = np.zeros((8, 3)).tolist()


def other_supercell(content: dict) -> None:
    content["supercell_matrix"] = [[2, 0, 0], [0, 1, 0], [0, 0, 1]]


def no_pairs(content: dict) -> None:
    for first in content["displacement_pairs"]:
        del first["paired_with"]


def no_data(content: dict) -> None:
    del content["displacement_pairs"]


def far_atom(content: dict) -> None:
    content["displacement_pairs"][0]["paired_with"][0]["atom"] = 99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scale_forces, r"displaced supercell 6, of atoms 1 and \d+, differ"),
        (exchange_pairs, r"differ from what the second-order force constants say"),
        (drop_pair_forces, r"displaced supercell 7 of \d+ has no forces"),
        (drop_atom, r"give 0 of 3 directions for atom \d+.*pairs are missing"),
        (drop_first, r"give 0 of 3 directions for atom 5"),
        (shorten, r"forces of displaced supercell 3 of \d+ has shape \(7, 3\)"),
        (put_nan, r"forces\[3, 1\] is nan"),
        (zero_near, r"forces of 1 pairs are all zero"),
        (other_supercell, "make"),
        (no_pairs, r"displacement_pairs\[0\].paired_with is no list"),
        (no_data, r"no FORCES_FC3 or fc3.hdf5 lies beside it"),
        (far_atom, "moves atom 99"),
    ],
)
def test_what_cannot_be_right_is_refused_with_one_sentence(
    tmp_path, change, message: str
) -> None:
    path = save(calculated(), tmp_path / "a.yaml")
    edited(path, change)
    with pytest.raises(DataFormatError, match=message) as error:
        read_third_order(path)
    assert str(path) in str(error.value)


def test_force_files_of_other_calculations_are_refused(tmp_path) -> None:
    folder = write_folder(calculated(), tmp_path / "MgO")
    file = folder / "FORCES_FC3"
    whole = file.read_text()
    file.write_text("\n".join(whole.splitlines()[:-8]))
    with pytest.raises(DataFormatError, match=r"FORCES_FC3: has forces in \d+ lines"):
        read_third_order(folder)
    file.write_text(whole.replace("# 1 ", "# 2 ", 1))
    with pytest.raises(DataFormatError, match="are not the"):
        read_third_order(folder)
    lines = whole.splitlines()
    lines[2] = "0.1 nan 0.2"
    file.write_text("\n".join(lines))
    with pytest.raises(DataFormatError, match="supercell 1 are not finite"):
        read_third_order(folder)
    lines[2] = "0.1 0.2"
    file.write_text("\n".join(lines))
    with pytest.raises(DataFormatError, match="has 2 numbers"):
        read_third_order(folder)


def test_fc3_of_other_cells_is_refused(tmp_path) -> None:
    from phono3py.file_IO import write_fc3_to_hdf5

    phonons = copy.deepcopy(calculated())
    phonons.dataset = None
    phonons.save(tmp_path / "phono3py.yaml")
    file = tmp_path / "fc3.hdf5"
    write_fc3_to_hdf5(np.zeros((2, 4, 4, 3, 3, 3)), filename=file)
    with pytest.raises(DataFormatError, match=r"fc3 has shape \(2, 4, 4, 3, 3, 3\)"):
        read_third_order(tmp_path)
    right = np.zeros((2, 8, 8, 3, 3, 3))
    write_fc3_to_hdf5(right, filename=file, p2s_map=np.array([1, 5]))
    with pytest.raises(DataFormatError, match=r"atoms \[2, 6\]"):
        read_third_order(tmp_path)
    many = np.zeros(10_000_000, dtype=np.int64)
    write_fc3_to_hdf5(right, filename=file, p2s_map=many)
    with pytest.raises(DataFormatError, match=r"p2s_map has shape \(10000000,\); exp"):
        read_third_order(tmp_path)
    write_fc3_to_hdf5(right, filename=file)
    with pytest.raises(DataFormatError, match=r"largest third-order .* is 0 eV"):
        read_third_order(tmp_path)
    noise = np.random.default_rng(0).standard_normal(right.shape)
    write_fc3_to_hdf5(noise, filename=file)
    with pytest.raises(DataFormatError, match=r"max_third_order_asymmetry=0\.1"):
        read_third_order(tmp_path)
    loose = PhononReadOptions(max_third_order_asymmetry=1.0)
    assert isinstance(read_third_order(tmp_path, loose), ThirdOrderRecord)


def test_files_of_second_order_are_no_data_of_third(tmp_path, spring_phonon) -> None:
    path = tmp_path / "phonopy.yaml"
    spring_phonon().save(path, settings={"force_sets": True})
    with pytest.raises(DataFormatError, match="holds nothing of third order"):
        read_third_order(path)
    with pytest.raises(DataFormatError, match=r"none of phono3py_params\.yaml"):
        read_third_order(tmp_path)


def test_files_are_data_and_nothing_in_them_is_run(tmp_path) -> None:
    path = save(calculated(), tmp_path / "a.yaml")
    mark = tmp_path / "ran"
    path.write_text(
        path.read_text() + f"\nx: !!python/object/apply:os.mkdir ['{mark}']\n"
    )
    with pytest.raises(DataFormatError, match="holds more than data"):
        read_third_order(path)
    assert not os.path.exists(mark)


@pytest.mark.parametrize("installed", [None, "3.19.0", "4.9.1"])
def test_without_a_new_phono3py_the_command_to_install_it_is_said(
    monkeypatch, installed
) -> None:
    def version(name: str) -> str:
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(third_order, "version", version)
    with pytest.raises(BackendUnavailableError, match=r"4\.10.*\[kappa\]") as error:
        check_phono3py()
    assert (installed or "not installed") in str(error.value)


def test_an_atom_that_is_moved_back_has_no_forces_and_tells_no_cutoff() -> None:
    cell = PhonopyAtoms(["Ne", "Ne"], cell=np.eye(3) * 6, positions=[[0] * 3, [3] * 3])
    forces, still = np.ones((2, 3)), np.zeros((2, 3))
    step = np.array([0.03, 0.0, 0.0])
    first: dict[str, Any] = {"number": 0, "displacement": step}
    first["second_atoms"] = [
        {"number": 0, "displacement": -step, "forces": still},
        {"number": 1, "displacement": step, "forces": forces},
    ]
    dataset = {"first_atoms": [first]}
    infer_cutoff(dataset, cell, "here")
    assert "cutoff_distance" not in dataset
    first["second_atoms"][0]["displacement"] = step
    with pytest.raises(DataFormatError, match="are all zero, that of a pair 0 apart"):
        infer_cutoff(dataset, cell, "here")
