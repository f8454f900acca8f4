"""Grüneisen parameters against force constants and entropies at other volumes."""

from __future__ import annotations

import dataclasses

import ase
import numpy as np
import pytest
from ase.optimize import BFGS
from phonopy import Phonopy, PhonopyGruneisen

import pft_lightning as pft
from pft_lightning.data.cells import PhononCells
from pft_lightning.errors import ConfigError, UnknownElementError
from pft_lightning.evaluation.gruneisen import mode_gruneisen
from pft_lightning.evaluation.protocols import PROTOCOLS, relax
from pft_lightning.testing import PairPotential
from pft_lightning.units import unit_system


CUBIC = "fcc, primitive"
# A coordinate of S is free.
FREE = "rhombohedral with R"
CUTOFF = 4.0
MODEL = PairPotential(CUTOFF, (16, 22, 29))
# Ions are relaxed further at each volume; a stress that is left does not matter.
LOOSE = dataclasses.replace(PROTOCOLS["mdr_analytic"], fmax=0.02)


class Crystal:
    """A crystal that is relaxed, and the same at other volumes."""

    def __init__(self, start: Phonopy) -> None:
        self.cells = PhononCells.of(start, unit_system("vasp"))
        self.atoms, _ = relax(MODEL, start, LOOSE)
        self.phonon = self.at_volume(1.0)
        self.atoms.set_scaled_positions(self.phonon.unitcell.scaled_positions)

    def at_volume(self, ratio: float, *, ions: bool = True) -> Phonopy:
        atoms = ase.Atoms(
            numbers=self.atoms.numbers,
            cell=self.atoms.cell.array * ratio ** (1 / 3),
            scaled_positions=self.atoms.get_scaled_positions(wrap=False),
            pbc=True,
        )
        if ions:
            atoms.calc = pft.Calculator(MODEL)
            assert BFGS(atoms, logfile=None).run(fmax=1e-8, steps=300)
        found = self.cells.to_phonopy(
            cell=atoms.cell.array,
            scaled_positions=atoms.get_scaled_positions(wrap=False),
        )
        found.force_constants = pft.force_constants(MODEL, found)
        return found


@pytest.fixture(scope="module")
def cubic(phonon_by_name) -> Crystal:
    return Crystal(phonon_by_name(CUBIC))


@pytest.fixture(scope="module")
def free(phonon_by_name) -> Crystal:
    return Crystal(phonon_by_name(FREE))


@pytest.fixture(params=["cubic", "free"])
def crystal(request: pytest.FixtureRequest) -> Crystal:
    return request.getfixturevalue(request.param)


def change(crystal: Crystal, step: float, **options) -> np.ndarray:
    """Change of force constants by ln V, by central differences."""
    high, low = (
        crystal.at_volume(ratio, **options).force_constants
        for ratio in (1 + step, 1 - step)
    )
    return (high - low) / (np.log1p(step) - np.log1p(-step))


def test_force_constants_at_other_volumes_are_met(crystal):
    found = pft.gruneisen_parameters(MODEL, crystal.phonon, mesh=(3, 3, 3))
    assert found.volume.max_force < 1e-7
    derivative = found.volume.derivative
    near = change(crystal, 5e-4)
    # The square of the step by the fifth derivatives of the energy.
    np.testing.assert_allclose(near, derivative, atol=2e-6 * np.abs(near).max(), rtol=0)
    # Half a per cent is what is taken for DFT.
    wide = dataclasses.replace(found.volume, derivative=change(crystal, 5e-3))
    _, numerical = mode_gruneisen(crystal.phonon, wide, found.q_points)
    hard = found.frequencies > 0.3
    assert hard.mean() > 0.7
    np.testing.assert_allclose(found.gruneisen[hard], numerical[hard], atol=1e-3)


def test_ions_that_follow_the_cell_are_those_of_unrelaxed_differences(free):
    crystal = free
    found = pft.gruneisen_parameters(MODEL, crystal.phonon, mesh=(2, 2, 2), relax=False)
    assert not found.volume.ions.any()
    near = change(crystal, 5e-4, ions=False)
    scale = np.abs(near).max()
    np.testing.assert_allclose(near, found.volume.derivative, atol=2e-6 * scale)
    given = pft.gruneisen_parameters(MODEL, crystal.phonon, mesh=(2, 2, 2))
    assert np.abs(given.volume.ions).max() > 0.03
    assert np.nanmax(np.abs(given.gruneisen - found.gruneisen)) > 0.3


def test_passes_engine_and_unit_cell_do_not_matter(free):
    crystal = free
    found = pft.gruneisen_parameters(MODEL, crystal.phonon, mesh=(2, 2, 2))
    other = pft.gruneisen_parameters(
        MODEL,
        crystal.phonon,
        mesh=(2, 2, 2),
        max_atoms=1,
        engine="forward_over_reverse",
    )
    assert np.nanmax(np.abs(other.gruneisen - found.gruneisen)) < 1e-9
    unit = crystal.phonon.unitcell
    larger = Phonopy(
        unit,
        crystal.phonon.supercell_matrix,
        primitive_matrix=np.eye(3),
        symprec=1e-5,
    )
    whole = pft.gruneisen_parameters(MODEL, larger, mesh=(1, 1, 1))
    ours = mode_gruneisen(crystal.phonon, found.volume, np.zeros((1, 3)))
    # Γ of the cell of three primitive ones has the modes of Γ, and others.
    same = np.argmin(np.abs(whole.frequencies[0] - ours[0].max()))
    assert whole.frequencies[0, same] == pytest.approx(ours[0].max(), abs=1e-6)
    assert whole.gruneisen[0, same] == pytest.approx(ours[1][0, -1], abs=1e-6)
    assert np.abs(whole.volume.ions).max() == pytest.approx(
        np.abs(found.volume.ions).max(), rel=1e-6
    )


def test_the_mean_by_heat_capacity_is_the_change_of_phonopys_entropy(cubic):
    crystal = cubic
    found = pft.gruneisen_parameters(MODEL, crystal.phonon, mesh=(4, 4, 4))
    step, temperatures = 2e-4, [30.0, 100.0, 600.0]

    def thermal(phonon):
        phonon.run_mesh((4, 4, 4), is_gamma_center=True)
        # The acoustic modes at Γ do not count, here as there.
        phonon.run_thermal_properties(temperatures=temperatures, cutoff_frequency=1e-3)
        return phonon.thermal_properties.thermal_properties

    _, _, entropy_high, _ = thermal(crystal.at_volume(1 + step))
    _, _, entropy_low, _ = thermal(crystal.at_volume(1 - step))
    _, _, _, heat_capacity = thermal(crystal.at_volume(1.0))
    slope = (entropy_high - entropy_low) / (np.log1p(step) - np.log1p(-step))
    ours = [found.thermodynamic(t) for t in temperatures]
    # Maxwell: dS/dlnV at fixed T is γ C_V; the square of the step.
    np.testing.assert_allclose(ours, slope / heat_capacity, rtol=1e-5)
    # Hot, all modes weigh the same.
    assert found.thermodynamic(1e5) == pytest.approx(found.mean(), rel=1e-6)


def test_phonopys_gruneisen_parameters_of_three_volumes_are_met(cubic):
    crystal = cubic
    q_points = np.array([[0.5, 0.0, 0.0], [0.1, 0.2, 0.3], [0.5, 0.5, 0.0]])
    theirs = PhonopyGruneisen(
        *(crystal.at_volume(ratio) for ratio in (1.0, 1.0005, 0.9995))
    )
    found = pft.gruneisen_parameters(MODEL, crystal.phonon, mesh=(2, 2, 2))
    frequencies, ours = mode_gruneisen(crystal.phonon, found.volume, q_points)
    for q_point, own_frequencies, own in zip(q_points, frequencies, ours, strict=True):
        theirs.set_band_structure([[q_point, q_point]])
        _, _, their_frequencies, _, values = theirs.get_band_structure()
        order = np.argsort(their_frequencies[0][0], kind="stable")
        assert np.allclose(their_frequencies[0][0][order], own_frequencies)
        assert np.allclose(np.sort(values[0][0]), np.sort(own), atol=2e-5)


def test_what_cannot_be_differentiated_is_refused(phonon_by_name):
    phonon = phonon_by_name(CUBIC)
    with pytest.raises(ConfigError, match=r"expected one from pft\.load_model"):
        pft.gruneisen_parameters(pft.Calculator(MODEL), phonon)
    with pytest.raises(UnknownElementError, match="Cu"):
        pft.gruneisen_parameters(PairPotential(CUTOFF, (3, 9)), phonon)
