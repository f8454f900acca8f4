"""Modes by symmetry: beside phonopy's labels, and measured lines that name them."""

from __future__ import annotations

import warnings
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from phonopy.phonon.character_table import character_table
from phonopy.physical_units import get_physical_units

from pft_lightning.data.measured.source import MeasuredValues
from pft_lightning.data.measured.tables import read_table
from pft_lightning.data.supercells import SupercellOptions
from pft_lightning.errors import DataFormatError, ShapeError
from pft_lightning.losses.measured import measured_modes, spectrum_of
from pft_lightning.physics.dynamical_matrix import find_waves
from pft_lightning.physics.irreps import irrep_bases, irrep_dimension
from tests.conftest import CUTOFF, phonon_of, true_potential


HEAD = "structure,q1,q2,q3,frequency,unit,degeneracy,irrep"
WURTZITE = bulk("ZnO", "wurtzite", 3.4, c=5.5)
WURTZITE.numbers[:] = [3, 9, 3, 9]
HEXAGON = np.array([[1, 0, 0], [-0.5, 3**0.5 / 2, 0], [0, 0, 1.2]])
CRYSTALS = {
    "6mm": WURTZITE,
    "m-3m": bulk("Si", "diamond", 5.4),
    "-43m": bulk("LiCl", "zincblende", 5.4),
    # One of whose representations joins two complex ones; and without any symmetry.
    "3": Atoms(
        "Si3O3",
        scaled_positions=[
            *([0.3, 0.1, 0.0], [-0.1, 0.2, 0.0], [-0.2, -0.3, 0.0]),
            *([0.4, 0.3, 0.4], [-0.3, 0.1, 0.4], [-0.1, -0.4, 0.4]),
        ],
        cell=5 * HEXAGON,
        pbc=True,
    ),
    "1": Atoms(
        "LiFO",
        scaled_positions=[[0, 0, 0], [0.45, 0.1, 0.2], [0.1, 0.5, 0.6]],
        cell=[[3.5, 0, 0], [0.3, 3.9, 0], [0.2, 0.4, 4.3]],
        pbc=True,
    ),
}


def bases_of(phonon, **others) -> dict[str, np.ndarray]:
    primitive, symmetry = phonon.primitive, phonon.primitive_symmetry
    known = {
        "positions": primitive.positions,
        "cell": primitive.cell,
        "masses": primitive.masses,
        "dataset": symmetry.dataset,
        "symprec": symmetry.tolerance,
    }
    return irrep_bases(**known | others)


@pytest.mark.parametrize("group", sorted(CRYSTALS))
def test_frequencies_of_a_representation_are_those_phonopy_labels(group):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phonon = phonon_of(CRYSTALS[group], true_potential(), 1)
    assert phonon.primitive_symmetry.dataset.pointgroup == group
    phonon.symmetrize_force_constants()
    bases = bases_of(phonon)
    joined = np.hstack(list(bases.values()))
    n = 3 * len(phonon.primitive)
    np.testing.assert_allclose(joined.T @ joined, np.eye(n - 3), atol=1e-12)
    phonon.dynamical_matrix.run(np.zeros(3))
    matrix = phonon.dynamical_matrix.dynamical_matrix.real
    factor = get_physical_units().DefaultToTHz ** 2
    found = sorted(
        (float(square), name)
        for name, basis in bases.items()
        for square in np.linalg.eigvalsh(factor * basis.T @ matrix @ basis)
    )
    phonon.run_irreps([0, 0, 0], degeneracy_tolerance=1e-4)
    irreps = phonon.irreps
    expected = []
    for modes, name in zip(irreps.band_indices, irreps._ir_labels, strict=True):
        expected += [(abs(f) * f, name) for f in irreps.frequencies[modes]]
    moved = sorted(expected, key=lambda mode: abs(mode[0]))[3:]
    for (square, name), (other, label) in zip(found, sorted(moved), strict=True):
        assert square == pytest.approx(other, abs=1e-7)
        assert name == label


def test_names_tell_the_dimension_of_every_representation_of_phonopy():
    for tables in character_table.values():
        for table in tables:
            for name, characters in table["character_table"].items():
                assert irrep_dimension(name) == np.ravel(characters)[0], name


def test_atoms_that_are_not_where_symmetry_says_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phonon = phonon_of(CRYSTALS["m-3m"], true_potential(), 1)
    moved = phonon.primitive.positions + np.array([[0.1, 0, 0], [0, 0, 0]])
    with pytest.raises(ShapeError, match="to where none is"):
        bases_of(phonon, positions=moved)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "LiF").mkdir()
    ase.io.write(tmp_path / "LiF" / "POSCAR", WURTZITE)
    return tmp_path


def item_of(folder, *lines: str):
    (folder / "table.csv").write_text("\n".join([HEAD, *lines]))
    values = MeasuredValues(
        str(folder / "table.csv"),
        str(folder),
        CUTOFF,
        supercell=SupercellOptions(min_length=6.0),
        mesh=20.0,
    )
    assert len(values) == 1
    return values.item(0)


def test_lines_are_compared_with_modes_of_their_representation(folder):
    """E2 and E1 have changed places in the potential, and A1 lies beside B1."""
    item = item_of(
        folder,
        "LiF,0,0,0,5,THz,2,E2",
        "LiF,0,0,0,10,THz,,E1",
        "LiF,0,0,0,12,THz,,A1",
        "LiF,0,0,0,15,THz,,E2",
    )
    measured, record = item.measured, item.record
    assert measured.degeneracies.tolist() == [2, 2, 1, 2]
    waves = find_waves(
        record.force_constants,
        record.positions,
        record.cell,
        np.array([{3: 6.94, 9: 18.998403163}[z] for z in record.atomic_numbers]),
    ).first()
    known = dict(zip(["E2", "E1", "A1"], measured.blocks, strict=True))
    unit = get_physical_units().DefaultToTHz ** 2
    matrix = sum(
        basis @ np.diag(np.square(values)) @ basis.T
        for basis, values in (
            (known["E2"], [11.0, 11, 16, 16]),
            (known["E1"], [6.0, 6]),
            (known["A1"], [11.0]),
        )
    )
    matrices = torch.from_numpy(matrix / unit + 0j)[None]
    spectrum = spectrum_of(matrices, waves, measured)
    modes = measured_modes(measured, spectrum)
    frequencies = spectrum.frequencies()[0].numpy()
    np.testing.assert_allclose(
        frequencies[modes], [11, 11, 6, 6, 11, 16, 16], rtol=1e-6
    )
    # In order alone E2 and E1 are taken for each other.
    plain = replace(measured, blocks=None, block_of=None)
    spectrum = spectrum_of(matrices, waves, plain)
    frequencies = spectrum.frequencies()[0].numpy()
    found = frequencies[measured_modes(plain, spectrum)]
    np.testing.assert_allclose(found, [6, 6, 11, 11, 11, 16, 16], rtol=1e-6)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ("1/2,0,0,9,THz,,A1", "irrep is 'A1'; expected nothing at other points"),
        ("0,0,0,9,THz,,TO", "irrep is 'TO'; expected an irreducible representation"),
        ("0,0,0,9,THz,,E3x", "irrep is 'E3x'; expected an irreducible"),
        ("0,0,0,9,THz,1,E2", "degeneracy is '1'; expected 2 of E2"),
    ],
)
def test_what_is_no_representation_is_refused(tmp_path, cells, words):
    table = tmp_path / "table.csv"
    table.write_text(f"{HEAD}\nLiF,{cells}\n")
    with pytest.raises(DataFormatError, match=f"line 2: {words}"):
        read_table(table, None)


def test_f_is_t_and_numbers_and_directions_do_not_go_with_it(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(f"{HEAD}\nSi,0,0,0,15.5,THz,,F2g\n")
    (row,) = read_table(table, None).frequencies
    assert (row.irrep, row.label, row.degeneracy) == ("T2g", "T2g", 3)
    for column, cell in (("branch", "4"), ("direction", "1 0 0")):
        table.write_text(f"{HEAD},{column}\nSi,0,0,0,15.5,THz,,T2g,{cell}\n")
        with pytest.raises(DataFormatError, match="line 2: irrep is 'T2g'; expected n"):
            read_table(table, None)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ["9,THz,,T2g"],
            r"line 2: irrep is T2g, .* has A1 \(1 modes\), B1 \(2 modes\)",
        ),
        (["9,THz,,A1", "12,THz,,A1"], "line 3: irrep is A1, .* 2 modes with this line"),
        (["9,THz,,A2"], "line 2: irrep is A2"),
        (["9,THz,,A1", "12,THz,,"], "line 3: has no irrep, and other lines"),
    ],
)
def test_a_crystal_has_its_representations_alone(folder, lines, words):
    with pytest.raises(DataFormatError, match=words):
        item_of(folder, *(f"LiF,0,0,0,{line}" for line in lines))
