"""Lines at Γ along a direction, and the Born charges that they need."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk

from pft_lightning import keys
from pft_lightning.data.measured.source import MeasuredValues
from pft_lightning.data.measured.tables import read_table
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.errors import DataFormatError
from pft_lightning.graphs import build_batch
from pft_lightning.losses.properties import PropertyErrors
from pft_lightning.training.measured import compare_measured
from tests.conftest import CUTOFF, phonon_of, true_potential


HEAD = "structure,q1,q2,q3,frequency,unit,degeneracy,direction"
POLAR = bulk("ZnO", "wurtzite", 3.4, c=5.5)
POLAR.numbers[:] = [3, 9, 3, 9]  # elements of the potential, in the symmetry of ZnO
# One line for each of the two kinds of atoms.
BORN = """default value
2.1 0 0 0 2.1 0 0 0 2.6
1.1 0 0 0 1.1 0 0 0 1.4
-1.1 0 0 0 -1.1 0 0 0 -1.3
"""


def nac_params(phonon) -> dict[str, object]:
    """What BORN says, of all atoms; 0.05 e along c are taken from each."""
    ions = [np.diag([1.1, 1.1, 1.35]), np.diag([-1.1, -1.1, -1.35])]
    return {
        "born": np.array(
            [ions[int(number == 9)] for number in phonon.primitive.numbers]
        ),
        "dielectric": np.diag([2.1, 2.1, 2.6]),
        "factor": 14.39965172592227,
    }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "LiF").mkdir()
    ase.io.write(tmp_path / "LiF" / "POSCAR", POLAR)
    (tmp_path / "LiF" / "BORN").write_text(BORN)
    return tmp_path


def values_of(folder, *lines: str) -> MeasuredValues:
    table = folder / "table.csv"
    table.write_text("\n".join([HEAD, *lines]))
    return MeasuredValues(
        str(table),
        str(folder),
        CUTOFF,
        supercell=SupercellOptions(min_length=6.0),
        mesh=20.0,
    )


@pytest.mark.parametrize("direction", [(0, 0, 1), (1, 0, 0), (1, -1, 2)])
def test_the_frequencies_of_phonopy_have_no_error(folder, direction):
    """Of the potential itself, with the same charges."""
    phonon = phonon_of(POLAR, true_potential(), 1)
    phonon.nac_params = nac_params(phonon)
    phonon.run_qpoints([[0, 0, 0]], nac_q_direction=direction)
    polar = phonon.qpoints.frequencies[0]
    column = " ".join(map(str, direction))
    # Two modes are imaginary; translations are left out.
    lines = [f"LiF,0,0,0,{f:.9f},THz,,{{}}" for f in polar if f > 0.1]
    assert len(lines) == 7
    errors = []
    for along in (column, ""):
        found = values_of(folder, *(line.format(along) for line in lines))
        data = found.data(0)
        data[keys.COUNTED] = torch.tensor([True])
        batch = build_batch([data])
        compared = compare_measured(
            true_potential(), batch, PropertyErrors(), {"frequencies": 1.0}
        )
        errors.append(compared.losses["frequencies"])
    # phonopy takes differences of forces over 0.01 Å.
    assert errors[0] < 5e-3
    assert errors[1] > 0.5


def test_lines_of_one_direction_are_one_item(folder):
    found = values_of(
        folder,
        "LiF,0,0,0,20,THz,,1 0 0",
        "LiF,0,0,0,13,THz,,",
        "LiF,0,0,0,15,THz,2,-1/2 0 0.",
        "LiF,0,0,0,21,THz,,0 0.5 -1",
        "LiF,1/2,0,0,9,THz,,",
    )
    names = ["0,0,0 along 1,0,0", "0,0,0", "0,0,0 along 0,1,-2", "1/2,0,0"]
    assert found.names == [f"LiF q={name}" for name in names]
    first = found.item(0).measured
    assert first.values.tolist() == [20, 15]
    assert [found.item(i).measured.added is None for i in range(4)] == [0, 1, 0, 1]
    assert np.linalg.matrix_rank(first.added, tol=1e-6) == 1


def test_charges_belong_to_the_atoms_of_the_file(folder):
    """Also where the ions have another order, or the file four primitive cells."""
    fcc = bulk("LiF", "rocksalt", 4.9)
    matrices = {}
    for name, atoms in {
        "plain": fcc,
        "turned": fcc[[1, 0]],
        "cubic": bulk("LiF", "rocksalt", 4.9, cubic=True),
    }.items():
        (folder / name).mkdir()
        ase.io.write(folder / name / f"{name}.cif", atoms)
        charges = [" ".join(map(str, (z * np.eye(3)).ravel())) for z in (0.9, -0.9)]
        if name == "turned":
            charges.reverse()
        lines = ["14.4", "2 0 0 0 2 0 0 0 2", *charges]
        (folder / name / "BORN").write_text("\n".join(lines))
        item = values_of(folder, f"{name},0,0,0,20,THz,,1 1 1").item(0)
        order = np.argsort(item.record.atomic_numbers)
        rows = item.measured.added.reshape(2, 3, 2, 3)[order][:, :, order]
        matrices[name] = rows.reshape(6, 6)
        # Of the trace alone, as lattice vectors turn.
        np.testing.assert_allclose(
            np.trace(matrices[name]), np.trace(matrices["plain"]), rtol=1e-6
        )
        signs = np.sign(np.einsum("iaja->ij", rows))
        np.testing.assert_array_equal(signs, [[1, -1], [-1, 1]])


def test_phonopy_files_bring_their_charges(folder):
    phonon = phonon_of(POLAR, true_potential(), 1)
    phonon.nac_params = nac_params(phonon)
    expected = values_of(folder, "LiF,0,0,0,20,THz,,1 0 0").item(0).measured.added
    (folder / "LiF" / "POSCAR").unlink()
    (folder / "LiF" / "BORN").unlink()
    phonon.save(folder / "LiF" / "phonopy.yaml", settings={"force_constants": False})
    found = values_of(folder, "LiF,0,0,0,20,THz,,1 0 0").item(0).measured.added
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("q_point", "direction", "words"),
    [
        ("1/2,0,0", "1 0 0", "expected nothing, as the q-point is not 0, 0, 0"),
        ("0,0,0", "0 0 0", "expected three numbers .* not all 0"),
        ("0,0,0", "1 0", "expected three numbers"),
        ("0,0,0", "1 0 0 0", "expected three numbers"),
        ("0,0,0", "1 nan 0", "expected three numbers"),
        ("0,0,0", "1 1/0 0", "expected three numbers"),
        ("0,0,0", "1 1e9 0", "expected three numbers"),
        ("0,0,0", "1 1234567890123 0", "expected three numbers"),
    ],
)
def test_what_is_no_direction_is_refused(tmp_path, q_point, direction, words):
    table = tmp_path / "table.csv"
    table.write_text(f"{HEAD}\nLiF,{q_point},20,THz,,{direction}\n")
    with pytest.raises(DataFormatError, match=f"line 2: direction is .*{words}"):
        read_table(table, None)


@pytest.mark.parametrize(
    ("born", "words"),
    [
        (None, "LiF/POSCAR: no BORN lies beside it"),
        (BORN + "1 0 0 0 1 0 0 0 1\n", "LiF/BORN: .*Too many atoms"),
        ("\n".join(BORN.splitlines()[:3]), "LiF/BORN: .*not enough"),
        (BORN.replace("2.1", "-2.1"), "dielectric tensor has the eigenvalue -2.1"),
        (BORN.replace("-1.3", "nan"), "LiF/BORN: .*is nan"),
        (BORN.replace("-1.3", "7"), "LiF/BORN: .* where neutrality needs 0"),
        ("!!python/object/apply:os.system ['true']", "LiF/BORN: .*is incorrect"),
    ],
)
def test_a_direction_needs_charges(folder, born, words):
    file = folder / "LiF" / "BORN"
    if born is None:
        file.unlink()
    else:
        file.write_text(born)
    plain = values_of(folder, "LiF,0,0,0,20,THz,,")
    assert plain.names == ["LiF q=0,0,0"]
    with pytest.raises(
        DataFormatError,
        match=rf"table.csv, line 2: direction is 1 0 0, which .*{words}.* Put phonopy",
    ):
        values_of(folder, "LiF,0,0,0,20,THz,,1 0 0")


def test_charges_beside_several_crystals_are_nobodys(folder):
    ase.io.write(folder / "LiF" / "other.cif", POLAR)
    with pytest.raises(DataFormatError, match="BORN: lies beside several crystals"):
        values_of(folder, "LiF,0,0,0,20,THz,,1 0 0")


@pytest.mark.parametrize("born", [True, False])
def test_a_path_does_not_say_what_its_longitudinal_modes_are(folder, born):
    """Its Γ is left out where charges are known; that of a mesh has no direction."""
    phonon = phonon_of(POLAR, true_potential(), 1)
    if born:
        phonon.nac_params = nac_params(phonon)
    else:
        (folder / "LiF" / "BORN").unlink()
    phonon.run_band_structure([np.linspace([0, 0, 0], [0, 0, 0.5], 3)])
    phonon.band_structure.write_yaml(filename=folder / "LiF" / "band.yaml")
    phonon.run_mesh([1, 1, 2], is_gamma_center=True)
    phonon.mesh.write_yaml(filename=folder / "LiF" / "mesh.yaml")
    names = {}
    for file in ("band.yaml", "mesh.yaml"):
        found = MeasuredValues(
            str(folder / "LiF" / file),
            str(folder),
            CUTOFF,
            supercell=SupercellOptions(min_length=6.0),
            mesh=20.0,
        )
        names[file] = found.names
        said = any("longitudinal modes" in remark for _, remark in found.skipped)
        assert said == (born and file == "band.yaml")
    edge = "LiF q=0,0,1/2"
    assert names["mesh.yaml"] == ["LiF q=0,0,0", edge]
    assert ("LiF q=0,0,0" in names["band.yaml"]) != born
    assert edge in names["band.yaml"]
