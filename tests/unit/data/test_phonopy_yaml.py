from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from phonopy import Phonopy

from pft_lightning.data.readers import read_phonon
from pft_lightning.errors import ConfigError, DataFormatError


Save = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings("ignore:.*Point group symmetries")


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write a phonopy yaml file, after a change to its content."""

    def write(
        phonon: Phonopy,
        change: Callable[[dict], object] | None = None,
        *,
        name: str = "crystal.yaml",
        **settings: bool,
    ) -> Path:
        path = tmp_path / name
        settings = {"force_sets": True, "force_constants": False, **settings}
        phonon.save(path, settings=settings)
        if change is not None:
            content = yaml.safe_load(path.read_text())
            change(content)
            path.write_text(yaml.safe_dump(content))
        return path

    return write


def exact(phonon: Phonopy) -> np.ndarray:
    phonon.produce_force_constants(calculate_full_force_constants=True)
    return phonon.force_constants


def test_force_sets_give_exact_force_constants(any_spring_phonon, save) -> None:
    path = save(any_spring_phonon)
    record = read_phonon(path)
    np.testing.assert_allclose(
        record.force_constants.full(), exact(any_spring_phonon), atol=1e-8
    )
    supercell = any_spring_phonon.supercell
    np.testing.assert_allclose(record.positions, supercell.positions, atol=1e-8)
    np.testing.assert_allclose(record.cell, supercell.cell, atol=1e-8)
    assert record.atomic_numbers.tolist() == supercell.numbers.tolist()
    assert record.name == "crystal"
    assert record.info["source"] == str(path)
    assert record.info["force_constants_from"] == "finite differences"


@pytest.mark.parametrize("full", [True, False])
def test_force_constants_in_the_file(spring_phonon, save, full: bool) -> None:
    phonon = spring_phonon()
    phonon.produce_force_constants(calculate_full_force_constants=full)
    path = save(phonon, force_constants=True, force_sets=True)
    record = read_phonon(path)
    assert record.info["force_constants_from"] == "file"
    np.testing.assert_allclose(record.force_constants.full(), exact(phonon), atol=1e-8)


def test_force_constants_of_the_unit_cell(spring_phonon, save) -> None:
    phonon = spring_phonon()
    phonon.produce_force_constants(calculate_full_force_constants=True)
    of_unit_cell = phonon.force_constants[phonon.supercell.u2s_map]

    def change(content: dict) -> None:
        # As phonopy wrote them before it looked for a primitive cell by itself.
        del content["primitive_matrix"]
        content["force_constants"] = {
            "format": "compact",
            "shape": list(of_unit_cell.shape[:2]),
            "elements": of_unit_cell.reshape(-1, 3).tolist(),
        }

    record = read_phonon(save(phonon, change))
    assert record.force_constants.n_primitive == 8
    np.testing.assert_allclose(record.force_constants.full(), exact(phonon), atol=1e-8)


@pytest.mark.parametrize(
    ("suffix", "module"), [(".xz", lzma), (".gz", gzip), (".bz2", bz2)]
)
def test_compressed(spring_phonon, save, suffix: str, module) -> None:
    plain = save(spring_phonon())
    packed = plain.with_name(plain.name + suffix)
    with module.open(packed, "wb") as file:
        file.write(plain.read_bytes())
    ours, expected = read_phonon(packed), read_phonon(plain)
    assert ours.name == expected.name
    np.testing.assert_array_equal(
        ours.force_constants.compact, expected.force_constants.compact
    )
    packed.write_bytes(packed.read_bytes()[:-200])
    with pytest.raises(DataFormatError, match=r"crystal\.yaml.*again"):
        read_phonon(packed)


def test_random_displacements_are_fitted(spring_phonon, save) -> None:
    phonon = spring_phonon()
    expected = exact(phonon).copy()
    phonon.generate_displacements(distance=0.01, number_of_snapshots=4, random_seed=1)
    displacements = phonon.dataset["displacements"]
    phonon.forces = -np.einsum("ijab,njb->nia", expected, displacements)
    record = read_phonon(save(phonon))
    assert record.info["force_constants_from"] == "fit by symfc"
    np.testing.assert_allclose(record.force_constants.full(), expected, atol=1e-6)


def test_symfc_can_be_asked_for(spring_phonon, save) -> None:
    phonon = spring_phonon()
    record = read_phonon(save(phonon), fc_calculator="symfc")
    assert record.info["force_constants_from"] == "fit by symfc"
    np.testing.assert_allclose(record.force_constants.full(), exact(phonon), atol=1e-5)
    with pytest.raises(ConfigError, match="'auto'"):
        read_phonon(save(phonon), fc_calculator="alm")


def test_too_few_random_displacements(spring_phonon, save) -> None:
    phonon = spring_phonon("one cell")
    expected = exact(phonon).copy()
    phonon.generate_displacements(distance=0.01, number_of_snapshots=1, random_seed=1)
    displacements = phonon.dataset["displacements"]
    phonon.forces = -np.einsum("ijab,njb->nia", expected, displacements)
    with pytest.raises(
        DataFormatError, match=r"9 forces for \d+ free.*at least \d+ more"
    ):
        read_phonon(save(phonon))


@pytest.mark.parametrize("calculator", ["qe", "abinit", "cp2k", "wien2k", "elk"])
def test_units_of_other_codes(spring_phonon, save, calculator: str) -> None:
    """The same crystal, written in the units of another code, reads the same."""
    from phonopy.physical_units import get_calculator_physical_units

    units = get_calculator_physical_units(calculator)
    angstrom = spring_phonon()
    expected = exact(angstrom).copy()
    phonon = Phonopy(
        type(angstrom.unitcell)(
            numbers=angstrom.unitcell.numbers,
            cell=angstrom.unitcell.cell / units.distance_to_A,
            scaled_positions=angstrom.unitcell.scaled_positions,
        ),
        angstrom.supercell_matrix,
        primitive_matrix="F",
        calculator=calculator,
        log_level=0,
    )
    phonon.generate_displacements(distance=0.02)
    for entry in phonon.dataset["first_atoms"]:
        moved = entry["displacement"] * units.distance_to_A
        forces = -np.einsum("iab,b->ia", expected[:, entry["number"]], moved)
        entry["forces"] = forces / units.force_to_eVperA
    record = read_phonon(save(phonon))
    np.testing.assert_allclose(record.force_constants.full(), expected, atol=1e-6)
    np.testing.assert_allclose(record.cell, angstrom.supercell.cell, atol=1e-6)
    assert units.force_unit in record.info["units"]
    with pytest.raises(DataFormatError, match="Leave the option out"):
        read_phonon(save(phonon), units="vasp")


def without_units(content: dict) -> None:
    content.pop("physical_unit", None)
    for key in ("calculator", "frequency_unit_conversion_factor"):
        content["phonopy"].pop(key, None)


def test_absent_units_are_an_error_until_said(spring_phonon, save) -> None:
    path = save(spring_phonon(), without_units)
    with pytest.raises(
        DataFormatError, match=r"crystal\.yaml.*units are absent.*units="
    ):
        read_phonon(path)
    assert read_phonon(path, units="eV/angstrom").info["units_from"] == "option units"
    in_ry = read_phonon(path, units="qe")
    assert in_ry.cell[0, 0] == pytest.approx(11.2 * 0.529177, rel=1e-5)
    with pytest.raises(ConfigError, match="accepted"):
        read_phonon(path, units="furlong")


def test_units_are_told_by_names_or_the_frequency_factor(spring_phonon, save) -> None:
    def only_factor(content: dict) -> None:
        content.pop("physical_unit", None)

    record = read_phonon(save(spring_phonon(), only_factor))
    assert record.info["units_from"] == "frequency_unit_conversion_factor"

    def only_names(content: dict) -> None:
        without_units(content)
        content["physical_unit"] = {"length": "au", "force": "Ry/au"}

    record = read_phonon(save(spring_phonon(), only_names))
    assert record.info["units_from"] == "physical_unit"
    assert "Ry/au" in record.info["units"]

    def contradiction(content: dict) -> None:
        content["phonopy"]["calculator"] = "vasp"
        content["physical_unit"] = {"length": "au", "force": "Ry/au"}

    with pytest.raises(DataFormatError, match="Correct the file"):
        read_phonon(save(spring_phonon(), contradiction))


def test_relaxed_says_whether_forces_and_stress_are_known(spring_phonon, save) -> None:
    path = save(spring_phonon())
    relaxed = read_phonon(path)
    assert not relaxed.forces.any()
    assert not relaxed.stress.any()
    assert relaxed.energy is None
    fixed_volume = read_phonon(path, relaxed="positions")
    assert not fixed_volume.forces.any()
    assert fixed_volume.stress is None
    unknown = read_phonon(path, relaxed="none")
    assert unknown.forces is None
    assert unknown.stress is None


def test_energy_of_the_unit_cell_is_that_of_the_supercell(spring_phonon, save) -> None:
    path = save(spring_phonon(), lambda content: content.update(energy=-27.0))
    assert read_phonon(path).energy == pytest.approx(-54.0)


def test_generic_names_take_that_of_the_folder(tmp_path, spring_phonon, save) -> None:
    (tmp_path / "mp-149").mkdir()
    path = save(spring_phonon(), name="mp-149/phonopy_params.yaml")
    assert read_phonon(path).name == "mp-149"


def test_files_in_the_working_folder_are_not_taken(
    tmp_path, monkeypatch, spring_phonon, save
) -> None:
    """``phonopy.load`` would read this FORCE_CONSTANTS for any yaml file."""
    from phonopy.file_IO import write_FORCE_CONSTANTS

    phonon = spring_phonon()
    path = save(phonon, force_sets=False, displacements=True)
    write_FORCE_CONSTANTS(exact(phonon), tmp_path / "FORCE_CONSTANTS")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataFormatError, match="neither force constants nor"):
        read_phonon(path)


def first(content: dict) -> dict:
    return content["displacements"][0]


def drop_forces(content: dict) -> None:
    del content["displacements"][1]["forces"]


def drop_displacement(content: dict) -> None:
    del content["displacements"][1]


def drop_atom(content: dict) -> None:
    first(content)["forces"].pop()


def nan(content: dict) -> None:
    first(content)["forces"][3][1] = float("nan")


def huge(content: dict) -> None:
    first(content)["forces"][3][1] = 1e6


def far(content: dict) -> None:
    first(content)["displacement"][0] = 1.4


def no_displacements(content: dict) -> None:
    del content["displacements"]


def no_cell(content: dict) -> None:
    for key in ("unit_cell", "supercell", "primitive_cell"):
        del content[key]


def noisy(content: dict) -> None:
    first(content)["forces"][3][1] += 1.0


def flipped(content: dict) -> None:
    for entry in content["displacements"]:
        entry["forces"] = (-np.array(entry["forces"])).tolist()


def wrong_atom(content: dict) -> None:
    first(content)["atom"] = 900


def on_top(content: dict) -> None:
    points = content["unit_cell"]["points"]
    points[1]["coordinates"] = [c + 1e-3 for c in points[0]["coordinates"]]
    content.pop("primitive_matrix")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_forces, r"displacement 2 of 2 has no forces.*Run that calculation"),
        (drop_displacement, r"0 of 3 directions for atom 9 \(Cl\).*missing"),
        (drop_atom, "forces of displacement 1 are those of 15 atoms.*supercell of 16"),
        (nan, r"displacements\[0\]\.forces\[3, 1\] is nan.*Repeat"),
        (huge, r"1e\+06 eV/Å; at most 1000.*Check the units"),
        (far, r"displaced by 1\.4 Å; at most"),
        (no_displacements, "neither force constants nor displacements"),
        (no_cell, "no unit cell"),
        (noisy, "max_asymmetry=0.1"),
        (flipped, "sign is flipped"),
        (wrong_atom, "moves atom 900; the supercell has 16"),
        (on_top, "Å apart"),
    ],
)
def test_bad_input_names_file_value_and_remedy(
    spring_phonon, save, change, message: str
) -> None:
    with pytest.raises(DataFormatError, match=message) as caught:
        read_phonon(save(spring_phonon(), change))
    assert "crystal.yaml" in str(caught.value)


def test_force_constants_of_the_wrong_shape(spring_phonon, save) -> None:
    def change(content: dict) -> None:
        content["force_constants"] = {
            "shape": [4, 4],
            "elements": np.eye(3).reshape(-1).tolist() * 16,
        }

    with pytest.raises(DataFormatError, match=r"those of 4 atoms.*supercell of 16"):
        read_phonon(save(spring_phonon(), change))


def test_not_yaml_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\x00\x01: [\n")
    with pytest.raises(DataFormatError, match=r"x\.yaml"):
        read_phonon(path)
    with pytest.raises(DataFormatError, match="no such file"):
        read_phonon(tmp_path / "absent.yaml")
    (tmp_path / "x.cif").write_text("")
    with pytest.raises(DataFormatError, match="Accepted"):
        read_phonon(tmp_path / "x.cif")


def real_files() -> list[str]:
    folder = Path(__file__).parents[4] / "shared" / "data" / "phonons"
    names = [*folder.glob("phonopy_examples/*"), *folder.glob("pbe/*.yaml")]
    names += sorted(folder.glob("phonondb_pbesol/val/*"))[:4]
    # A fit to hundreds of random displacements takes seconds.
    slow = ("mp-661", "KCl-120")
    return sorted(str(n) for n in names if not any(s in n.name for s in slow))


@pytest.mark.parametrize("path", real_files(), ids=lambda path: Path(path).name)
def test_real_files(path: str) -> None:
    record = read_phonon(path)
    full = record.force_constants.full()
    np.testing.assert_allclose(full, full.transpose(1, 0, 3, 2), atol=1e-9)
    np.testing.assert_allclose(full.sum(axis=1), 0, atol=1e-9)


def test_large_random_displacements_are_refused(shared_data: Path) -> None:
    name = "phonopy_mlpsscha_params_KCl-120.yaml.xz"
    with pytest.raises(DataFormatError, match=r"displaced by .* Å"):
        read_phonon(shared_data / "phonons" / "phonopy_examples" / name)
