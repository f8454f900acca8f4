"""Conductivity with phono3py, against formulas and against phono3py's own parts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase import units
from phonopy import Phonopy

from pft_lightning.errors import DataFormatError, DivergenceError
from pft_lightning.evaluation.conductivity import adapter
from pft_lightning.evaluation.conductivity.adapter import ThirdOrderPhonons
from pft_lightning.evaluation.conductivity.relaxation import relax_crystal
from pft_lightning.evaluation.force_constants import displaced_forces

from .crystals import MESH, PROTOCOL, cells, crystal, needs_phono3py, potential


def with_forces(protocol=PROTOCOL, atoms=None) -> ThirdOrderPhonons:
    model = potential()
    atoms = relax_crystal(model, crystal(), protocol).atoms if atoms is None else atoms
    phonons = ThirdOrderPhonons(cells(atoms), atoms, MESH, protocol)
    second, third = phonons.second_order(), phonons.third_order()
    phonons.set_second_order(
        np.array(displaced_forces(model, second.supercell, second.positions, 512))
    )
    phonons.set_third_order(
        np.array(displaced_forces(model, third.supercell, third.positions, 512))
    )
    return phonons


@pytest.fixture(scope="module")
def plain():
    """Without isotopes and boundaries: what phonons do to each other alone."""
    needs_phono3py()
    protocol = dataclasses.replace(PROTOCOL, isotopes=False, boundary_mfp=None)
    return with_forces(protocol)


@pytest.fixture(scope="module")
def transport(plain):
    return plain.compute()


def wigner(phonons: ThirdOrderPhonons, number: int, temperature: float) -> np.ndarray:
    """Conductivity of pairs of bands at a q-point, by eq. 49 of arXiv:2112.06897.

    Velocities are slopes of the dynamical matrix over twice the mean frequency, which
    is the geometric one of two bands, as in arXiv:1901.01964.
    """
    found = phonons._phonons
    results = found.thermal_conductivity
    phonon = Phonopy(
        found.unitcell,
        found.phonon_supercell_matrix,
        primitive_matrix=found.primitive_matrix,
        log_level=0,
    )
    phonon.force_constants = found.fc2
    lattice, factor = np.array(found.primitive.cell), phonon.unit_conversion_factor

    def matrix(shift):
        phonon.dynamical_matrix.run(results.qpoints[number] + lattice @ shift)
        return phonon.dynamical_matrix.dynamical_matrix

    values, vectors = np.linalg.eigh(matrix(np.zeros(3)))
    omega = 2e12 * np.pi * factor * np.sqrt(values)  # rad/s
    # Half widths in THz to whole ones in rad/s.
    gamma = 4e12 * np.pi * np.asarray(results.gamma)[0, 0, number]
    x = units._hbar * omega / (units._k * temperature)
    per_mode = units._k * x**2 * np.exp(x) / np.expm1(x) ** 2 / omega  # J s/K
    width = gamma[:, None] + gamma[None, :]
    apart = omega[:, None] - omega[None, :]
    weight = (omega[:, None] + omega[None, :]) / 4
    weight = weight * (per_mode[:, None] + per_mode[None, :])
    weight = weight * (width / 2) / (apart**2 + width**2 / 4)
    squares = np.zeros_like(weight)
    for axis in 1e-4 * np.eye(3):  # 1/Å
        slope = (matrix(axis) - matrix(-axis)) / 2e-4
        slope = vectors.conj().T @ slope @ vectors * (2e12 * np.pi * factor) ** 2
        # The wave vector is 2 pi q, and q in 1/Å.
        velocity = slope * 1e-10 / (4 * np.pi * np.sqrt(np.outer(omega, omega)))
        squares += np.abs(velocity) ** 2 / 3
    volume = found.primitive.volume * 1e-30
    return weight * squares / volume * results.grid_weights[number]


def test_pairs_of_bands_conduct_as_the_wigner_formula_says(plain, transport):
    results = plain._phonons.thermal_conductivity
    matrix = np.asarray(results.mode_kappa_matrix)[0, 0, ..., :3].mean(axis=-1)
    # Of degenerate modes phonopy averages the velocities.
    distinct = np.diff(results.frequencies, axis=1).min(axis=1) > 0.1
    assert distinct.sum() == 1
    number = int(np.argmax(distinct))
    expected = wigner(plain, number, PROTOCOL.temperature)
    largest = np.abs(expected).max()
    assert np.abs(expected - np.diag(np.diag(expected))).max() > 1e-3 * largest
    # Slopes are differences here.
    np.testing.assert_allclose(matrix[number], expected, rtol=1e-4, atol=1e-6 * largest)


def test_the_particle_part_is_that_of_phono3py_without_coherence(plain, transport):
    phonons = plain._phonons
    phonons.run_thermal_conductivity(
        temperatures=[PROTOCOL.temperature], transport_type=None
    )
    particle = np.asarray(phonons.thermal_conductivity.kappa)[0, 0]
    np.testing.assert_allclose(transport.particle, particle, rtol=1e-9, atol=1e-12)
    assert transport.coherence[0] > 0.1 * transport.particle[0] > 0.1


def test_both_parts_are_what_phono3py_calls_within_and_between_bands(plain):
    found = plain.compute()
    results = plain._phonons.thermal_conductivity
    within, between = results.kappa_intra[0, 0], results.kappa_inter[0, 0]
    np.testing.assert_allclose(found.particle, within, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.coherence, between, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.total, results.kappa[0, 0], rtol=1e-12, atol=1e-12)


def test_modes_add_up_to_the_whole(transport):
    found = transport.conductivity
    assert found.weights.sum() == np.prod(MESH)
    assert found.modes.sum() / found.weights.sum() == pytest.approx(
        found.kappa, rel=1e-9
    )
    assert found.modes.shape == found.frequencies.shape == (len(found.q_points), 6)


@pytest.mark.parametrize(
    ("change", "is_less"),
    [
        ({"isotopes": True}, True),
        ({"boundary_mfp": 0.001}, True),
        ({"smearing": 0.3}, None),
        ({"temperature": 600.0}, True),
    ],
)
def test_every_choice_of_the_protocol_reaches_phono3py(
    plain, transport, change, is_less
):
    before = plain._protocol
    plain._protocol = dataclasses.replace(before, **change)
    try:
        kappa = plain.compute().conductivity.kappa
    finally:
        plain._protocol = before
    assert abs(kappa / transport.conductivity.kappa - 1) > 1e-4
    if is_less:
        assert kappa < transport.conductivity.kappa


def test_force_constants_are_symmetrised_unless_the_protocol_says_no(plain):
    raw = dataclasses.replace(PROTOCOL, symmetrize_fc2=False, symmetrize_fc3r=False)
    found, kept = with_forces(raw)._phonons, plain._phonons
    assert np.abs(kept.fc2.sum(axis=1)).max() < 1e-12
    np.testing.assert_array_equal(found.fc2.shape, kept.fc2.shape)
    drift = np.abs(found.fc3.sum(axis=1)).max()
    assert np.abs(kept.fc3.sum(axis=1)).max() < 1e-2 * drift
    assert np.abs(found.fc3 - kept.fc3).max() > 1e-6


def test_frequencies_of_all_points_begin_with_gamma():
    needs_phono3py()
    model, atoms = potential(), crystal(2.4995)
    phonons = ThirdOrderPhonons(cells(atoms), atoms, MESH, PROTOCOL)
    second = phonons.second_order()
    forces = np.array(displaced_forces(model, second.supercell, second.positions, 512))
    frequencies, points = phonons.set_second_order(forces)
    assert frequencies.shape == (27, 6)
    np.testing.assert_array_equal(points[0], 0)
    assert np.abs(frequencies[0, :3]).max() < 1e-5
    assert (phonons.mesh, phonons.n_primitive) == (MESH, 2)


def test_a_length_is_a_mesh_too():
    needs_phono3py()
    atoms = crystal(2.5)
    assert ThirdOrderPhonons(cells(atoms), atoms, 10.0, PROTOCOL).mesh == (4, 4, 4)


def test_supercells_that_fit_nothing_are_named():
    needs_phono3py()
    wrong = dataclasses.replace(cells(), fc2_supercell=np.zeros((3, 3), int))
    with pytest.raises(DataFormatError, match=r"fc2_supercell=\[\[0, 0, 0\]"):
        ThirdOrderPhonons(wrong, wrong.atoms, MESH, PROTOCOL)


def test_force_constants_that_are_not_finite_make_no_conductivity(plain):
    phonons = plain._phonons
    before = phonons.fc3
    phonons.fc3 = np.full_like(before, np.nan)
    try:
        with pytest.raises(DivergenceError, match="add up to"):
            plain.compute()
    finally:
        phonons.fc3 = before


@pytest.mark.parametrize("order", ["second", "third"])
def test_forces_that_are_not_finite_are_counted(plain, order):
    forces = np.zeros((4, 16, 3))
    forces[2, 3, 1] = np.inf
    with pytest.raises(DivergenceError, match=f"{order} order .* 1 of 4 displaced"):
        getattr(plain, f"set_{order}_order")(forces)


def test_processes_of_a_machine_share_its_cores(monkeypatch):
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    monkeypatch.setattr(adapter.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    adapter._share_threads()
    assert adapter.os.environ["RAYON_NUM_THREADS"] == "2"
    adapter.os.environ["RAYON_NUM_THREADS"] = "5"
    adapter._share_threads()
    assert adapter.os.environ["RAYON_NUM_THREADS"] == "5"
