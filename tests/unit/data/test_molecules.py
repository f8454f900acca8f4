from __future__ import annotations

import gzip
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.vibrations import VibrationsData
from molecular_files import (
    NAMES,
    PER_BOHR2,
    REFERENCE,
    WRITERS,
    molecule,
    write_fchk,
    write_info,
    write_orca,
    write_system,
)

import pft_lightning as pft
from pft_lightning.data.commensurate import fold_record
from pft_lightning.data.molecules import Molecule
from pft_lightning.data.readers import (
    list_entries,
    read_phonon,
)
from pft_lightning.data.readers.registry import entry_name
from pft_lightning.data.sources import find_sources
from pft_lightning.data.store import PhononStore, build_store
from pft_lightning.errors import DataFormatError
from pft_lightning.physics.molecules import (
    hessian_of,
    impose_invariance,
    rigid_motions,
    zero_point_energy,
)
from pft_lightning.physics.probes import (
    ColumnProbe,
    GaussianProbe,
    IrreducibleProbe,
    RademacherProbe,
    SparseProbe,
)
from pft_lightning.physics.wave_probes import (
    CommensurateProbe,
    CommensurateRademacherProbe,
    ModeProbe,
)
from pft_lightning.testing import PairPotential


HARTREE = 27.211386245988


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", WRITERS)
def test_vibrations_of_every_kind_of_file_are_those_of_the_code_that_made_it(
    tmp_path: Path, name: str, kind: str
) -> None:
    path = tmp_path / f"{name}{kind}"
    WRITERS[kind](path, *molecule(name))
    record = read_phonon(path)
    assert not record.pbc.any()
    assert not record.cell.any()
    assert record.stress is None
    assert record.energy is None
    np.testing.assert_array_equal(record.forces, np.zeros((3, 3)))
    found = Molecule.of(record).frequencies()
    expected = REFERENCE[name]["frequencies"]
    # Six of nine motions of bent H2O are rigid, five of linear CO2.
    assert len(found) == len(expected) == {"H2O": 3, "CO2": 4}[name]
    # The text files have 9 digits; DeePMD's and VibrationsData standard masses.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    energy = REFERENCE[name]["zero_point_energy"] * HARTREE
    assert zero_point_energy(found) == pytest.approx(energy, abs=1e-7)


def test_isotopes_vibrate_with_the_masses_of_their_calculation(
    tmp_path: Path, water
) -> None:
    atoms, hessian = water
    atoms.set_masses([15.9949, 2.0141, 2.0141])
    write_orca(tmp_path / "heavy.hess", atoms, hessian)
    build_store(tmp_path, tmp_path / "x.store", cutoff=4.0, progress=False)
    record = PhononStore(tmp_path / "x.store").record(0)
    np.testing.assert_array_equal(record.masses, [15.9949, 2.0141, 2.0141])
    own = Molecule.of(record).frequencies()
    of_ase = VibrationsData.from_2d(atoms, hessian).get_frequencies()[6:].real
    # ASE does not project; at the minimum that is 1e-3 cm⁻¹.
    np.testing.assert_allclose(own, of_ase, rtol=0, atol=1e-2)
    assert own[-1] < 0.75 * REFERENCE["H2O"]["frequencies"][-1]


def test_forces_of_the_file_are_kept_and_decide_what_turning_does(
    tmp_path: Path, water
) -> None:
    atoms, _ = water
    model = PairPotential(4.0, (1, 6, 8))
    atoms.positions *= 1.15
    atoms.calc = pft.Calculator(model)
    forces = atoms.get_forces()
    hessian = pft.hessian_vector_product(
        model, atoms, np.eye(9).reshape(3, 3, 9).transpose(0, 2, 1)
    )
    hessian = hessian.transpose(0, 2, 1).reshape(9, 9)
    assert np.abs(forces).max() > 1.0
    same, broken = impose_invariance(hessian, atoms.positions, forces)
    np.testing.assert_allclose(same, hessian, rtol=0, atol=1e-11)
    assert max(broken.rotation, broken.translation, broken.permutation) < 1e-11
    assert broken.rotation_found == pytest.approx(broken.rotation_expected)
    write_fchk(tmp_path / "a.fchk", atoms, hessian, forces)
    record = read_phonon(tmp_path / "a.fchk")
    np.testing.assert_allclose(record.forces, forces, atol=1e-6)
    kept = hessian_of(record.force_constants.full())
    np.testing.assert_allclose(kept, hessian, rtol=0, atol=1e-5)

    # The same without the rotations, as some programmes write it.
    rigid = np.hstack(rigid_motions(atoms.positions))
    projector = np.eye(9) - rigid @ rigid.T
    write_fchk(tmp_path / "b.fchk", atoms, projector @ hessian @ projector, forces)
    with pytest.raises(DataFormatError, match="rotations are projected out of the"):
        read_phonon(tmp_path / "b.fchk")
    write_fchk(tmp_path / "c.fchk", atoms, hessian)
    with pytest.raises(DataFormatError, match="geometry is not relaxed"):
        read_phonon(tmp_path / "c.fchk")
    assert read_phonon(tmp_path / "c.fchk", relaxed="none").forces is None


def test_weights_of_a_frame_weigh_what_it_knows_and_hide_nothing(
    tmp_path: Path, water
) -> None:
    atoms, hessian = water
    forces = np.random.default_rng(0).normal(scale=1e-3, size=(3, 3))
    atoms.arrays["REF_forces"] = forces - forces.mean(axis=0)
    atoms.info |= {"REF_energy": -10.0, "config_weight": 0.5}
    atoms.info |= {"config_forces_weight": 0.0, "config_energy_weight": 4.0}
    write_info(tmp_path / "a.xyz", atoms, hessian)
    record = read_phonon(tmp_path / "a.xyz")
    np.testing.assert_allclose(record.forces, atoms.arrays["REF_forces"], atol=1e-8)
    assert record.energy == -10.0
    assert record.weights == (2.0, 0.0, 0.5)
    assert "config_weight does not weigh the Hessian" in record.info["notes"]


def test_names_that_atoms_have_in_a_file_of_vibrations_do_no_harm(
    tmp_path: Path, water
) -> None:
    atoms, hessian = water
    atoms.set_array("residuenames", np.array(["HOH", "HOH", "HOH"]))
    VibrationsData.from_2d(atoms, hessian).write(tmp_path / "a.json")
    assert read_phonon(tmp_path / "a.json").n_atoms == 3


@pytest.mark.parametrize(
    ("symbols", "length", "stiffness"),
    [("H2", 1.057, 10.0), ("HeH", 0.774, 30.0), ("F2", 1.5, 15.0), ("Ar2", 3.76, 0.05)],
)
def test_long_bonds_are_no_other_unit(tmp_path, symbols, length, stiffness) -> None:
    hessian = np.zeros((6, 6))
    hessian[2::3, 2::3] = stiffness * np.array([[1.0, -1.0], [-1.0, 1.0]])
    write_info(tmp_path / "a.xyz", Atoms(symbols, [[0, 0, 0], [0, 0, length]]), hessian)
    assert read_phonon(tmp_path / "a.xyz").n_atoms == 2


def test_what_breaks_the_rules_a_little_is_removed_and_reported(
    tmp_path: Path, water
) -> None:
    atoms, hessian = water
    noise = np.random.default_rng(0).normal(scale=1e-3, size=(9, 9))
    write_info(tmp_path / "a.xyz", atoms, hessian + noise)
    record = read_phonon(tmp_path / "a.xyz")
    kept = hessian_of(record.force_constants.full())
    np.testing.assert_allclose(kept, kept.T, rtol=0, atol=1e-12)
    rigid = np.hstack(rigid_motions(record.positions))
    np.testing.assert_allclose(kept @ rigid, 0.0, atol=1e-12)
    # Vibrations are left as they were.
    rest = np.linalg.qr(rigid, mode="complete")[0][:, 6:]
    symmetric = hessian + (noise + noise.T) / 2
    np.testing.assert_allclose(
        rest.T @ kept @ rest, rest.T @ symmetric @ rest, rtol=0, atol=1e-11
    )
    for rule in ("acoustic_sum_rule", "permutation", "rotation"):
        assert 1e-4 < record.info[f"removed_{rule}"] < 1e-2


@pytest.mark.parametrize(
    "probe",
    [
        *(ColumnProbe(2), GaussianProbe(2), IrreducibleProbe(2)),
        *(RademacherProbe(2), SparseProbe(2), ModeProbe(2)),
        *(CommensurateProbe(2), CommensurateRademacherProbe(2)),
    ],
    ids=lambda probe: type(probe).__name__,
)
def test_every_probe_draws_in_a_molecule_with_unit_expected_norm(
    tmp_path: Path, water, probe
) -> None:
    write_orca(tmp_path / "a.hess", *water)
    record = read_phonon(tmp_path / "a.hess")
    if probe.commensurate_share:
        record = fold_record(record, 0)
        assert record.force_constants.share == 1.0
    rng = np.random.default_rng(3)
    draws = [probe.sample(record.force_constants, rng) for _ in range(400)]
    assert draws[0].shape == (3, 2, 3)
    squares = np.mean([np.sum(draw**2) / 2 for draw in draws])
    assert squares == pytest.approx(1.0, abs=0.1)


def test_modes_of_a_molecule_are_its_vibrations(tmp_path: Path, water) -> None:
    write_orca(tmp_path / "a.hess", *water)
    record = fold_record(read_phonon(tmp_path / "a.hess"), 0)
    tangents = ModeProbe(9).sample(record.force_constants, np.random.default_rng(0))
    products = record.force_constants.multiply(tangents)
    masses = record.masses[:, None, None]
    squares = np.einsum("ika,ika->k", tangents, products) / np.einsum(
        "ika,ika->k", tangents, masses * tangents
    )
    # H v = ω² M v for each of them, six of which have no ω.
    np.testing.assert_allclose(
        products, squares[:, None] * masses * tangents, atol=1e-8
    )
    assert np.sum(squares > 1.0) == 3


def test_files_of_several_molecules_give_each_by_its_name(
    tmp_path: Path, water
) -> None:
    frames = []
    for name in NAMES:
        atoms, hessian = molecule(name)
        atoms.info.update(hessian=hessian / PER_BOHR2, energy=-1.5)
        frames.append(atoms)
    frames.insert(1, Atoms("OH", [[0, 0, 0], [0, 0, 1]]))
    ase.io.write(tmp_path / "all.xyz", frames, format="extxyz")
    write_system(tmp_path / "system", *water)
    report = build_store(
        [tmp_path / "all.xyz", tmp_path / "system"],
        tmp_path / "x.store",
        cutoff=4.0,
        progress=False,
        hessian_units="eV/angstrom2",
    )
    # The one of the system is in eV/Å²; the frames are not, as one sentence says.
    assert report.n_structures == 1
    reasons = [reason for _, reason in report.skipped]
    assert "plausible in hartree/bohr2 (62.1)" in reasons[0]
    assert "frame 1: has no Hessian; it holds" in reasons[1]
    report = build_store(
        tmp_path / "all.xyz",
        tmp_path / "y.store",
        cutoff=4.0,
        progress=False,
        hessian_units="hartree/bohr2",
    )
    store = PhononStore(tmp_path / "y.store")
    assert store.names == ["all-0", "all-2"]
    assert store.record(1).energy == -1.5
    found = Molecule.of(store.record(1)).frequencies()
    np.testing.assert_allclose(found, REFERENCE["CO2"]["frequencies"], atol=1e-3)


def test_folders_give_molecules_and_pass_over_other_xyz_and_json(
    tmp_path: Path, water
) -> None:
    atoms, _ = water
    for kind, write in WRITERS.items():
        write(tmp_path / f"a{kind}", *water)
    ase.io.write(tmp_path / "efs.xyz", atoms, format="extxyz")
    (tmp_path / "teacher.json").write_text(json.dumps({"teacher": "x"}))
    found = find_sources(tmp_path)
    assert {path.name for path in found.paths} == {f"a{kind}" for kind in WRITERS}
    assert found.skipped == []
    with pytest.raises(DataFormatError, match="has no Hessian; it holds masses"):
        read_phonon(tmp_path / "efs.xyz")
    with pytest.raises(DataFormatError, match="is JSON of no kind that is known"):
        read_phonon(tmp_path / "teacher.json")


def test_a_system_that_changed_in_a_set_is_read_again(tmp_path: Path, water) -> None:
    atoms, hessian = water
    write_system(tmp_path / "system", atoms, hessian)
    options = {"cutoff": 4.0, "progress": False}
    build_store(tmp_path / "system", tmp_path / "x.store", **options)
    array = np.repeat(hessian.reshape(1, -1), 2, axis=0)
    np.save(tmp_path / "system/set.000/hessian.npy", array)
    coordinates = np.repeat(atoms.positions.reshape(1, -1), 2, axis=0)
    np.save(tmp_path / "system/set.000/coord.npy", coordinates)
    report = build_store(tmp_path / "system", tmp_path / "x.store", **options)
    assert (report.n_structures, report.n_read) == (2, 2)


def test_molecules_are_named_by_their_file_in_stores_and_in_evaluations(
    tmp_path: Path, water
) -> None:
    for kind, write in list(WRITERS.items())[:3]:
        plain = tmp_path / f"H2O.v2{kind}"
        write(plain, *water)
        packed = tmp_path / f"{plain.name}.gz"
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        for path in (plain, packed):
            assert read_phonon(path).name == entry_name(path, None) == "H2O.v2"


def test_a_file_of_one_frame_is_one_structure(tmp_path: Path, water) -> None:
    write_info(tmp_path / "a.xyz", *water)
    assert list_entries(tmp_path / "a.xyz") == [0]
    assert read_phonon(tmp_path / "a.xyz", hessian_key="dft_Hessian").name == "a"
    with pytest.raises(DataFormatError, match="has no 'hess'; it holds dft_Hessian"):
        read_phonon(tmp_path / "a.xyz", hessian_key="hess")


def test_fortran_may_write_exponents_as_it_does(tmp_path: Path, water) -> None:
    path = tmp_path / "a.hess"
    write_orca(path, *water)
    expected = read_phonon(path).force_constants.full()
    plain = path.read_text()
    for text in (
        plain.replace("E-", "d-").replace("E+", "D+"),
        # Three digits leave no room for a letter.
        plain.replace("E-14", "-114"),
        "\ufeff" + plain.replace("\n", "\r\n"),
    ):
        assert text != plain
        path.write_bytes(text.encode())
        found = read_phonon(path).force_constants.full()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)


def test_a_long_line_of_a_checkpoint_file_is_no_header(tmp_path: Path, water) -> None:
    write_fchk(tmp_path / "a.fchk", *water)
    text = (tmp_path / "a.fchk").read_text()
    # Half an hour, were it searched for one.
    (tmp_path / "a.fchk").write_text("A" + " " * 500_000 + "x\n" + text)
    assert read_phonon(tmp_path / "a.fchk").n_atoms == 3


def test_a_set_that_is_damaged_takes_no_other_with_it(tmp_path: Path, water) -> None:
    write_system(tmp_path / "system", *water)
    (tmp_path / "system/set.001").mkdir()
    (tmp_path / "system/set.001/hessian.npy").write_bytes(b"damaged")
    np.save(tmp_path / "system/set.001/coord.npy", water[0].positions.reshape(1, -1))
    options = {"cutoff": 4.0, "progress": False}
    report = build_store(tmp_path / "system", tmp_path / "x.store", **options)
    assert report.n_structures == 1
    assert "set.001/hessian.npy: cannot be read" in report.skipped[0][1]


def test_isotopes_that_a_system_names_have_their_mass(tmp_path: Path, water) -> None:
    write_system(tmp_path / "system", *water)
    (tmp_path / "system/type_map.raw").write_text("D\nO\n")
    masses = read_phonon(tmp_path / "system").masses
    np.testing.assert_allclose(masses, [15.999, 2.01410178, 2.01410178])


def test_a_hessian_in_the_order_of_its_indices_is_that_of_the_atoms(
    tmp_path: Path, water
) -> None:
    atoms, hessian = water
    order = [2, 0, 1]
    rows = (3 * np.array(order)[:, None] + np.arange(3)).ravel()
    content = VibrationsData.from_2d(atoms, hessian[np.ix_(rows, rows)], order)
    content.write(tmp_path / "a.json")
    found = hessian_of(read_phonon(tmp_path / "a.json").force_constants.full())
    np.testing.assert_allclose(found, hessian, rtol=0, atol=1e-4)


def test_what_tells_the_unit_of_a_hessian_is_no_second_one(
    tmp_path: Path, water
) -> None:
    atoms, hessian = water
    atoms.info.update(hessian=hessian, hessian_unit="eV/A2", has_hessian=True)
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    assert read_phonon(tmp_path / "a.xyz").info["units_from"].endswith("of hessian")
