"""Relaxation before a conductivity, in one stage or two."""

from __future__ import annotations

import dataclasses

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import Calculator as ASECalculator

from pft_lightning.backends.calculator import Calculator
from pft_lightning.errors import ConfigError, RelaxationError, UnknownElementError
from pft_lightning.evaluation.conductivity import relaxation
from pft_lightning.evaluation.conductivity.protocol import (
    CONDUCTIVITY_PROTOCOLS,
    ConductivityProtocol,
    get_protocol,
)
from pft_lightning.evaluation.conductivity.relaxation import relax_crystal

from .crystals import PROTOCOL, crystal, potential


MINIMUM = 2.49952  # Å, of the potential


def test_both_protocols_relax_to_the_minimum_with_their_own_limits():
    one = relax_crystal(potential(), crystal(2.6), CONDUCTIVITY_PROTOCOLS["matbench"])
    two = relax_crystal(potential(), crystal(2.6), CONDUCTIVITY_PROTOCOLS["k_srme"])
    assert one.converged
    assert two.converged
    far, near = (abs(found.atoms.cell[0, 0] - MINIMUM) for found in (one, two))
    assert near < 1e-4 < far < 0.01
    assert two.n_steps > one.n_steps
    assert one.space_groups == two.space_groups == (221, 221)
    assert two.volume_ratio == pytest.approx((MINIMUM / 2.6) ** 3, abs=1e-4)
    assert one.atoms.calc is None
    assert not one.atoms.constraints


def test_the_crystal_that_was_given_stays_as_it_is():
    given = crystal(2.6)
    before = given.copy()
    relax_crystal(potential(), given, PROTOCOL)
    assert given == before
    assert given.calc is None


def test_without_relaxation_nothing_moves():
    protocol = dataclasses.replace(PROTOCOL, relax=False)
    found = relax_crystal(potential(), crystal(2.6), protocol)
    assert (found.n_steps, found.converged, found.volume_ratio) == (0, True, 1.0)
    assert found.atoms == crystal(2.6)


def test_a_calculator_of_ase_relaxes_to_the_same_crystal():
    own = relax_crystal(potential(), crystal(2.6), PROTOCOL)
    other = relax_crystal(Calculator(potential()), crystal(2.6), PROTOCOL)
    np.testing.assert_allclose(other.atoms.cell, own.atoms.cell, atol=1e-12)


def test_strains_that_are_not_named_stay():
    cubic = bulk("Cu", "fcc", a=3.7, cubic=True)
    protocol = dataclasses.replace(PROTOCOL, cell_mask=(False,) * 6, relax_symprec=1e-5)
    found = relax_crystal(potential(), cubic, protocol)
    np.testing.assert_allclose(found.atoms.cell, cubic.cell, atol=1e-12)


def test_steps_that_do_not_suffice_are_marked_and_the_rest_goes_on():
    protocol = dataclasses.replace(PROTOCOL, max_steps=2)
    found = relax_crystal(potential(), crystal(2.6), protocol)
    assert (found.n_steps, found.converged) == (2, False)


def test_a_second_stage_that_loses_the_symmetry_is_not_kept(monkeypatch):
    """A potential that pushes the two atoms together as soon as it may."""
    calls = []
    original = relaxation.run_optimiser

    def run(optimiser, *arguments):
        converged = original(optimiser, *arguments)
        calls.append(optimiser)
        if len(calls) == 2:
            optimiser.atoms.atoms.positions[0, 0] += 0.1
        return converged

    monkeypatch.setattr(relaxation, "run_optimiser", run)
    protocol = dataclasses.replace(PROTOCOL, n_stages=2)
    found = relax_crystal(potential(), crystal(2.6), protocol)
    assert len(calls) == 2
    assert found.space_groups == (221, 221)
    assert abs(found.atoms.get_scaled_positions()[0, 0]) < 1e-9


class Nonsense(ASECalculator):
    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, properties=None, system_changes=None):
        super().calculate(atoms)
        n = len(self.atoms)
        self.results = {
            "energy": np.nan,
            "forces": np.full((n, 3), np.nan),
            "stress": np.full(6, np.nan),
        }


class Cracked(Calculator):
    """One number of its results is not finite; NaN positions end the process."""

    def __init__(self, what: str) -> None:
        super().__init__(potential())
        self.what = what

    def calculate(self, *arguments, **keywords):
        super().calculate(*arguments, **keywords)
        assert np.isfinite(self.atoms.positions).all()
        value = np.array(self.results[self.what], dtype=float)
        value.flat[0] = np.nan
        self.results[self.what] = value


@pytest.mark.parametrize("what", ["energy", "forces", "stress"])
def test_a_result_that_is_not_finite_ends_a_relaxation_at_once(what):
    with pytest.raises(RelaxationError, match=f"the potential's {what} is not finite"):
        relax_crystal(Cracked(what), crystal(), PROTOCOL)


class Without(Calculator):
    """Says of an energy that it has none, by None."""

    def calculate(self, *arguments, **keywords):
        super().calculate(*arguments, **keywords)
        self.results["energy"] = None


def test_what_a_calculator_does_not_give_is_not_missed():
    found = relax_crystal(Without(potential()), crystal(), PROTOCOL)
    assert found.converged


def test_what_cannot_be_relaxed_says_why():
    with pytest.raises(RelaxationError, match="exploded"):
        relax_crystal(Nonsense(), crystal(), PROTOCOL)
    narrow = dataclasses.replace(PROTOCOL, volume_limits=(0.99, 1.01))
    with pytest.raises(RelaxationError, match="the volume is"):
        relax_crystal(potential(), crystal(2.6), narrow)
    with pytest.raises(UnknownElementError, match="Au"):
        relax_crystal(potential(), ase.Atoms("Au", cell=[3, 3, 3], pbc=True), PROTOCOL)


def test_protocols_are_found_by_name():
    assert get_protocol("k_srme").fmax == 1e-4
    assert get_protocol(PROTOCOL) is PROTOCOL
    with pytest.raises(ConfigError, match="matbench, k_srme"):
        get_protocol("mdr")


@pytest.mark.parametrize(
    ("name", "value"),
    [("displacement", 0.0), ("n_stages", 3), ("cell_mask", [True]), ("fmax", -1)],
)
def test_values_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"protocol\.{name}"):
        ConductivityProtocol(**{name: value})


def test_stages_depend_on_what_decides_them_alone():
    warmer = dataclasses.replace(PROTOCOL, temperature=400.0)
    assert warmer.relaxation() == PROTOCOL.relaxation()
    assert warmer.forces() == PROTOCOL.forces()
    shorter = dataclasses.replace(PROTOCOL, displacement=0.01)
    assert shorter.relaxation() == PROTOCOL.relaxation()
    assert shorter.forces() != PROTOCOL.forces()
