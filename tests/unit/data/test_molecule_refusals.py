"""What is wrong with the Hessian of a molecule is said in one message."""

from __future__ import annotations

import json
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms, units
from ase.vibrations import VibrationsData
from molecular_files import (
    PER_BOHR2,
    write_arrays,
    write_fchk,
    write_info,
    write_orca,
    write_system,
    write_vibrations,
)

from pft_lightning.data.molecules import Molecule
from pft_lightning.data.readers import (
    PhononReadOptions,
    read_phonon,
)
from pft_lightning.errors import ConfigError, DataFormatError


def _cut(path: Path, part: float) -> None:
    text = path.read_text()
    path.write_text(text[: int(part * len(text))])


def _orca_cut(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_orca(path / "a.hess", atoms, hessian)
    text = (path / "a.hess").read_text()
    # The blocks are in any order; here the matrix is last and ends early.
    matrix, rest = text.split("$atoms")
    (path / "a.hess").write_text(f"$atoms{rest}{matrix[:-120]}")
    return path / "a.hess"


def _orca_other_atoms(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_orca(path / "a.hess", atoms[:2], hessian)
    return path / "a.hess"


def _fchk_cut(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_fchk(path / "a.fchk", atoms, hessian)
    _cut(path / "a.fchk", 0.8)
    return path / "a.fchk"


def _fchk_without_last_digit(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_fchk(path / "a.fchk", atoms, hessian)
    # A number still, a hundred times as large.
    text = (path / "a.fchk").read_text().rstrip()
    (path / "a.fchk").write_text(text[:-1])
    return path / "a.fchk"


def _fchk_other_unit(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_fchk(path / "a.fchk", atoms, hessian * PER_BOHR2)
    return path / "a.fchk"


def _fchk_without_frequencies(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_fchk(path / "a.fchk", atoms, hessian)
    text = (path / "a.fchk").read_text()
    (path / "a.fchk").write_text(text.split("Cartesian Force Constants")[0])
    return path / "a.fchk"


def _xyz_other_unit(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_info(path / "a.xyz", atoms, hessian / PER_BOHR2)
    return path / "a.xyz"


def _xyz_of_metal_in_other_unit(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    # Its stiffness is 6.8 eV/Å².
    salt = Atoms("NaCl", [[0, 0, 0], [0, 0, 2.36]])
    matrix = np.zeros((6, 6))
    matrix[2::3, 2::3] = [[6.8, -6.8], [-6.8, 6.8]]
    write_info(path / "b.xyz", salt, matrix)
    assert len(Molecule.of(read_phonon(path / "b.xyz")).frequencies()) == 1
    write_info(path / "a.xyz", salt, matrix / PER_BOHR2)
    return path / "a.xyz"


def _xyz_not_symmetric(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_arrays(path / "a.xyz", atoms, hessian + np.tri(9, k=-3))
    return path / "a.xyz"


def _xyz_other_atoms(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_info(path / "a.xyz", atoms, hessian[:6, :6])
    return path / "a.xyz"


def _xyz_periodic(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    atoms.cell, atoms.pbc = np.eye(3) * 12, True
    write_info(path / "a.xyz", atoms, hessian)
    return path / "a.xyz"


def _xyz_one_atom(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_info(path / "a.xyz", atoms[:1], hessian[:3, :3])
    return path / "a.xyz"


def _xyz_other_molecule(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    hessian[0, 0] += 10.0
    write_info(path / "a.xyz", atoms, hessian)
    return path / "a.xyz"


def _json_cut(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_vibrations(path / "a.json", atoms, hessian)
    _cut(path / "a.json", 0.9)
    return path / "a.json"


def _json_part(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    part = VibrationsData.from_2d(atoms, hessian[3:, 3:], indices=[1, 2])
    part.write(path / "a.json")
    return path / "a.json"


def _json_other_atoms(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_vibrations(path / "a.json", atoms, hessian)
    content = json.loads((path / "a.json").read_text())
    content["hessian"]["__ndarray__"][0] = [2, 3, 2, 3]
    content["hessian"]["__ndarray__"][2] = [0.0] * 36
    (path / "a.json").write_text(json.dumps(content))
    return path / "a.json"


def _system_other_atoms(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_system(path / "a", atoms, hessian)
    (path / "a/type.raw").write_text("0\n1\n")
    return path / "a"


def _system_periodic(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_system(path / "a", atoms, hessian)
    (path / "a/nopbc").unlink()
    np.save(path / "a/set.000/box.npy", np.eye(3).reshape(1, 9) * 20)
    return path / "a"


def _system_of_mixed_types(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_system(path / "a", atoms, hessian)
    np.save(path / "a/set.000/real_atom_types.npy", np.array([[1, 0, 0]]))
    return path / "a"


def _system_of_objects(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_system(path / "a", atoms, hessian)
    objects = np.array([{"a": 1}], dtype=object)
    np.save(path / "a/set.000/coord.npy", objects, allow_pickle=True)
    return path / "a"


def _system_npz(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_system(path / "a", atoms, hessian)
    with (path / "a/set.000/hessian.npy").open("wb") as file:
        np.savez(file, hessian=hessian)
    return path / "a"


def _system_of_empty_frames(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_system(path / "a", atoms, hessian)
    # To list so many frames takes more memory than there is.
    np.save(path / "a/set.000/hessian.npy", np.zeros((10**9, 0)))
    return path / "a"


def _json_large_shape(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_vibrations(path / "a.json", atoms, hessian)
    content = json.loads((path / "a.json").read_text())
    # ASE would fill 60 GB with it.
    content["hessian"]["__ndarray__"] = [[30000, 3, 30000, 3], "float64", [0.0]]
    (path / "a.json").write_text(json.dumps(content))
    return path / "a.json"


def _json_of_long_texts(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    # ASE would make room for three texts of 70 MB.
    texts = {"__ndarray__": [[3], "S70000000", ["a", "b", "c"]]}
    return _json_with(path, atoms, hessian, texts)


def _json_of_complex_numbers(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    # ASE would make a matrix of a column and a row.
    parts = {"__complex_ndarray__": [[[0.0]] * 30, [[0.0] * 30]]}
    return _json_with(path, atoms, hessian, parts)


def _json_with(
    path: Path, atoms: Atoms, hessian: np.ndarray, extra: dict[str, list]
) -> Path:
    write_vibrations(path / "a.json", atoms, hessian)
    content = json.loads((path / "a.json").read_text())
    (path / "a.json").write_text(json.dumps({**content, "extra": extra}))
    return path / "a.json"


def _fchk_gradient_of_others(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_fchk(path / "a.fchk", atoms, hessian, np.zeros((1, 3)))
    return path / "a.fchk"


def _orca_half_an_atom(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    write_orca(path / "a.hess", atoms, hessian)
    text = (path / "a.hess").read_text()
    (path / "a.hess").write_text(text.replace("$atoms\n3", "$atoms\n3.5"))
    return path / "a.hess"


def _xyz_of_halogens_in_other_unit(
    path: Path, atoms: Atoms, hessian: np.ndarray
) -> Path:
    # Long for its radii; 30 eV/Å².
    fluorine = Atoms("F2", [[0, 0, 0], [0, 0, 1.412]])
    matrix = np.zeros((6, 6))
    matrix[2::3, 2::3] = [[30.0, -30.0], [-30.0, 30.0]]
    write_info(path / "a.xyz", fluorine, matrix / PER_BOHR2)
    return path / "a.xyz"


def _xyz_in_bohr(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    atoms.positions /= units.Bohr
    write_info(path / "a.xyz", atoms, hessian / PER_BOHR2)
    return path / "a.xyz"


def _xyz_in_tenths(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    atoms.positions *= 10
    write_info(path / "a.xyz", atoms, hessian)
    return path / "a.xyz"


def _orca_in_angstrom(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    atoms.positions *= units.Bohr  # written over bohr again
    write_orca(path / "a.hess", atoms, hessian)
    return path / "a.hess"


def _orca_masses_exchanged(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    atoms.set_masses(atoms.get_masses()[::-1])
    write_orca(path / "a.hess", atoms, hessian)
    return path / "a.hess"


def _orca_heavy_hydrogen(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    atoms.set_masses([15.999, 900.0, 1.008])
    write_orca(path / "a.hess", atoms, hessian)
    return path / "a.hess"


def _xyz_of_weight_zero(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    atoms.info["config_weight"] = 0.0
    write_info(path / "a.xyz", atoms, hessian)
    return path / "a.xyz"


def _row_in_other_unit(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    atoms.set_cell([10.0, 10.0, 10.0])
    hessian = hessian / PER_BOHR2
    with ase.db.connect(path / "a.aselmdb") as database:
        database.write(atoms, data={"hessian": hessian})
    return path / "a.aselmdb"


def _orca_two(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    return _two(write_orca, path / "a.hess", atoms, hessian)


def _fchk_two(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    return _two(write_fchk, path / "a.fchk", atoms, hessian)


def _two(write, path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    # As "cat" writes the files of two calculations into one.
    write(path, atoms, hessian)
    path.write_text(2 * path.read_text())
    return path


def _system_of_more_positions(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    return _system_of_four(path, atoms, hessian, "coord", atoms.positions)


def _system_of_more_energies(path: Path, atoms: Atoms, hessian: np.ndarray) -> Path:
    return _system_of_four(path, atoms, hessian, "energy", np.zeros(1))


def _system_of_four(
    path: Path, atoms: Atoms, hessian: np.ndarray, name: str, frame: np.ndarray
) -> Path:
    write_system(path / "a", atoms, hessian)
    frames = np.tile(frame.ravel(), (4, 1))
    np.save(path / f"a/set.000/{name}.npy", frames)
    return path / "a"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_xyz_in_bohr, "near enough for a bond .* They look like bohr"),
        (_xyz_in_tenths, r"near enough for a bond .* expected in Å. Convert"),
        (_orca_in_angstrom, r"atoms \d and \d .O-H. are 0.5\d+ Å apart; at least"),
        (_orca_masses_exchanged, r"atom 1 .O. is 1.008 AMU; its isotopes have 7.2"),
        (_orca_heavy_hydrogen, r"atom 2 .H. is 900 AMU; its isotopes have 0.101 to"),
        (_xyz_of_weight_zero, "its weight is 0 .config_weight., so nothing"),
        (_row_in_other_unit, r"0.64 eV/Å².*plausible in hartree/bohr2 \(62.1\)"),
        (_json_of_long_texts, "an array is of the kind 'S70000000'"),
        (_json_of_complex_numbers, "an array is complex"),
        (_orca_two, r"has \$\w+ twice, so it holds several calculations"),
        (_fchk_two, "has 'Atomic numbers' twice, so it holds several calculations"),
        (_system_of_more_positions, "coord.npy: has 4 frames, but hessian.npy has 1"),
        (_system_of_more_energies, "energy.npy: has 4 frames, but hessian.npy has 1"),
        (_orca_cut, r"a.hess: \$hessian has \d of 9 rows in columns"),
        (_orca_other_atoms, r"\$hessian has 9 rows; 6 are expected for the 2 atoms"),
        (_fchk_cut, r"'Cartesian Force Constants' has \d+ of 45 numbers"),
        (_fchk_without_last_digit, "has 44 of 45 numbers"),
        (_fchk_other_unit, "with the Hessian in hartree/bohr2 .*eV/angstrom2"),
        (_fchk_without_frequencies, "frequency calculation"),
        (_xyz_other_unit, r"0.64 eV/Å².*plausible in hartree/bohr2 \(62.1\)"),
        (_xyz_of_metal_in_other_unit, r"\(Na-Cl, .* 0.07 eV/Å².*hartree/bohr2 \(6.8\)"),
        (_xyz_not_symmetric, "is not symmetric: it differs .* by 1 eV/Å²"),
        (_xyz_other_atoms, r"hessian has shape \(6, 6\); expected \(9, 9\)"),
        (_xyz_periodic, "frame 0: is periodic .*pbc F F F"),
        (_xyz_one_atom, "has 1 atoms; at least 2 are needed"),
        (_xyz_other_molecule, "moving the whole molecule changes forces by 10"),
        (_json_cut, "is no JSON that can be read"),
        (_json_part, "is of 2 of 3 atoms"),
        (_json_other_atoms, "atoms and Hessian do not belong together"),
        (_system_other_atoms, "coord.npy: has 9 numbers in frame 0; 6 are expected"),
        (_system_periodic, "empty file nopbc"),
        (_system_of_mixed_types, "is a system of mixed types"),
        (_system_of_objects, "coord.npy: cannot be read"),
        (_xyz_of_halogens_in_other_unit, r"F-F, .* 0.309 eV/Å².*hartree/bohr2 .30."),
        (_orca_half_an_atom, "the number of atoms is 3.5; an integer is needed"),
        (
            _fchk_gradient_of_others,
            "'Cartesian Gradient' has 3 numbers; 9 are",
        ),
        (_json_large_shape, "an array of shape .30000, 3, 30000, 3. has 1 numbers"),
        (
            _system_of_empty_frames,
            r"holds a float64 array of shape .1000000000, 0.",
        ),
        (_system_npz, "hessian.npy: is an archive of arrays .npz."),
    ],
)
def test_what_is_wrong_with_a_molecule_is_said_in_one_message(
    tmp_path: Path, water, write, message: str
) -> None:
    path = write(tmp_path, *water)
    with pytest.raises(DataFormatError, match=message) as error:
        read_phonon(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_units_of_hessians_are_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="hessian_units='mm'; accepted: eV/angstrom2"):
        PhononReadOptions(hessian_units="mm")
