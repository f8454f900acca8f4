"""Second-order data of phono3py, Born charges, and one crystal at several volumes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from phonopy import Phonopy
from phonopy.file_IO import write_FORCE_CONSTANTS
from phonopy.interface.vasp import write_vasp

from pft_lightning.data.crystals import read_structures, read_supercells
from pft_lightning.data.readers import read_phonon
from pft_lightning.data.sources import find_sources
from pft_lightning.data.store import build_store
from pft_lightning.data.store.report import PrepareReport
from pft_lightning.errors import DataFormatError


CHARGES = {"Na": 1.1, "Cl": -1.1}


@pytest.fixture
def phonon(spring_phonon) -> Phonopy:
    return spring_phonon()


@pytest.fixture
def content(phonon: Phonopy, tmp_path: Path) -> dict:
    path = tmp_path / "whole" / "phonopy.yaml"
    path.parent.mkdir()
    phonon.save(path, settings={"force_sets": True})
    return yaml.safe_load(path.read_text())


def save(content: dict, path: Path) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def exact(phonon: Phonopy) -> np.ndarray:
    phonon.produce_force_constants(calculate_full_force_constants=True)
    return phonon.force_constants


def test_aliases_that_name_what_is_there_are_read(content, tmp_path: Path) -> None:
    """PyYAML writes a list that is in two places once."""
    content["again"] = content["displacements"]
    path = save(content, tmp_path / "a.yaml")
    assert "&id001" in path.read_text()
    read_phonon(path)


def large(content: dict) -> dict:
    found = {key: content[key] for key in ("unit_cell", "primitive_matrix")}
    found |= {"phono3py": content["phonopy"], "physical_unit": content["physical_unit"]}
    pair = copy.deepcopy(content["displacements"][0])
    pair["forces"] = np.ones((8, 3)).tolist()
    return found | {
        "supercell_matrix": np.eye(3, dtype=int).tolist(),
        "phonon_supercell_matrix": content["supercell_matrix"],
        "phonon_supercell": content["supercell"],
        "displacement_pairs": [{**pair, "paired_with": []}],
    }


def test_phono3py_of_two_supercells_gives_that_of_second_order(
    phonon, content, tmp_path: Path
) -> None:
    found = large(content) | {"phonon_displacements": content["displacements"]}
    record = read_phonon(save(found, tmp_path / "phono3py_params.yaml"))
    np.testing.assert_allclose(record.force_constants.full(), exact(phonon), atol=1e-8)
    assert record.name == tmp_path.name


def test_phono3py_of_random_displacements_gives_those_of_second_order(
    phonon, content, tmp_path: Path
) -> None:
    expected = exact(phonon)
    moved = 0.01 * np.random.default_rng(0).standard_normal((6, 16, 3))
    forces = -np.einsum("ijab,njb->nia", expected, moved)
    found = large(content)
    found["phonon_dataset"] = {
        "displacements": moved.tolist(),
        "forces": forces.tolist(),
    }
    # Those of third order, in the small cell, beside them.
    found["dataset"] = {"displacements": moved[:, :8].tolist()}
    record = read_phonon(save(found, tmp_path / "a.yaml"))
    np.testing.assert_allclose(record.force_constants.full(), expected, atol=1e-6)


def test_phono3py_of_one_supercell_has_its_single_displacements(
    phonon, content, tmp_path: Path
) -> None:
    found = large(content)
    del found["phonon_supercell_matrix"], found["phonon_supercell"]
    found["supercell_matrix"] = content["supercell_matrix"]
    found["displacement_pairs"] = [
        {**entry, "paired_with": [{"atom": 2, "displacement": [0.03, 0, 0]}]}
        for entry in content["displacements"]
    ]
    record = read_phonon(save(found, tmp_path / "a.yaml"))
    np.testing.assert_allclose(record.force_constants.full(), exact(phonon), atol=1e-8)


def write_phono3py_folder(content, folder: Path, *, one_supercell: bool) -> list:
    """phono3py_disp.yaml, and the blocks of forces of second order for its files."""
    found = large(content)
    displaced = [{**entry} for entry in content["displacements"]]
    if one_supercell:
        del found["phonon_supercell_matrix"], found["phonon_supercell"]
        found["supercell_matrix"] = content["supercell_matrix"]
        found["displacement_pairs"] = displaced
    else:
        found["phonon_displacements"] = displaced
    blocks = []
    for number, entry in enumerate(displaced):
        words = [entry["atom"], *entry["displacement"]]
        head = f"# File: {number + 1}\n# {' '.join(map(str, words))}\n"
        rows = [" ".join(map(str, row)) for row in entry.pop("forces")]
        blocks.append(head + "\n".join(rows) + "\n")
    folder.mkdir()
    save(found, folder / "phono3py_disp.yaml")
    return blocks


@pytest.mark.parametrize("name", ["FORCES_FC2", "FORCES_FC3"])
def test_a_folder_of_phono3py_gives_its_forces_of_second_order(
    phonon, content, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "NaCl"
    is_third = name == "FORCES_FC3"
    blocks = write_phono3py_folder(content, folder, one_supercell=is_third)
    pair = "# File: 9\n# 1 0.03 0 0\n# 2 0.03 0 0\n" + "0 0 0\n" * 16
    (folder / name).write_text("".join(blocks) + pair * 3 * is_third)
    if not is_third:  # of the other supercell
        (folder / "FORCES_FC3").write_text("0 0 0\n" * 8)
    assert find_sources(str(tmp_path)).paths[0] == folder
    record = read_phonon(folder)
    np.testing.assert_allclose(record.force_constants.full(), exact(phonon), atol=1e-8)
    assert record.name == "NaCl"


def test_forces_of_phono3py_that_do_not_fit_are_refused(
    phonon, content, tmp_path: Path
) -> None:
    folder = tmp_path / "NaCl"
    blocks = write_phono3py_folder(content, folder, one_supercell=False)
    (folder / "FORCES_FC3").write_text("0 0 0\n" * 80)
    with pytest.raises(DataFormatError, match=r"FORCES_FC3: .*Add FORCES_FC2"):
        read_phonon(folder)
    file = folder / "FORCES_FC2"
    file.write_text("".join(blocks)[:-60])
    with pytest.raises(DataFormatError, match=r"FORCES_FC2: has forces in \d+ lines"):
        read_phonon(folder)
    file.write_text("".join(reversed(blocks)))
    with pytest.raises(DataFormatError, match=r"FORCES_FC2: its \d displacements are"):
        read_phonon(folder)


def charges(symbols: list[str]) -> list:
    return [(CHARGES[symbol] * np.eye(3)).tolist() for symbol in symbols]


@pytest.mark.parametrize("cell", ["primitive_cell", "unit_cell", "supercell"])
@pytest.mark.parametrize("place", ["nac", "top", "other names"])
def test_born_charges_of_any_cell_are_used(
    content, tmp_path: Path, cell: str, place: str
) -> None:
    symbols = [point["symbol"] for point in content[cell]["points"]]
    born, dielectric = charges(symbols), (2.4 * np.eye(3)).tolist()
    content.pop("nac", None)
    if place == "other names":
        content["nac_params"] = {"born": born, "epsilon": dielectric}
    else:
        block = content if place == "top" else content.setdefault("nac", {})
        block["born_effective_charge"] = born
        block["dielectric_constant"] = dielectric
    record = read_phonon(save(content, tmp_path / "a.yaml"))
    primitive = record.cells.to_phonopy().primitive
    np.testing.assert_allclose(record.cells.born, charges(primitive.symbols))
    assert "notes" not in record.info


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda nac: nac.pop("dielectric_constant"), "dielectric tensor is missing"),
        (lambda nac: nac["born_effective_charge"].pop(), "Born charges of 7 atoms"),
        (lambda nac: nac.update(dielectric_constant="none"), "lists of lengths"),
        (
            lambda nac: nac.update(dielectric_constant=np.zeros((3, 3)).tolist()),
            "eigenvalue 0",
        ),
        (
            lambda nac: nac.update(
                born_effective_charge=np.abs(nac["born_effective_charge"]).tolist()
            ),
            "neutrality needs 0",
        ),
    ],
)
def test_force_constants_are_kept_where_born_charges_do_not_fit(
    content, tmp_path: Path, change: Callable, message: str
) -> None:
    symbols = [point["symbol"] for point in content["unit_cell"]["points"]]
    content["nac"] = {
        "born_effective_charge": charges(symbols),
        "dielectric_constant": np.eye(3).tolist(),
    }
    change(content["nac"])
    source = tmp_path / "source"
    source.mkdir()
    record = read_phonon(save(content, source / "a.yaml"))
    assert record.cells.born is None
    report = build_store(source, tmp_path / "a.store", cutoff=3.0, progress=False)
    assert f"warning: a: {record.info['notes']}" in report.summary()
    assert message in report.summary()


@pytest.mark.parametrize("text", ["", "14.4\n2.4 0 0 0 2.4 0 0 0 2.4\n1 0\n", "\xff"])
def test_force_constants_are_kept_where_born_is_damaged(
    phonon, tmp_path: Path, text: str
) -> None:
    write_FORCE_CONSTANTS(exact(phonon), tmp_path / "FORCE_CONSTANTS")
    write_vasp(tmp_path / "POSCAR", phonon.supercell)
    (tmp_path / "BORN").write_text(text, encoding="latin-1")
    record = read_phonon(tmp_path)
    assert record.cells.born is None
    assert "Born charges are left out" in record.info["notes"]


BORN = """14.4
2.4 0 0 0 2.4 0 0 0 2.4
1.1 0 0 0 1.1 0 0 0 1.1
-1.1 0 0 0 -1.1 0 0 0 -1.1
"""


@pytest.mark.parametrize("name", ["phonopy.yaml", "phonopy_params.yaml", "a.yaml"])
def test_born_beside_a_file_is_read_and_told(content, tmp_path: Path, name) -> None:
    path = save(content, tmp_path / name)
    assert read_phonon(path).cells.born is None
    report = build_store(path, tmp_path / "a.store", cutoff=3.0, progress=False)
    assert report.warnings == ()
    (tmp_path / "BORN").write_text(BORN)
    record = read_phonon(path)
    symbols = record.cells.to_phonopy().primitive.symbols
    # phonopy symmetrises them.
    np.testing.assert_allclose(record.cells.born, charges(symbols), atol=1e-12)
    report = build_store(path, tmp_path / "a.store", cutoff=3.0, progress=False)
    assert report.n_read == 1
    assert f"Born charges are those of {tmp_path / 'BORN'}" in report.summary()


def test_born_charges_of_the_file_itself_win(content, tmp_path: Path) -> None:
    (tmp_path / "BORN").write_text(BORN.replace("1.1", "3.3"))
    content["nac"] = {
        "born_effective_charge": charges(["Na", "Cl"]),
        "dielectric_constant": np.eye(3).tolist(),
    }
    record = read_phonon(save(content, tmp_path / "a.yaml"))
    assert np.abs(record.cells.born).max() == 1.1
    assert "notes" not in record.info


@pytest.mark.parametrize("text", ["", "1\n1 0 0 0 1 0 0 0 1\n1 0 0 0 1 0 0 0 1\n"])
def test_force_constants_are_kept_where_born_beside_does_not_fit(
    content, tmp_path: Path, text: str
) -> None:
    (tmp_path / "BORN").write_text(text)
    record = read_phonon(save(content, tmp_path / "phonopy.yaml"))
    assert record.cells.born is None
    assert f"{tmp_path / 'BORN'}" in record.info["notes"]
    assert "Born charges are left out" in record.info["notes"]


def test_born_beside_several_materials_is_of_none(content, tmp_path: Path) -> None:
    (tmp_path / "BORN").write_text(BORN)
    path = save(content, tmp_path / "a.yaml")
    save(content, tmp_path / "b.yaml")
    record = read_phonon(path)
    assert record.cells.born is None
    assert "lies beside several materials" in record.info["notes"]


def test_a_force_file_stands_for_its_folder(phonon, tmp_path: Path) -> None:
    folder = tmp_path / "NaCl"
    folder.mkdir()
    write_FORCE_CONSTANTS(exact(phonon), folder / "FORCE_CONSTANTS")
    phonon.save(folder / "phonopy.yaml")
    (folder / "BORN").write_text(BORN)
    assert find_sources(str(folder / "FORCE_CONSTANTS")).paths == [folder]
    assert find_sources([str(folder), f"{tmp_path}/*/FORCE_*"]).paths == [folder]


def test_one_crystal_at_several_volumes_is_named(content, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for cell in ("primitive_cell", "supercell"):
        content.pop(cell, None)
    lattice = np.array(content["unit_cell"]["lattice"])
    for scale in (0.99, 1.0, 1.01):
        content["unit_cell"]["lattice"] = (scale * lattice).tolist()
        save(content, source / f"a{scale:.2f}.yaml")

    def warnings(**options: str) -> tuple[str, ...]:
        out = tmp_path / "a.store"
        report = build_store(source, out, cutoff=3.0, progress=False, **options)
        assert PrepareReport.from_dict(report.to_dict()) == report
        return report.warnings

    (warning,) = warnings()
    assert all(f"a{scale}" in warning for scale in ("0.99", "1.00", "1.01"))
    assert "relaxed=positions" in warning
    assert warnings(relaxed="positions") == ()


def test_crystals_are_read_without_running_what_files_hold(
    content, phonon, tmp_path: Path
) -> None:
    path = save(content, tmp_path / "a.yaml")
    ((_, supercell),) = read_supercells(str(path))
    np.testing.assert_allclose(
        supercell.supercell.positions, phonon.supercell.positions, atol=1e-8
    )
    path.write_text(path.read_text() + "\nx: !!python/object/apply:os.getcwd []\n")
    for read in (read_structures, read_supercells):
        with pytest.raises(DataFormatError, match="holds more than data"):
            list(read(str(path)))


def test_crystals_of_other_codes_are_in_angstrom(content, tmp_path: Path) -> None:
    (here,) = read_structures(str(save(content, tmp_path / "a.yaml")))
    content["phonopy"]["calculator"] = "qe"
    content.pop("physical_unit")
    (there,) = read_structures(str(save(content, tmp_path / "a.yaml")))
    # CODATA 2018: 1 bohr is 0.529177210903 Å.
    np.testing.assert_allclose(there.cell, here.cell * 0.529177210903, rtol=1e-8)


def test_crystals_in_poscar_are_not_guessed(tmp_path: Path) -> None:
    lines = ["I made this", "1.0", "4 0 0", "0 4 0", "0 0 4", "1", "Direct", "0 0 0"]
    (tmp_path / "POSCAR").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataFormatError, match="no elements to go with"):
        list(read_structures(str(tmp_path / "POSCAR")))
