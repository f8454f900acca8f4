"""Elastic constants against differences of the stress with ions that relax."""

from __future__ import annotations

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

import pft_lightning as pft
from pft_lightning.errors import ConfigError, DataFormatError
from pft_lightning.physics.elasticity import to_voigt, voigt_strains
from pft_lightning.testing import PairPotential
from pft_lightning.units import GPA_PER_EV_PER_CUBIC_ANGSTROM


CUTOFF = 4.0


@pytest.fixture(scope="module")
def model() -> PairPotential:
    return PairPotential(CUTOFF)


def relaxed_ions(model, atoms: ase.Atoms) -> ase.Atoms:
    atoms = atoms.copy()
    atoms.calc = pft.Calculator(model)
    assert BFGS(atoms, logfile=None).run(fmax=1e-7, steps=300)
    return atoms


def triclinic() -> ase.Atoms:
    """Atoms without inversion, so that they move under strain, in a pressed cell."""
    atoms = bulk("Mg", "hcp", a=2.4, c=3.95)
    atoms.numbers[:] = [29, 13]
    rng = np.random.default_rng(4)
    strain = rng.normal(scale=0.02, size=(3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return atoms


def stress_by_strain(model, atoms, *, relax: bool, step: float) -> np.ndarray:
    """Central differences (6, 6) of the stress, GPa."""

    def stress(deformation):
        strained = atoms.copy()
        cell = atoms.cell.array @ (np.eye(3) + deformation)
        strained.set_cell(cell, scale_atoms=True)
        if relax:
            strained = relaxed_ions(model, strained)
        strained.calc = pft.Calculator(model)
        return to_voigt(strained.get_stress(voigt=False))

    columns = [
        (stress(step * strain) - stress(-step * strain)) / (2 * step)
        for strain in voigt_strains()
    ]
    return np.stack(columns, axis=1) * GPA_PER_EV_PER_CUBIC_ANGSTROM


def test_constants_of_a_triclinic_cell_under_stress_are_those_of_the_stress(model):
    atoms = relaxed_ions(model, triclinic())
    found = pft.elastic_constants(model, atoms)
    assert np.abs(found.stress).max() > 5  # GPa: without the correction this fails
    assert np.abs(found.relaxed - found.clamped).max() > 1
    for relax, constants in ((False, found.clamped), (True, found.relaxed)):
        numerical = stress_by_strain(model, atoms, relax=relax, step=3e-4)
        # GPa, of some hundred: the square of the step by the fourth derivatives.
        np.testing.assert_allclose(constants, numerical, rtol=0, atol=0.02)


def test_cubic_symmetry_is_exact_and_cell_and_passes_do_not_matter(model):
    atoms = bulk("Cu", "fcc", a=3.55, cubic=True)
    atoms.numbers[0] = 79
    atoms.calc = pft.Calculator(model)
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-9, steps=200)
    found = pft.elastic_constants(model, atoms)
    c = found.relaxed
    scale = np.abs(c).max()
    expected = np.diag([c[0, 0] - c[0, 1]] * 3 + [c[3, 3]] * 3)
    expected[:3, :3] += c[0, 1]
    # Rounding of sums over some hundred neighbours.
    np.testing.assert_allclose(c, expected, rtol=0, atol=1e-11 * scale)
    # Central forces in a crystal with inversion at every atom: Cauchy's relation.
    assert c[0, 1] == pytest.approx(c[3, 3], rel=1e-7)
    assert found.moduli.bulk == pytest.approx((c[0, 0] + 2 * c[0, 1]) / 3)
    assert found.moduli.is_stable
    assert found.lowest_internal > 0
    larger = pft.elastic_constants(
        model, atoms.repeat((2, 1, 1)), max_atoms=4, engine="reverse_over_reverse"
    )
    np.testing.assert_allclose(larger.relaxed, c, rtol=0, atol=1e-9 * scale)
    assert larger.acoustic.slack == pytest.approx(found.acoustic.slack, rel=1e-9)


def test_one_atom_has_nothing_to_relax(model):
    found = pft.elastic_constants(model, bulk("Cu", "fcc", a=3.55))
    assert np.array_equal(found.relaxed, found.clamped)
    assert found.lowest_internal == np.inf


def test_a_molecule_and_what_is_no_model_are_refused(model):
    with pytest.raises(DataFormatError, match="periodic along 0 axes"):
        pft.elastic_constants(model, molecule("H2O"))
    slab = bulk("Cu", "fcc", a=3.55)
    slab.pbc = (True, True, False)
    with pytest.raises(DataFormatError, match="along 2 axes"):
        pft.elastic_constants(model, slab)
    with pytest.raises(ConfigError, match=r"expected one from pft\.load_model"):
        pft.elastic_constants(pft.Calculator(model), bulk("Cu"))
