from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from phonopy import Phonopy
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.errors import ConfigError
from pft_lightning.losses import HvpTarget
from pft_lightning.physics.commensurate import (
    CommensurateCell,
    TranslationLattice,
    commensurate_cell,
)
from pft_lightning.physics.force_constants import ForceConstants, from_phonopy
from pft_lightning.physics.probes import ColumnProbe, RademacherProbe
from pft_lightning.physics.wave_probes import (
    CommensurateProbe,
    CommensurateRademacherProbe,
    ModeProbe,
)


# Expectations are sums over all draws, not samples: only rounding is left.
ROUNDING = 1e-11

LIGHT, HEAVY = 10.0, 40.0  # AMU


class Crystal:
    """A spring crystal of light and heavy atoms, and all its commensurate cells."""

    def __init__(self, phonon: Phonopy) -> None:
        phonon.produce_force_constants(calculate_full_force_constants=False)
        self.constants = from_phonopy(phonon)[0]
        self.lattice = TranslationLattice.of(
            phonon.supercell.positions,
            phonon.supercell.cell,
            self.constants.permutations,
        )
        rows = np.arange(self.constants.n_primitive)
        masses = np.where(rows % 2, HEAVY, LIGHT)
        self.masses = masses[self.constants.primitive_index]

    def fold(self, constants: ForceConstants) -> list[CommensurateCell]:
        return [
            commensurate_cell(constants, self.lattice, q_point, self.masses)
            for q_point in self.lattice.q_points()
        ]

    def at_wave(self, q_point: np.ndarray) -> ForceConstants:
        """What the force constants hold at ±q, as those of the same supercell."""
        n = len(self.lattice.translations)
        phases = 2 * np.pi / n * (self.lattice.translations @ q_point)
        # Moving the columns by a translation multiplies the part at q by its phase.
        moved = self.constants.compact[:, self.constants.permutations]
        compact = np.einsum("t,ptjab->pjab", np.cos(phases) / n, moved)
        return replace(self.constants, compact=compact)


@pytest.fixture
def crystal(any_spring_phonon: Phonopy) -> Crystal:
    return Crystal(any_spring_phonon)


def all_columns(constants: ForceConstants) -> np.ndarray:
    """Each column of a commensurate cell, once."""
    probe = CommensurateProbe(3 * constants.n_primitive)
    return probe.sample(constants, np.random.default_rng(0))


class _Signs:
    """All signs positive, but for one component more in each further tangent."""

    def integers(self, low: int, high: int, size: tuple[int, int, int]) -> np.ndarray:
        signs = np.full(size, high - 1)
        components = signs.transpose(0, 2, 1).reshape(-1, size[1])
        components[np.arange(size[1] - 1), np.arange(1, size[1])] = low
        return components.reshape(size[0], 3, size[1]).transpose(0, 2, 1)


def all_sketches(constants: ForceConstants) -> np.ndarray:
    """What a sketch makes of each component; their second moment is that of signs."""
    n = 3 * constants.n_atoms
    found = CommensurateRademacherProbe(n + 1).sample(constants, _Signs())  # type: ignore[arg-type]
    return np.sqrt(n) / 2 * (found[:, :1] - found[:, 1:])


def mean_square(cells: list[CommensurateCell], tangents) -> float:
    """Mean of |Φ v|² over all q-points and tangents."""
    return float(
        np.mean(
            [
                (cell.force_constants.multiply(v) ** 2).sum() / v.shape[1]
                for cell, v in zip(cells, tangents, strict=True)
            ]
        )
    )


@pytest.mark.parametrize("draws", [all_columns, all_sketches])
def test_every_q_point_weighs_as_much_as_with_columns_of_the_supercell(
    crystal: Crystal, draws
) -> None:
    """E|Φ_q v|² = ||Φ_q||² / 3N for the part Φ_q of the force constants at each q."""
    n = crystal.constants.n_atoms
    for q_point in crystal.lattice.q_points():
        part = crystal.at_wave(q_point)
        cells = crystal.fold(part)
        tangents = [draws(cell.force_constants) for cell in cells]
        expected = (part.full() ** 2).sum() / (3 * n)
        assert mean_square(cells, tangents) == pytest.approx(expected, rel=ROUNDING)


def test_plain_columns_of_small_cells_would_weigh_gamma_too_much(spring_phonon) -> None:
    """Which is why the probe takes the waves of other cells out."""
    crystal = Crystal(spring_phonon("NaCl conventional"))
    part = crystal.at_wave(np.zeros(3, dtype=int))
    cells = crystal.fold(part)
    rng = np.random.default_rng(0)
    tangents = [
        ColumnProbe(3 * cell.force_constants.n_atoms).sample(cell.force_constants, rng)
        for cell in cells
    ]
    right = (part.full() ** 2).sum() / (3 * crystal.constants.n_atoms)
    # One q-point of order 1, three of order 2, four of order 4.
    assert mean_square(cells, tangents) == pytest.approx(
        right * (1 + 3 / 2 + 4 / 4), rel=ROUNDING
    )


def test_tangents_have_unit_norm_and_no_wave_that_fits_a_smaller_cell(
    crystal: Crystal,
) -> None:
    rng = np.random.default_rng(0)
    for cell in crystal.fold(crystal.constants):
        constants = cell.force_constants
        columns = all_columns(constants)
        np.testing.assert_allclose((columns**2).sum(axis=(0, 2)), 1, rtol=ROUNDING)
        sketches = CommensurateRademacherProbe(3).sample(constants, rng)
        tangents = np.concatenate([columns, sketches], axis=1)
        waves = np.fft.fft(
            tangents.reshape(constants.n_primitive, -1, *tangents.shape[1:]), axis=1
        )
        absent = np.setdiff1d(np.arange(constants.order), constants.wave_steps())
        np.testing.assert_allclose(waves[:, absent], 0, atol=ROUNDING)
        assert np.abs(waves[:, constants.wave_steps()]).max() > 0.5


@pytest.mark.parametrize("reduction", ["structures", "atoms"])
def test_the_squared_loss_term_is_that_of_whole_columns_on_average(
    crystal: Crystal, reduction
) -> None:
    """Also after the mean over components, though cells have fewer atoms."""

    def term(constants: ForceConstants, tangents: np.ndarray) -> float:
        targets = torch.from_numpy(constants.multiply(tangents))
        request = HvpTarget(torch.from_numpy(tangents), targets, weight=1.0, kind="mse")
        batch = Batch()
        batch[keys.COUNTED] = torch.tensor([True])
        batch[keys.STRUCTURE_INDEX] = torch.zeros(constants.n_atoms, dtype=torch.int64)
        batch[keys.FORCE_CONSTANTS] = [constants]
        found = request.term(torch.zeros_like(targets), batch, reduction)
        return float(found.total / found.count)

    columns = ColumnProbe(3 * crystal.constants.n_atoms)
    whole = columns.sample(crystal.constants, np.random.default_rng(0))
    cells = [cell.force_constants for cell in crystal.fold(crystal.constants)]
    mean = np.mean([term(cell, all_columns(cell)) for cell in cells])
    assert mean == pytest.approx(term(crystal.constants, whole), rel=ROUNDING)


def all_modes(constants: ForceConstants, n_draws: int) -> np.ndarray:
    """All branches, for several draws of the wave and the phase."""
    probe = ModeProbe(3 * constants.n_primitive)
    rng = np.random.default_rng(0)
    draws = [probe.sample(constants, rng) for _ in range(n_draws)]
    return np.concatenate(draws, axis=1)


def test_modes_are_the_vibrations_of_the_supercell(crystal: Crystal) -> None:
    """Φ v = ω² m v, and over all q-points every ω² of the supercell occurs once."""
    squared = []
    for cell in crystal.fold(crystal.constants):
        constants = cell.force_constants
        modes = all_modes(constants, 1)
        inertia = constants.masses[constants.primitive_index, None, None] * modes
        products = constants.multiply(modes)
        values = (modes * products).sum((0, 2)) / (modes * inertia).sum((0, 2))
        np.testing.assert_allclose(products, values[:, None] * inertia, atol=1e-10)
        squared += values.tolist()
    n = 3 * crystal.constants.n_atoms
    roots = np.sqrt(np.repeat(crystal.masses, 3))
    full = crystal.constants.full().transpose(0, 2, 1, 3).reshape(n, n)
    expected = np.linalg.eigvalsh(full / np.outer(roots, roots))
    np.testing.assert_allclose(np.sort(squared), expected, atol=1e-10)


def test_modes_have_unit_norm_on_average_and_weigh_columns_by_inverse_mass(
    crystal: Crystal,
) -> None:
    cells = crystal.fold(crystal.constants)
    tangents = [all_modes(cell.force_constants, 2) for cell in cells]
    for modes in tangents:
        assert (modes**2).sum() / modes.shape[1] == pytest.approx(1, rel=ROUNDING)
    weights = 1 / crystal.masses / np.mean(1 / crystal.masses)
    columns = (crystal.constants.full() ** 2).sum(axis=(0, 2, 3))
    expected = (weights * columns).sum() / (3 * crystal.constants.n_atoms)
    assert mean_square(cells, tangents) == pytest.approx(expected, rel=ROUNDING)


def test_branches_of_one_step_are_distinct(spring_phonon) -> None:
    crystal = Crystal(spring_phonon("one cell"))
    (cell,) = crystal.fold(crystal.constants)
    modes = all_modes(cell.force_constants, 1)
    flat = modes.transpose(1, 0, 2).reshape(modes.shape[1], -1)
    assert np.linalg.matrix_rank(flat) == len(flat)


@pytest.mark.parametrize(
    ("kind", "whole"),
    [(CommensurateProbe, ColumnProbe), (CommensurateRademacherProbe, RademacherProbe)],
)
def test_a_share_of_the_draws_is_made_in_the_supercell(
    rocksalt_force_constants, kind, whole
) -> None:
    mixed, expected = (
        probe.sample(rocksalt_force_constants, np.random.default_rng(3))
        for probe in (kind(2, share=0.5), whole(2))
    )
    np.testing.assert_array_equal(mixed, expected)


@pytest.mark.parametrize(
    "probe", [CommensurateProbe(), CommensurateRademacherProbe(), ModeProbe()]
)
def test_a_supercell_that_was_not_folded_is_refused(
    probe, rocksalt_force_constants
) -> None:
    with pytest.raises(ConfigError, match="PhononDataModule"):
        probe.sample(rocksalt_force_constants, np.random.default_rng(0))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_outside_of_zero_and_one_is_refused(share) -> None:
    with pytest.raises(ConfigError, match=r"probe\.share is"):
        CommensurateProbe(share=share)
