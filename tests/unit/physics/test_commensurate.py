from __future__ import annotations

from math import lcm

import numpy as np
import pytest
import torch
from ase.data import atomic_masses
from phonopy import Phonopy
from phonopy.harmonic.dynmat_to_fc import get_commensurate_points

from pft_lightning.backends.pair import PairPotential
from pft_lightning.errors import ShapeError
from pft_lightning.graphs import build_batch, build_data, build_graph
from pft_lightning.physics.commensurate import (
    CommensurateCell,
    TranslationLattice,
    commensurate_cell,
)
from pft_lightning.physics.force_constants import ForceConstants, from_array


# Sums of tens of products of order 10 eV/Å², in another order.
ROUNDING = 1e-12
CUTOFF = 4.0


def lattice_of(phonon: Phonopy) -> TranslationLattice:
    return TranslationLattice.of(
        phonon.supercell.positions,
        phonon.supercell.cell,
        np.asarray(phonon.primitive.atomic_permutations),
    )


def folded_cells(
    phonon: Phonopy, force_constants: ForceConstants
) -> list[CommensurateCell]:
    """Every commensurate cell of a crystal, in the order of its q-points."""
    lattice = lattice_of(phonon)
    masses = atomic_masses[phonon.supercell.numbers]
    return [
        commensurate_cell(force_constants, lattice, q_point, masses)
        for q_point in lattice.q_points()
    ]


def hessian(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Second derivatives of a pair potential, (n_atoms, n_atoms, 3, 3), eV/Å²."""
    graph = build_graph(positions, cell, [True] * 3, CUTOFF)
    batch = build_batch([build_data(numbers, positions, cell, [True] * 3, graph)])
    n = len(numbers)
    found = PairPotential(CUTOFF).derivatives(
        batch, tangents=torch.eye(3 * n).reshape(3 * n, n, 3).movedim(0, 1).double()
    )
    # (atom, other atom, component of the other, component)
    return found.hvp.detach().numpy().reshape(n, n, 3, 3).swapaxes(2, 3)


def as_force_constants(phonon: Phonopy, full: np.ndarray) -> ForceConstants:
    return from_array(full, phonon.primitive, phonon.symmetry.get_map_atoms())[0]


def test_q_points_are_those_of_phonopy(any_spring_phonon: Phonopy) -> None:
    phonon, lattice = any_spring_phonon, lattice_of(any_spring_phonon)
    primitive = phonon.primitive.cell
    matrix = np.rint(phonon.supercell.cell @ np.linalg.inv(primitive)).astype(int)
    theirs = get_commensurate_points(matrix.T)
    mine = lattice.q_points() / len(theirs)
    # Both in fractions of phonopy's reciprocal vectors, modulo these.
    mine = mine @ np.linalg.inv(lattice.vectors).T @ primitive.T
    distance = mine[:, None] - theirs
    matches = np.abs(distance - np.rint(distance)).max(axis=2) < 1e-9
    np.testing.assert_array_equal(matches.sum(axis=0), 1)
    np.testing.assert_array_equal(matches.sum(axis=1), 1)


def test_the_primitive_lattice_and_its_multiple_give_the_supercell(
    any_spring_phonon: Phonopy,
) -> None:
    lattice = lattice_of(any_spring_phonon)
    np.testing.assert_allclose(
        lattice.supercell_matrix @ lattice.vectors,
        any_spring_phonon.supercell.cell,
        atol=1e-10,
    )
    volume = abs(np.linalg.det(lattice.vectors))
    assert volume == pytest.approx(any_spring_phonon.primitive.volume, rel=1e-10)


def test_a_q_point_gets_as_many_primitive_cells_as_its_order(
    any_spring_phonon: Phonopy,
) -> None:
    phonon, lattice = any_spring_phonon, lattice_of(any_spring_phonon)
    n = len(lattice.translations)
    constants = as_force_constants(
        phonon, np.zeros((len(phonon.supercell),) * 2 + (3, 3))
    )
    cells = folded_cells(phonon, constants)
    assert lattice.orders().min() == 1
    for q_point, order, cell in zip(
        lattice.q_points(), lattice.orders(), cells, strict=True
    ):
        needed = lcm(*(n // np.gcd(n, int(component)) for component in q_point))
        assert order == needed == cell.force_constants.order
        assert cell.force_constants.share == order / n
        volume = np.linalg.det(cell.vectors)
        assert volume == pytest.approx(order * phonon.primitive.volume, rel=1e-10)
        # The wave of q returns to its value after every vector of the cell.
        turns = cell.vectors @ np.linalg.inv(lattice.vectors) @ q_point / n
        np.testing.assert_allclose(turns, np.rint(turns), atol=1e-9)


def test_the_hessian_of_a_small_cell_is_the_folded_one_of_the_supercell(
    any_spring_phonon: Phonopy,
) -> None:
    supercell = any_spring_phonon.supercell
    full = hessian(supercell.numbers, supercell.positions, supercell.cell)
    assert np.abs(full).max() > 0.1  # eV/Å²: the potential does act at these distances
    for cell in folded_cells(
        any_spring_phonon, as_force_constants(any_spring_phonon, full)
    ):
        atoms = cell.supercell_atom
        direct = hessian(
            supercell.numbers[atoms], supercell.positions[atoms], cell.vectors
        )
        folded = cell.force_constants.full()
        np.testing.assert_allclose(folded, direct, rtol=0, atol=ROUNDING)


def test_the_primitive_cells_of_a_cell_form_a_ring(any_spring_phonon: Phonopy) -> None:
    phonon, lattice = any_spring_phonon, lattice_of(any_spring_phonon)
    constants = as_force_constants(
        phonon, np.zeros((len(phonon.supercell),) * 2 + (3, 3))
    )
    n = len(lattice.translations)
    for q_point, cell in zip(
        lattice.q_points(), folded_cells(phonon, constants), strict=True
    ):
        permutations = cell.force_constants.permutations
        identity = np.arange(cell.force_constants.n_atoms)
        np.testing.assert_array_equal(permutations[0], identity)
        moved = identity
        for permutation in permutations:
            np.testing.assert_array_equal(permutation, moved)
            moved = permutations[1 % len(permutations)][moved]
        # One step is one rigid translation, along which the phase grows by 2π/M.
        positions = phonon.supercell.positions[cell.supercell_atom]
        step = positions[permutations[1 % len(permutations)]] - positions
        fractional = (step - step[0]) @ np.linalg.inv(cell.vectors)
        np.testing.assert_allclose(fractional, np.rint(fractional), atol=1e-9)
        turns = step[0] @ np.linalg.inv(lattice.vectors) @ q_point / n
        turns -= 1 / cell.force_constants.order
        assert turns == pytest.approx(round(turns), abs=1e-9)


def test_inequivalent_atoms_keep_their_share(spring_phonon) -> None:
    phonon = spring_phonon("hexagonal")
    constants = as_force_constants(
        phonon, np.zeros((len(phonon.supercell),) * 2 + (3, 3))
    )
    for cell in folded_cells(phonon, constants):
        atoms, counts = cell.force_constants.inequivalent_atoms()
        numbers = phonon.supercell.numbers[cell.supercell_atom[atoms]]
        assert sorted(numbers.tolist()) == [8, 30]
        assert (counts == cell.force_constants.n_atoms / 2).all()


def test_positions_that_are_no_lattice_are_refused(spring_phonon) -> None:
    phonon = spring_phonon("bcc, oblique")
    cell, positions = phonon.supercell.cell, phonon.supercell.positions
    permutations = np.asarray(phonon.primitive.atomic_permutations)
    crooked = positions.copy()
    crooked[3] += 0.4
    with pytest.raises(ShapeError, match="do not belong together"):
        TranslationLattice.of(crooked, cell, permutations)
    with pytest.raises(ShapeError, match="8 translations of the supercell generate 1"):
        TranslationLattice.of(positions, cell, permutations[[0] * 8])
