from __future__ import annotations

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk

from pft_lightning.evaluation.conductivity.cells import space_group
from pft_lightning.symmetry import search


@pytest.mark.parametrize("function", ["get_symmetry_dataset", "find_primitive"])
def test_a_search_without_a_result_gives_none_and_no_error(function):
    """Atoms on one place: spglib has given None, and raised, by version."""
    overlapping = Atoms("Si2", positions=np.zeros((2, 3)), cell=[3, 3, 3], pbc=True)
    assert search(getattr(spglib, function), overlapping, 1e-5) is None
    assert space_group(overlapping, 1e-5) == 0


@pytest.mark.parametrize("part", ["cell", "positions"])
def test_numbers_that_are_not_finite_have_no_symmetry(part):
    """spglib ends the process on them."""
    atoms = bulk("Si", "diamond", 5.43)
    cell, positions = atoms.cell.array.copy(), atoms.get_scaled_positions()
    (cell if part == "cell" else positions)[1, 1] = np.nan
    crystal = (cell, positions, atoms.numbers)
    assert search(spglib.get_symmetry_dataset, crystal, 1e-5) is None


def test_atoms_and_their_cell_are_one_crystal():
    atoms = bulk("Si", "diamond", 5.43)
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    found = [search(spglib.get_symmetry_dataset, one, 1e-5) for one in (atoms, cell)]
    assert [dataset.number for dataset in found] == [227, 227]
