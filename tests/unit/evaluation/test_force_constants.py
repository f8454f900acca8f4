from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.spacegroup.symmetrize import refine_symmetry
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

import pft_lightning as pft
from pft_lightning.errors import ConfigError, NotDifferentiableError
from pft_lightning.evaluation.force_constants import (
    compute_force_constants,
    inequivalent_displacements,
)
from pft_lightning.testing import PairPotential


def largest_difference(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.abs(one - two).max() / np.abs(two).max())


def extrapolated(model: PairPotential, phonon: Phonopy) -> np.ndarray:
    """Finite differences without the error in the square of the displacement."""
    fine, coarse = (
        pft.force_constants(
            model, phonon, method="finite_displacement", displacement=displacement
        )
        for displacement in (5e-4, 1e-3)
    )
    return (4 * fine - coarse) / 3


def test_analytic_equals_all_columns_of_the_hessian(any_phonon, potential):
    analytic = pft.force_constants(potential, any_phonon)
    full = pft.force_constants(potential, any_phonon, method="full")
    # Rounding of sums over a few hundred neighbours.
    assert largest_difference(analytic, full) < 1e-12
    np.testing.assert_allclose(analytic, full, rtol=0, atol=1e-10)


def test_analytic_equals_finite_differences(any_phonon, potential):
    analytic = pft.force_constants(potential, any_phonon)
    # 1e-8 to 1e-11 is what is found: the fourth power of 1e-3 Å over a bond length.
    assert largest_difference(extrapolated(potential, any_phonon), analytic) < 1e-7


def test_the_result_is_what_phonopy_takes_and_obeys_the_sum_rules(
    any_phonon, potential
):
    any_phonon.force_constants = pft.force_constants(potential, any_phonon)
    n_primitive, n_atoms = len(any_phonon.primitive), len(any_phonon.supercell)
    assert any_phonon.force_constants.shape == (n_primitive, n_atoms, 3, 3)
    np.testing.assert_allclose(any_phonon.force_constants.sum(axis=1), 0, atol=1e-9)
    any_phonon.run_qpoints([[0, 0, 0]])
    acoustic = np.sort(np.abs(any_phonon.qpoints.frequencies[0]))[:3]
    # The square root of the remaining asymmetry, 1e-10 eV/Å², in THz.
    assert acoustic.max() < 1e-3


def test_only_inequivalent_displacements_are_differentiated(rocksalt, potential):
    found = compute_force_constants(potential, rocksalt)
    # One atom of sodium, one of chlorine, both on cubic sites: one direction each.
    assert found.n_products == 2
    full = compute_force_constants(potential, rocksalt, method="full")
    assert full.n_products == 3 * len(rocksalt.supercell)


def test_opposite_displacements_are_left_to_finite_differences(any_phonon):
    analytic, differences = (
        inequivalent_displacements(any_phonon, 0.01, opposite=opposite)["first_atoms"]
        for opposite in (False, True)
    )
    assert len(analytic) <= len(differences) <= 2 * len(analytic)
    for entry in differences:
        assert np.linalg.norm(entry["displacement"]) == pytest.approx(0.01, rel=1e-12)


@pytest.mark.parametrize("method", ["hvp", "finite_displacement", "full"])
def test_the_size_of_a_pass_does_not_change_the_result(rocksalt, potential, method):
    one, many = (
        pft.force_constants(potential, rocksalt, method=method, max_atoms=max_atoms)
        for max_atoms in (1, 10_000)
    )
    # Forces are summed in another order: 1e-15 eV/Å over 0.01 Å.
    np.testing.assert_allclose(one, many, rtol=0, atol=1e-11)


@pytest.mark.parametrize("engine", ["forward_over_reverse", "reverse_over_reverse"])
def test_both_engines_give_the_same(rocksalt, potential, engine):
    expected = pft.force_constants(potential, rocksalt, method="full")
    found = pft.force_constants(potential, rocksalt, engine=engine)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_single_precision_weights_are_evaluated_in_double(rocksalt, potential):
    single = potential.to(torch.float32)
    found = pft.force_constants(single, rocksalt)
    assert single.dtype == torch.float32
    double = PairPotential(single.cutoff, single.atomic_numbers)
    double.load_state_dict(single.state_dict())
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, pft.force_constants(double, rocksalt))


def test_the_calculation_is_left_as_it_is(rocksalt, potential):
    before = rocksalt.supercell.positions.copy()
    pft.force_constants(potential, rocksalt)
    assert rocksalt.force_constants is None
    assert rocksalt.dataset is None
    np.testing.assert_array_equal(rocksalt.supercell.positions, before)


def test_any_ase_calculator_gives_finite_displacements(rocksalt, potential):
    ours = pft.force_constants(potential, rocksalt, method="finite_displacement")
    theirs = pft.force_constants(
        pft.Calculator(potential), rocksalt, method="finite_displacement"
    )
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-11)


@pytest.mark.parametrize("method", ["hvp", "full"])
def test_a_calculator_without_second_derivatives_is_refused(
    rocksalt, potential, method
):
    with pytest.raises(NotDifferentiableError, match="finite_displacement"):
        pft.force_constants(pft.Calculator(potential), rocksalt, method=method)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dfpt"}, "dfpt"),
        ({"displacement": 0.0}, "displacement=0"),
        ({"max_atoms": 0}, "max_atoms=0"),
    ],
)
def test_options_that_make_no_sense_are_named(rocksalt, potential, options, message):
    with pytest.raises(ConfigError, match=message):
        pft.force_constants(potential, rocksalt, **options)


def test_what_is_no_potential_is_refused(rocksalt):
    with pytest.raises(ConfigError, match="SimpleNamespace"):
        pft.force_constants(SimpleNamespace(), rocksalt)


def test_other_units_are_refused_and_not_mistaken(rocksalt, potential):
    in_bohr = Phonopy(
        rocksalt.unitcell,
        rocksalt.supercell_matrix,
        primitive_matrix="F",
        calculator="qe",
        log_level=0,
    )
    with pytest.raises(ConfigError, match="eV and Å"):
        pft.force_constants(potential, in_bohr)


def test_an_element_that_the_model_lacks_is_named(rocksalt):
    model = PairPotential(4.0, (11,))
    with pytest.raises(ConfigError, match="no parameters for Cl"):
        pft.force_constants(model, rocksalt)


@pytest.mark.parametrize(
    ("name", "space_group"),
    [
        ("mp-573697", 225),
        ("mp-856", 136),
        ("mp-541912", 166),
        ("mp-862693", 194),
        ("mp-989613", 38),
        ("mp-28163", 12),
    ],
)
def test_of_real_materials_analytic_equals_all_columns(shared_data, name, space_group):
    phonon = symmetrised(read_real(shared_data, name))
    assert phonon.symmetry.dataset.number == space_group
    model = PairPotential(4.0)
    analytic = compute_force_constants(model, phonon)
    full = compute_force_constants(model, phonon, method="full")
    # Rounding of some hundred terms of some eV/Å².
    np.testing.assert_allclose(analytic.compact, full.compact, rtol=0, atol=1e-12)
    assert 3 * analytic.n_products < full.n_products


def test_a_real_material_agrees_with_finite_differences(shared_data):
    phonon = symmetrised(read_real(shared_data, "mp-862693"))
    model = PairPotential(4.0)
    analytic = compute_force_constants(model, phonon)
    assert largest_difference(extrapolated(model, phonon), analytic.compact) < 1e-6


def read_real(shared_data: Path, name: str) -> Phonopy:
    from pft_lightning.evaluation.reference import read_reference

    return read_reference(
        shared_data / "phonons/phonondb_pbesol/val" / f"{name}.yaml.xz"
    )


def symmetrised(phonon: Phonopy) -> Phonopy:
    """Let lattice and positions obey their symmetry to rounding.

    Real ones obey it to 1e-5 Å, which third derivatives of some eV/Å³ turn into 1e-5
    eV/Å² between force constants that symmetry expands and those that it does not.
    """
    unitcell = phonon.unitcell
    atoms = Atoms(
        numbers=unitcell.numbers,
        cell=unitcell.cell,
        scaled_positions=unitcell.scaled_positions,
        pbc=True,
    )
    refine_symmetry(atoms, symprec=phonon.symmetry.tolerance)
    cell = PhonopyAtoms(
        numbers=unitcell.numbers,
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(wrap=False),
    )
    return Phonopy(
        cell,
        phonon.supercell_matrix,
        primitive_matrix=phonon.primitive_matrix,
        symprec=phonon.symmetry.tolerance,
        log_level=0,
    )
