"""What a phonon file must not be able to do: overrun a machine, or pass for numbers."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from phonopy import Phonopy
from phonopy.file_IO import write_FORCE_CONSTANTS, write_FORCE_SETS
from phonopy.interface.vasp import write_vasp
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.data.readers import PhononReadOptions, read_phonon
from pft_lightning.errors import ConfigError, DataFormatError


@pytest.fixture
def phonon(spring_phonon) -> Phonopy:
    return spring_phonon()


@pytest.fixture
def content(phonon: Phonopy, tmp_path: Path) -> dict:
    path = tmp_path / "whole.yaml"
    phonon.save(path, settings={"force_sets": True})
    return yaml.safe_load(path.read_text())


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., object]:
    def write_and_read(content: dict, **options: object) -> object:
        path = tmp_path / "crystal.yaml"
        path.write_text(yaml.safe_dump(content))
        return read_phonon(path, **options)

    return write_and_read


def exact(phonon: Phonopy) -> np.ndarray:
    dataset = phonon.dataset
    phonon.produce_force_constants(calculate_full_force_constants=True)
    phonon.dataset, constants = dataset, phonon.force_constants
    return constants


POINT = ("unit_cell", "points", 0)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((*POINT, "mass"), -1, r"points\[0\]\.mass is -1.* 0.05 to 1000.0 AMU"),
        ((*POINT, "mass"), 0, r"points\[0\]\.mass is 0"),
        ((*POINT, "mass"), float("nan"), r"points\[0\]\.mass is nan"),
        ((*POINT, "mass"), "22.99", "mass holds '22.99', a str where a number is due"),
        ((*POINT, "mass"), None, "masses of some atoms only"),
        ((*POINT, "symbol"), "Xx", "symbol is 'Xx', which is no element"),
        ((*POINT, "coordinates", 1), float("nan"), r"coordinates\[1\] is nan"),
        ((*POINT, "coordinates", 1), "0", "coordinates holds '0', a str"),
        ((*POINT, "coordinates"), [0, 0], r"lists of lengths \[2\]"),
        ((*POINT, "weight"), 0.5, "is a mixture of elements"),
        (("unit_cell", "points", 1, "coordinates"), [0, 0, 0], "two atoms of the unit"),
        (("unit_cell", "lattice", 0, 0), 1e9, r"vector of 1e\+09 Å"),
        (("unit_cell", "lattice", 0), [0, 0, 0], "missing or parallel"),
        (("unit_cell", "lattice", 0), [1e-4, 0, 0], "missing or parallel"),
        (("supercell_matrix", 0, 0), 2.5, "integers are needed"),
        (("supercell_matrix", 0, 0), True, "holds True, a bool"),
        (("supercell_matrix", 0, 0), 20_000, "makes 20000 times the unit cell of 8"),
        (("supercell_matrix", 0, 0), 200, "forces of displacement 1 are those of 16"),
        (("supercell_matrix", 0, 0), 0, "makes 0 times"),
        (("displacements", 0, "forces", 0, 0), True, "holds True, a bool"),
        (("displacements", 0, "forces", 0, 0), "0.1", "holds '0.1', a str"),
        (("displacements", 0, "forces", 0), [1.0], "has lists of lengths"),
        (("displacements", 0, "atom"), 1.5, "atom is 1.5; integers"),
        (("displacements", 0, "displacement", 0), None, "holds None, a NoneType"),
        (("displacements",), "none", "displacements is a str"),
        (("phonopy", "symmetry_tolerance"), -1, "symmetry_tolerance is -1"),
        (("phonopy", "symmetry_tolerance"), "fine", "holds 'fine', a str"),
        (("phonopy", "calculator"), "pwscf", "'pwscf', which phonopy does not know"),
        (("phonopy",), 3, "phonopy is a int"),
        (("energy",), "low", "energy holds 'low', a str"),
        (("unit_cell",), [1], "unit_cell is a list"),
    ],
)
def test_values_of_another_kind_are_named(
    content, read, place: tuple, value: object, message: str
) -> None:
    block = content
    for key in place[:-1]:
        block = block[key]
    block[place[-1]] = value
    with pytest.raises(DataFormatError, match=message) as caught:
        read(content)
    assert "crystal.yaml" in str(caught.value)


def test_force_constants_of_another_size_than_their_shape_are_named(
    content, read
) -> None:
    content["force_constants"] = {"shape": [16, 16], "elements": [[1.0, 2.0, 3.0]]}
    with pytest.raises(DataFormatError, match=r"holds 3 numbers; .* needs 2304"):
        read(content)
    content["force_constants"]["elements"] = "none"
    with pytest.raises(DataFormatError, match=r"constants\.elements has lists"):
        read(content)


@pytest.mark.parametrize(
    "options",
    [
        {"supercell_matrix": (2.5, 1, 1)},
        {"supercell_matrix": "222"},
        {"symprec": 0},
        {"max_asymmetry": "0.1"},
        {"max_relative_asymmetry": True},
    ],
)
def test_options_of_another_kind_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        PhononReadOptions(**options)


def test_hydrogen_isotopes_are_hydrogen_of_their_mass(content, read) -> None:
    for point in content["unit_cell"]["points"]:
        if point["symbol"] == "Cl":
            point["symbol"] = "D"
            del point["mass"]
        else:
            point["mass"] = 22.99
    for cell in ("primitive_cell", "supercell"):
        content.pop(cell, None)
    record = read(content)
    assert set(record.atomic_numbers.tolist()) == {1, 11}
    hydrogen = record.cells.atomic_numbers == 1
    np.testing.assert_allclose(record.cells.masses[hydrogen], 2.01410178)


def test_the_tolerance_of_the_file_is_used(content, read) -> None:
    """Noise of 1e-4 Å hides the symmetry from a search with phonopy's 1e-5."""
    rng = np.random.default_rng(0)
    for point in content["unit_cell"]["points"]:
        noise = 2e-5 * rng.standard_normal(3)
        point["coordinates"] = (np.array(point["coordinates"]) + noise).tolist()
    for cell in ("primitive_cell", "supercell", "primitive_matrix"):
        content.pop(cell, None)
    with pytest.raises(DataFormatError, match="of 3 directions"):
        read(content, symprec=1e-5)
    content["phonopy"]["symmetry_tolerance"] = 1e-2
    assert read(content).cells.symprec == 1e-2
    with pytest.raises(DataFormatError, match="of 3 directions"):
        read(content, symprec=1e-5)


def test_soft_crystals_are_held_to_their_symmetry_too(content, read, phonon) -> None:
    constants = exact(phonon)
    broken = constants.copy()
    broken[0, 1] += 0.06 * np.abs(np.einsum("iiaa->ia", constants)).mean()
    content.pop("displacements")

    def store(array: np.ndarray) -> None:
        content["force_constants"] = {
            "shape": [16, 16],
            "elements": array.reshape(-1, 3).tolist(),
        }

    store(0.01 * constants)
    read(content)
    store(0.01 * broken)
    with pytest.raises(DataFormatError, match=r"max_relative_asymmetry=0\.05"):
        read(content)
    read(content, max_relative_asymmetry=0.1)


def other_order(cell: PhonopyAtoms, seed: int) -> tuple[PhonopyAtoms, np.ndarray]:
    """The same atoms in another order, and where each of them was."""
    order = np.random.default_rng(seed).permutation(len(cell))
    order = order[np.argsort(cell.numbers[order], kind="stable")]
    listed = PhonopyAtoms(
        numbers=cell.numbers[order],
        cell=cell.cell,
        # Across the boundary too, as other codes wrap.
        scaled_positions=cell.scaled_positions[order] - 1e-9,
    )
    return listed, order


@pytest.mark.parametrize("kind", ["1", "2", "full", "compact"])
def test_forces_follow_the_order_of_sposcar(
    phonon: Phonopy, tmp_path: Path, kind: str
) -> None:
    expected = exact(phonon).copy()
    listed, order = other_order(phonon.supercell, seed=1)
    folder = tmp_path / "NaCl"
    folder.mkdir()
    write_vasp(folder / "POSCAR", phonon.unitcell)
    write_vasp(folder / "SPOSCAR", listed)
    place = np.argsort(order)
    if kind == "1":
        entries = [
            {
                "number": int(place[entry["number"]]),
                "displacement": entry["displacement"],
                "forces": entry["forces"][order],
            }
            for entry in phonon.dataset["first_atoms"]
        ]
        dataset = {"natom": 16, "first_atoms": entries}
        write_FORCE_SETS(dataset, folder / "FORCE_SETS")
    elif kind == "2":
        displacements = 0.01 * np.random.default_rng(2).standard_normal((6, 16, 3))
        forces = -np.einsum("ijab,njb->nia", expected, displacements)
        dataset = {
            "displacements": displacements[:, order],
            "forces": forces[:, order],
        }
        write_FORCE_SETS(dataset, folder / "FORCE_SETS")
    else:
        array = expected[np.ix_(order, order)]
        rows = place[phonon.primitive.p2s_map]
        if kind == "compact":
            write_FORCE_CONSTANTS(array[rows], folder / "FORCE_CONSTANTS", p2s_map=rows)
        else:
            write_FORCE_CONSTANTS(array, folder / "FORCE_CONSTANTS")
    record = read_phonon(folder)
    np.testing.assert_allclose(record.force_constants.full(), expected, atol=1e-6)


def test_a_yaml_file_beside_another_order_is_refused(
    phonon: Phonopy, tmp_path: Path
) -> None:
    phonon.save(tmp_path / "phonopy_disp.yaml", settings={"force_sets": False})
    write_FORCE_SETS(phonon.dataset, tmp_path / "FORCE_SETS")
    write_vasp(tmp_path / "SPOSCAR", phonon.supercell)
    read_phonon(tmp_path)
    write_vasp(tmp_path / "SPOSCAR", other_order(phonon.supercell, seed=1)[0])
    with pytest.raises(DataFormatError, match="in another order than those of phonopy"):
        read_phonon(tmp_path)


def test_a_supercell_of_other_atoms_is_refused(phonon: Phonopy, tmp_path: Path) -> None:
    write_FORCE_CONSTANTS(exact(phonon), tmp_path / "FORCE_CONSTANTS")
    write_vasp(tmp_path / "POSCAR", phonon.unitcell)
    moved = phonon.supercell.copy()
    moved.scaled_positions = moved.scaled_positions + 0.1
    write_vasp(tmp_path / "SPOSCAR", moved)
    with pytest.raises(DataFormatError, match="not where the repeated unit cell"):
        read_phonon(tmp_path)


def write_poscar_folder(phonon: Phonopy, folder: Path, change: Callable) -> None:
    write_vasp(folder / "POSCAR", phonon.supercell)
    write_FORCE_SETS(phonon.dataset, folder / "FORCE_SETS")
    lines = (folder / "POSCAR").read_text().splitlines()
    (folder / "POSCAR").write_text("\n".join(change(lines)) + "\n")


def species(line: str) -> Callable:
    return lambda lines: [*lines[:5], line, *lines[6:]]


def vasp_4(comment: str) -> Callable:
    return lambda lines: [comment, *lines[1:5], *lines[6:]]


def cartesian(lines: list[str]) -> list[str]:
    cell = np.array([line.split() for line in lines[2:5]], float)
    rows = np.array([line.split() for line in lines[8:]], float) @ (0.5 * cell)
    positions = [" ".join(map(str, row)) + " T F T" for row in rows]
    volume = 8 * abs(np.linalg.det(0.5 * cell))
    scaled = [" ".join(map(str, row)) for row in 0.5 * cell]
    return [
        "", str(-volume), *scaled, *lines[5:7], "Selective dynamics", "Cartesian",
        *positions,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        species("{0}_pv {1}/3f2a9c"),
        species("{0}_sv_GW/6a2f546d {1}_h"),
        vasp_4("{0} {1}"),
        cartesian,
        lambda lines: ["caf\xe9", *lines[1:]],
    ],
)
def test_poscar_is_read_as_vasp_writes_it(phonon, tmp_path: Path, change) -> None:
    names = list(dict.fromkeys(phonon.supercell.symbols))

    def named(lines: list[str]) -> list[str]:
        return [line.format(*names) for line in change(lines)]

    write_poscar_folder(phonon, tmp_path, named)
    record = read_phonon(tmp_path)
    assert record.atomic_numbers.tolist() == phonon.supercell.numbers.tolist()
    np.testing.assert_allclose(record.positions, phonon.supercell.positions, atol=1e-7)
    np.testing.assert_allclose(record.force_constants.full(), exact(phonon), atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        species("NA CL"),
        species("H1.25 Cl"),
        species("Na"),
        vasp_4("generated by phonopy"),
        vasp_4("I made this"),
        lambda lines: lines[:-1],
    ],
)
def test_species_that_are_not_sure_are_refused(phonon, tmp_path, change) -> None:
    write_poscar_folder(phonon, tmp_path, change)
    with pytest.raises(DataFormatError, match=r"POSCAR: .*(element|are missing)"):
        read_phonon(tmp_path)


def test_files_of_a_folder_may_be_compressed(phonon: Phonopy, tmp_path: Path) -> None:
    phonon.save(tmp_path / "phonopy_disp.yaml", settings={"force_sets": False})
    write_FORCE_SETS(phonon.dataset, tmp_path / "FORCE_SETS")
    for name in ("phonopy_disp.yaml", "FORCE_SETS"):
        file = tmp_path / name
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    record = read_phonon(tmp_path)
    np.testing.assert_allclose(record.force_constants.full(), exact(phonon), atol=1e-7)
