from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.lj import LennardJones

import pft_lightning as pft
from pft_lightning.errors import ConfigError, RelaxationError
from pft_lightning.evaluation.protocols import (
    PROTOCOLS,
    Protocol,
    compute_phonons,
    get_protocol,
    relax,
)

from .conftest import make_phonon


MDR = PROTOCOLS["mdr"]


@pytest.fixture
def reference(potential):
    """A crystal of the potential's own with a free internal coordinate."""
    phonon = make_phonon("wurtzite")
    phonon.force_constants = pft.force_constants(potential, phonon)
    return phonon


def test_relaxation_ends_at_a_minimum_and_keeps_the_space_group(reference, potential):
    relaxed, steps = relax(potential, reference, MDR)
    assert 0 < steps <= MDR.max_steps
    relaxed.set_constraint()
    assert np.abs(relaxed.get_forces()).max() < MDR.fmax
    # fmax is on volume times stress.
    largest = np.abs(relaxed.get_stress()).max() * relaxed.get_volume()
    assert largest < MDR.fmax * len(relaxed)
    from phonopy.structure.atoms import PhonopyAtoms
    from phonopy.structure.symmetry import Symmetry

    cell = PhonopyAtoms(
        numbers=relaxed.numbers,
        cell=relaxed.cell.array,
        scaled_positions=relaxed.get_scaled_positions(),
    )
    assert Symmetry(cell).dataset.number == 186


def test_the_cell_of_the_reference_is_used_as_it_is_unless_relaxed(
    reference, potential
):
    found = compute_phonons(potential, reference, PROTOCOLS["dft_cell"])
    assert found.volume_ratio == 1.0
    assert found.relax_steps == 0
    np.testing.assert_array_equal(
        found.phonon.supercell.positions, reference.supercell.positions
    )
    relaxed = compute_phonons(potential, reference, PROTOCOLS["mdr_analytic"])
    assert relaxed.volume_ratio != 1.0
    expected = relaxed.phonon.unitcell.volume / reference.unitcell.volume
    assert relaxed.volume_ratio == pytest.approx(expected, rel=1e-12)


def test_the_paper_protocol_and_its_analytic_form_agree(reference, potential):
    published = compute_phonons(potential, reference, MDR)
    analytic = compute_phonons(potential, reference, PROTOCOLS["mdr_analytic"])
    assert published.volume_ratio == pytest.approx(analytic.volume_ratio, rel=1e-12)
    exact = analytic.phonon.force_constants
    # The error of differences over 0.01 Å.
    difference = np.abs(published.phonon.force_constants - exact).max()
    assert 0 < difference < 1e-2 * np.abs(exact).max()


def test_a_model_that_collapses_explodes_by_name(reference, potential):
    with torch.no_grad():
        potential.radius *= 0.2  # attraction without a core
        potential.depth *= 50
    with pytest.raises(RelaxationError, match="exploded"):
        relax(potential, reference, MDR)


class NotANumber(ASECalculator):
    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        nan = float("nan")
        self.results = {
            "energy": nan,
            "forces": np.full((len(atoms), 3), nan),
            "stress": np.full(6, nan),
        }


def test_forces_that_are_no_numbers_are_an_explosion(reference):
    with pytest.raises(RelaxationError, match="exploded"):
        relax(NotANumber(), reference, MDR)


def test_a_relaxation_that_does_not_converge_is_a_failure(reference, potential):
    impatient = dataclasses.replace(MDR, max_steps=1)
    with pytest.raises(RelaxationError, match=r"did not converge.*1 steps"):
        relax(potential, reference, impatient)


def test_any_ase_calculator_can_be_relaxed():
    reference = make_phonon("fcc, primitive")
    calculator = LennardJones(sigma=2.3, epsilon=0.4, rc=6.0)
    found = compute_phonons(calculator, reference, MDR)
    assert found.volume_ratio != 1.0
    assert found.phonon.force_constants.shape == (1, 27, 3, 3)


def test_protocols_are_found_by_name():
    assert get_protocol("mdr") is MDR
    own = Protocol(name="own", mesh=[3, 3, 3])
    assert get_protocol(own) is own
    assert own.mesh == (3, 3, 3)
    with pytest.raises(ConfigError, match=r"relaxed.*dft_cell, mdr, mdr_analytic"):
        get_protocol("relaxed")


@pytest.mark.parametrize(
    "values",
    [
        {"fmax": 0.0},
        {"temperatures": (300.0, 0.0, 10.0)},
        {"mesh": (3, 3)},
        {"mesh": -1.0},
        {"instability_threshold": -0.3},
    ],
)
def test_values_that_make_no_sense_are_named(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        Protocol(**values)
