from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import yaml

import pft_lightning as pft
from pft_lightning.evaluation.properties import compute_properties, mesh_numbers
from pft_lightning.evaluation.protocols import Protocol
from pft_lightning.physics.force_constants import from_phonopy

from .conftest import einstein, make_phonon


FAST = Protocol(mesh=30.0, temperatures=(0.0, 600.0, 100.0), band_points=11)

# CODATA 2018
PLANCK = 6.62607015e-34
BOLTZMANN = 1.380649e-23
AVOGADRO = 6.02214076e23
ELECTRON_VOLT = 1.602176634e-19
ATOMIC_MASS = 1.66053906660e-27


@pytest.fixture
def phonon(rocksalt, potential):
    rocksalt.force_constants = pft.force_constants(potential, rocksalt)
    return rocksalt


def test_an_einstein_crystal_has_the_values_of_the_textbook():
    stiffness, mass = 3.0, 20.0
    properties = compute_properties(einstein(stiffness, mass), FAST)
    angular = math.sqrt(stiffness * ELECTRON_VOLT * 1e20 / (mass * ATOMIC_MASS))
    frequency = angular / (2 * math.pi)
    # phonopy's constants are CODATA's, but in eight digits.
    assert properties.mesh_frequencies == pytest.approx(frequency / 1e12, rel=1e-6)
    assert properties.commensurate_frequencies.shape == (8, 3)
    assert properties.commensurate_frequencies == pytest.approx(
        frequency / 1e12, rel=1e-6
    )
    at = int(np.flatnonzero(properties.temperatures == 300)[0])
    x = PLANCK * frequency / (BOLTZMANN * 300)
    gas = BOLTZMANN * AVOGADRO
    entropy = 3 * gas * (x / math.expm1(x) - math.log1p(-math.exp(-x)))
    heat_capacity = 3 * gas * x**2 * math.exp(x) / math.expm1(x) ** 2
    free_energy = 3 * gas * 300 * (x / 2 + math.log1p(-math.exp(-x))) / 1000
    # phonopy's constants are those of CODATA 2006: 1e-6 away; in F two terms of
    # some kJ/mol nearly cancel.
    assert properties.entropy[at] == pytest.approx(entropy, rel=5e-6)
    assert properties.heat_capacity[at] == pytest.approx(heat_capacity, rel=5e-6)
    assert properties.free_energy[at] == pytest.approx(free_energy, abs=2e-5)
    zero_point = 3 * AVOGADRO * PLANCK * frequency / 2 / 1000
    assert properties.free_energy[0] == pytest.approx(zero_point, rel=5e-6)


@pytest.mark.parametrize("is_gamma_center", [True, False])
def test_thermal_properties_are_those_of_the_phonopy_command(
    phonon, tmp_path, is_gamma_center
):
    """With the mesh around Γ (--gc), or shifted, as it is where nothing is said."""
    protocol = Protocol(
        mesh=(8, 8, 8),
        is_gamma_center=is_gamma_center,
        temperatures=(0.0, 600.0, 100.0),
        band_points=0,
    )
    ours = compute_properties(phonon, protocol)
    phonon.save(tmp_path / "phonopy_params.yaml", settings={"force_constants": True})
    command = (
        "import sys; from phonopy.scripts.phonopy_load import run; sys.exit(run())"
    )
    arguments = (
        "phonopy_params.yaml --mesh 8 8 8 -t --tmin 0 --tmax 600 --tstep 100 "
        f"--cutoff-freq 0.001{' --gc' * is_gamma_center}"
    )
    subprocess.run(
        [sys.executable, "-c", command, *arguments.split()],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    text = (tmp_path / "thermal_properties.yaml").read_text()
    rows = yaml.safe_load(text)["thermal_properties"]
    assert [row["temperature"] for row in rows] == ours.temperatures.tolist()
    for name in ("free_energy", "entropy", "heat_capacity"):
        # The file has seven decimals.
        np.testing.assert_allclose(
            [row[name] for row in rows], getattr(ours, name), rtol=0, atol=1e-6
        )


def test_commensurate_frequencies_are_those_of_the_supercell(any_phonon, potential):
    any_phonon.force_constants = pft.force_constants(potential, any_phonon)
    ours = compute_properties(any_phonon, FAST).commensurate_frequencies
    full = from_phonopy(any_phonon)[0].full()
    weights = 1 / np.sqrt(any_phonon.supercell.masses)
    scaled = full * weights[:, None, None, None] * weights[None, :, None, None]
    n_atoms = len(any_phonon.supercell)
    matrix = scaled.transpose(0, 2, 1, 3).reshape(3 * n_atoms, 3 * n_atoms)
    squared = np.sort(np.linalg.eigvalsh(matrix))
    found = np.sort((np.sign(ours) * ours**2).ravel())
    # Compared as squares: a frequency near zero has no digits.
    scale = any_phonon.unit_conversion_factor**2
    np.testing.assert_allclose(found / scale, squared, rtol=0, atol=1e-9)


def test_the_density_of_states_integrates_to_the_number_of_bands(phonon):
    properties = compute_properties(phonon, FAST)
    pitch = np.diff(properties.dos_frequencies)
    np.testing.assert_allclose(pitch, FAST.dos_pitch, rtol=1e-9)
    # A sum over a smooth function that ends at zero; its tails beyond six standard
    # deviations hold 2e-9 of the modes.
    assert properties.dos.sum() * FAST.dos_pitch == pytest.approx(6, rel=1e-7)


def test_symmetry_of_the_mesh_saves_points_and_changes_nothing(phonon):
    with_symmetry = compute_properties(phonon, FAST)
    without = compute_properties(phonon, FAST, mesh_symmetry=False)
    assert len(with_symmetry.mesh_weights) < len(without.mesh_weights)
    assert with_symmetry.mesh_weights.sum() == pytest.approx(1, rel=1e-12)
    for name in ("entropy", "heat_capacity", "free_energy"):
        np.testing.assert_allclose(
            getattr(with_symmetry, name), getattr(without, name), rtol=1e-9
        )


def test_bands_are_continuous_and_labelled(phonon):
    bands = compute_properties(phonon, FAST).bands
    assert len(bands.labels) == len(bands.distances) == len(bands.frequencies)
    assert bands.labels[0][0] == r"$\Gamma$"
    pairs = zip(bands.labels[:-1], bands.labels[1:], strict=True)
    joined = 0
    for n, ((_, end), (start, _)) in enumerate(pairs):
        assert bands.distances[n][-1] == pytest.approx(bands.distances[n + 1][0])
        if end == start:
            joined += 1
            np.testing.assert_allclose(
                bands.frequencies[n][-1] ** 2,
                bands.frequencies[n + 1][0] ** 2,
                atol=1e-6,
            )
    assert joined


def test_a_mesh_length_follows_the_reciprocal_lattice():
    phonon = make_phonon("hcp")
    # |a*| = 2/(√3 a), |c*| = 1/c
    expected = [round(60 * 2 / (3**0.5 * 2.4))] * 2 + [round(60 / 3.9)]
    assert mesh_numbers(phonon, 60.0) == expected
    assert mesh_numbers(phonon, (4, 5, 6)) == [4, 5, 6]


def test_born_charges_split_the_optical_modes_only_where_asked_for(phonon):
    charges = np.array([1.1, -1.1])[:, None, None] * np.eye(3)
    nac = {"born": charges, "dielectric": 2.4 * np.eye(3), "factor": 14.399652}
    phonon.nac_params = nac
    corrected = compute_properties(
        phonon, Protocol(mesh=30.0, band_points=11, non_analytical=True)
    )
    assert corrected.non_analytical
    phonon.nac_params = nac
    plain = compute_properties(phonon, FAST)
    assert not plain.non_analytical
    assert corrected.max_frequency > plain.max_frequency + 0.1
