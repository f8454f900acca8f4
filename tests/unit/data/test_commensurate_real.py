from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pft_lightning.backends.pair import PairPotential
from pft_lightning.data.commensurate import fold_record, q_point_orders
from pft_lightning.data.readers import read_phonon
from pft_lightning.data.records import StructureRecord, to_data
from pft_lightning.graphs import build_batch, build_graph
from pft_lightning.physics.commensurate import TranslationLattice


# Primitive cells of several sizes; supercell matrices that are diagonal, and one that
# is not with respect to the primitive cell (conventional cells of cubic crystals).
MATERIALS = [
    "pbe/mp-149_alexandria-pbe.yaml",
    "pbe/BaZrO3_pbe_phonopy_params.yaml",
    "phonondb_pbesol/val/mp-10488.yaml.xz",
    "phonondb_pbesol/val/mp-1216.yaml.xz",
    "phonondb_pbesol/val/mp-13206.yaml.xz",
]


@pytest.fixture(params=MATERIALS)
def record(request, shared_data) -> StructureRecord:
    return read_phonon(shared_data / "phonons" / request.param)


def rows_of_hessian(record: StructureRecord) -> np.ndarray:
    """Second derivatives of a pair potential, rows of the primitive cell, eV/Å²."""
    model = PairPotential(4.0)
    atoms = record.force_constants.representatives()
    tangents = torch.zeros(record.n_atoms, 3 * len(atoms), 3, dtype=torch.float64)
    for row, atom in enumerate(atoms):
        tangents[atom, 3 * row : 3 * row + 3] = torch.eye(3)
    graph = build_graph(record.positions, record.cell, record.pbc, model.cutoff)
    batch = build_batch([to_data(record, graph)])
    columns = model.derivatives(batch, tangents=tangents).hvp.detach().numpy()
    return columns.reshape(record.n_atoms, -1, 3, 3).transpose(1, 0, 2, 3)


def crookedness(record: StructureRecord) -> float:
    """How far the file's positions are from repeating the primitive cell, Å."""
    fractional = record.positions @ np.linalg.inv(record.cell)
    moved = fractional[record.force_constants.permutations] - fractional
    moved -= moved[:, :1]
    return np.abs((moved - np.rint(moved)) @ record.cell).max()


def one_of_each_order(record: StructureRecord) -> list[int]:
    return np.unique(q_point_orders(record), return_index=True)[1].tolist()


def test_the_hessian_of_a_small_cell_is_the_folded_one_of_a_real_supercell(record):
    exact = rows_of_hessian(record)
    constants = replace(record.force_constants, compact=exact)
    orders = set()
    for q_point in one_of_each_order(record):
        folded = fold_record(replace(record, force_constants=constants), q_point)
        direct = rows_of_hessian(folded)
        # Rounding, and third derivatives (of some 1/Å of the second ones) times what
        # positions in the file break the lattice by: 0 to 3e-7 Å.
        tolerance = 1e-12 + 10 * crookedness(record)
        np.testing.assert_allclose(
            folded.force_constants.compact,
            direct,
            rtol=0,
            atol=tolerance * np.abs(exact).max(),
        )
        orders.add(folded.force_constants.order)
    assert max(orders) > 1


def test_folded_force_constants_of_dft_have_the_frequencies_of_phonopy(record):
    """phonopy sums over the supercell with phases and knows nothing of small cells."""
    constants = record.force_constants
    phonon = record.cells.to_phonopy(constants.compact)
    phonon.nac_params = None
    lattice = TranslationLattice.of(
        record.positions, record.cell, constants.permutations
    )
    for q_point in one_of_each_order(record):
        folded = fold_record(record, q_point).force_constants
        folded = replace(folded, masses=phonon.primitive.masses[: folded.n_primitive])
        order, n = folded.order, folded.n_primitive
        wave = np.exp(2j * np.pi / order * np.arange(order))
        blocks = folded.compact.reshape(n, n, order, 3, 3)
        roots = np.sqrt(folded.masses)
        dynamical = np.einsum("pqsab,s,p,q->paqb", blocks, wave, 1 / roots, 1 / roots)
        mine = np.linalg.eigvalsh(dynamical.reshape(3 * n, 3 * n))
        cartesian = np.linalg.inv(lattice.vectors) @ lattice.q_points()[q_point]
        q = phonon.primitive.cell @ cartesian / len(lattice.translations)
        theirs = np.linalg.eigvalsh(phonon.get_dynamical_matrix_at_q(q))
        # Squared frequencies in eV/Å²/AMU, of order 1; phonopy's phases know the
        # positions in the file.
        tolerance = 1e-10 + 0.1 * crookedness(record)
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance)
