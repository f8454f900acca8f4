"""Third-order force constants from the files that users of phono3py have."""

from __future__ import annotations

import bz2
import copy
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from pft_lightning.data.readers.phono3py import read_phono3py, read_third_order
from pft_lightning.errors import DataFormatError

from .crystals import (
    calculated,
    edited,
    forces_of,
    needs_phono3py,
    save,
    solved,
    write_folder,
)


SHARED = Path(__file__).parents[4] / "shared" / "data" / "third_order"

# Rounding of the file's numbers (16 digits of forces) divided by two displacements.
ATOL = 1e-9


@pytest.fixture(autouse=True)
def _phono3py() -> None:
    needs_phono3py()


@pytest.mark.parametrize("packed", ["", ".xz", ".bz2", ".gz"])
def test_a_file_of_pairs_gives_what_phono3py_solves(tmp_path, packed: str) -> None:
    phonons = calculated()
    path = save(phonons, tmp_path / "MgO" / "phono3py_params.yaml")
    opener = {".xz": lzma.open, ".bz2": bz2.open, ".gz": gzip.open}.get(packed)
    if opener is not None:
        with opener(f"{path}{packed}", "wb") as file:
            file.write(path.read_bytes())
        path.unlink()
        path = Path(f"{path}{packed}")
    record = read_third_order(path)
    np.testing.assert_allclose(record.third_order.compact, solved(phonons), atol=ATOL)
    np.testing.assert_array_equal(
        record.third_order.representatives(), phonons.primitive.p2s_map
    )
    assert record.structure.name == "MgO"
    assert record.structure.info["third_order_from"] == "finite differences of pairs"
    # Finite displacements break the rules by their fourth derivatives.
    assert 0 < record.structure.info["removed_third_share"] < 0.1
    assert record.structure.info["removed_third_sum_rule"] > 0
    second = record.structure.force_constants
    phonons = copy.deepcopy(phonons)
    phonons.produce_fc2()
    np.testing.assert_allclose(second.compact, phonons.fc2, atol=1e-3)


def test_small_displacements_give_third_derivatives(tmp_path) -> None:
    """Against central differences of the Hessian times a direction."""
    phonons = calculated(distance=1e-3)
    record = read_third_order(save(phonons, tmp_path / "phono3py_params.yaml"))
    n_atoms, step = len(phonons.supercell), 1e-3
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((2, n_atoms, 3))
    signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    forces = forces_of(
        phonons.supercell, np.array([step * (a * u + b * v) for a, b in signs])
    )
    expected = -sum(
        a * b * force for (a, b), force in zip(signs, forces, strict=True)
    ) / (4 * step**2)
    found = record.third_order.multiply(u[:, None], v[:, None])[:, 0]
    assert np.abs(expected).max() > 1
    # Both differ from the derivative by squares of displacements.
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())


def test_a_folder_of_displacements_and_forces_is_the_same(tmp_path) -> None:
    phonons = calculated()
    record = read_third_order(write_folder(phonons, tmp_path / "MgO"))
    # FORCES_FC3 has ten digits: half of one over two displacements, some times.
    np.testing.assert_allclose(record.third_order.compact, solved(phonons), atol=1e-6)
    assert record.structure.name == "MgO"


def test_a_file_read_back_is_a_phono3py_object(tmp_path) -> None:
    phonons = calculated()
    found = read_phono3py(save(phonons, tmp_path / "a.yaml"))
    np.testing.assert_allclose(found.forces, phonons.forces, atol=1e-12)
    np.testing.assert_allclose(found.fc3, solved(phonons), atol=ATOL)
    assert found.fc2.shape == (2, 8, 3, 3)


def test_the_supercell_of_third_order_is_taken_where_there_are_two(tmp_path) -> None:
    phonons = calculated(is_large=True)
    path = save(phonons, tmp_path / "a.yaml")
    record = read_third_order(path)
    assert record.structure.n_atoms == 8
    np.testing.assert_array_equal(record.phonon_matrix, 2 * np.eye(3))
    np.testing.assert_allclose(record.third_order.compact, solved(phonons), atol=ATOL)
    found = record.to_phono3py()
    assert (len(found.supercell), len(found.phonon_supercell)) == (8, 64)


def test_displacements_of_all_atoms_are_fitted(tmp_path) -> None:
    """Against pairs; both are off by fourth derivatives times a displacement."""
    phonons = copy.deepcopy(calculated(distance=1e-3))
    expected = solved(phonons)
    moved = 1e-3 * np.random.default_rng(0).standard_normal((16, 8, 3))
    phonons.dataset = {
        "displacements": moved,
        "forces": forces_of(phonons.supercell, moved),
    }
    record = read_third_order(save(phonons, tmp_path / "a.yaml"))
    assert record.structure.info["third_order_from"] == "fit by symfc"
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        record.third_order.compact, expected, rtol=0, atol=0.02 * scale
    )


def test_too_few_displacements_of_all_atoms_are_counted(tmp_path) -> None:
    phonons = copy.deepcopy(calculated())
    moved = 1e-3 * np.random.default_rng(0).standard_normal((1, 8, 3))
    phonons.dataset = {"displacements": moved, "forces": 0 * moved}
    with pytest.raises(DataFormatError, match=r"1 displaced .* Add at least \d+ more"):
        read_third_order(save(phonons, tmp_path / "a.yaml"))


@pytest.mark.parametrize("is_full", [False, True])
def test_fc3_of_hdf5_beside_the_cells_is_read(tmp_path, is_full: bool) -> None:
    from phono3py.file_IO import write_fc2_to_hdf5, write_fc3_to_hdf5

    phonons = copy.deepcopy(calculated())
    expected = solved(phonons)
    phonons.produce_fc3(is_compact_fc=not is_full)
    rows = None if is_full else phonons.primitive.p2s_map
    write_fc3_to_hdf5(phonons.fc3, filename=tmp_path / "fc3.hdf5", p2s_map=rows)
    write_fc2_to_hdf5(phonons.fc2, filename=tmp_path / "fc2.hdf5", p2s_map=rows)
    phonons.dataset = None
    phonons.save(tmp_path / "phono3py.yaml")
    record = read_third_order(tmp_path)
    # phono3py's single force constants of full form differ by rounding.
    np.testing.assert_allclose(record.third_order.compact, expected, atol=ATOL)
    assert record.structure.force_constants is not None
    (tmp_path / "fc2.hdf5").unlink()
    again = read_third_order(tmp_path)
    assert again.structure.force_constants is None
    np.testing.assert_array_equal(again.third_order.compact, record.third_order.compact)


def test_units_of_other_codes_are_converted(tmp_path) -> None:
    """The same calculation in Ry and bohr."""
    from phonopy.physical_units import get_calculator_physical_units

    path = save(calculated(), tmp_path / "a.yaml")
    expected = read_third_order(path).third_order.compact
    units = get_calculator_physical_units("qe")
    length, force = 1 / units.distance_to_A, 1 / units.force_to_eVperA

    def change(content: dict) -> None:
        content["phono3py"]["calculator"] = "qe"
        content["phono3py"].pop("frequency_unit_conversion_factor", None)
        content.pop("physical_unit", None)
        for name in ("unit_cell", "supercell", "primitive_cell"):
            lattice = np.array(content[name]["lattice"]) * length
            content[name]["lattice"] = lattice.tolist()
        for first in content["displacement_pairs"]:
            for entry in (first, *first["paired_with"]):
                moved = np.array(entry["displacement"]) * length
                entry["displacement"] = moved.tolist()
                entry["forces"] = (np.array(entry["forces"]) * force).tolist()
                entry.pop("pair_distance", None)

    found = read_third_order(edited(path, change)).third_order.compact
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_atoms_in_another_order_give_the_same_force_constants(tmp_path) -> None:
    path = save(calculated(), tmp_path / "a.yaml")
    expected = read_third_order(path).third_order.compact
    order = np.random.default_rng(3).permutation(8)
    place = np.argsort(order)

    def change(content: dict) -> None:
        points = content["supercell"]["points"]
        content["supercell"]["points"] = [points[i] for i in order]
        for first in content["displacement_pairs"]:
            for entry in (first, *first["paired_with"]):
                entry["atom"] = int(place[entry["atom"] - 1]) + 1
                entry["forces"] = [entry["forces"][i] for i in order]

    found = read_third_order(edited(path, change)).third_order.compact
    np.testing.assert_allclose(found, expected, atol=ATOL)


def test_zeros_beyond_a_cutoff_that_no_file_names_are_no_forces(tmp_path) -> None:
    """As phono3py's solver does where it is told the cutoff."""
    phonons = calculated("cubic", cutoff=2.3)
    folder = write_folder(phonons, tmp_path / "cut")
    expected = solved(phonons)

    def change(content: dict) -> None:
        del content["displacement_pair_info"]
        for first in content["displacement_pairs"]:
            for entry in first["paired_with"]:
                entry.pop("included", None)

    edited(folder / "phono3py_disp.yaml", change)
    record = read_third_order(folder)
    np.testing.assert_allclose(record.third_order.compact, expected, atol=1e-6)
    assert "within 2.33 Å" in record.structure.info["third_order_from"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
@pytest.mark.parametrize(
    ("name", "mean"),
    [("Si-PBE", 24.976), ("Si-PBEsol", 25.933), ("zb-ZnTe-PBEsol_ZnTe.yaml.xz", 15.52)],
)
def test_calculations_of_others_give_their_mean(name: str, mean: float) -> None:
    """meV/Å³; phono3py's own number but for the cutoff of Si-PBEsol."""
    record = read_third_order(SHARED / name)
    found = np.abs(record.third_order.compact).mean() * 1e3
    assert found == pytest.approx(mean, abs=0.005)
    assert record.structure.info["removed_third_share"] < 0.005
