"""What was measured of the modes of a crystal, as losses and evaluations compare it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pft_lightning.physics.interpolation import InterpolationMesh


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredFrequencies:
    """Frequencies at one q-point, some or all of its modes.

    Attributes:
        values: (n,), THz.
        degeneracies: (n,), int64, modes that have each.
        branches: (n,), int64, the first of these modes, counted from the lowest, the
            translations at Γ included; None where this is not known.
        weights: (n,), what errors count by.
        labels: n names of modes, which may be empty.
        uncertainties: (n,), THz, NaN where unknown; None where none is.
        added: (3 n_primitive, 3 n_primitive), eV/Å²/AMU, what long-range dipoles add to
            the dynamical matrix of a potential, which has none; None where nothing.
        blocks: bases (3 n_primitive, n_modes) of representations; the modes of a
            potential are then those of each, one after the other. None for all modes.
        block_of: (n,), int64, the block of each value.
    """

    values: np.ndarray
    degeneracies: np.ndarray
    branches: np.ndarray | None
    weights: np.ndarray
    labels: tuple[str, ...] = ()
    uncertainties: np.ndarray | None = None
    added: np.ndarray | None = None
    blocks: tuple[np.ndarray, ...] | None = None
    block_of: np.ndarray | None = None

    def assign(self, frequencies: np.ndarray, n_translations: int = 0) -> np.ndarray:
        """Say which modes of a potential are the measured ones.

        By number where branches are known. Else in order, where representations are
        known among the modes of each: the modes are those, as many
        as were measured and in ascending order, for which the absolute differences sum
        to the least; where all modes were measured, the n-th is the n-th.

        Args:
            frequencies: (n_bands,), THz, those of translations first, the others
                ascending.
            n_translations: how many of them are translations, which are no modes.

        Returns:
            (n_modes,), int64: numbers of modes for ``expanded``, which has each value
            as often as it is degenerate.
        """
        if self.branches is not None:
            firsts = np.repeat(self.branches, self.degeneracies)
            starts = np.cumsum(self.degeneracies) - self.degeneracies
            return (
                firsts + np.arange(len(firsts)) - np.repeat(starts, self.degeneracies)
            )
        values = self.values[self.expanded()]
        modes = np.empty(len(values), dtype=np.int64)
        if self.blocks is None or self.block_of is None:
            found = _nearest_in_order(values, frequencies[n_translations:])
            modes[:] = found + n_translations
            return modes
        ends = np.cumsum([block.shape[1] for block in self.blocks])
        for number, last in enumerate(ends):
            of_block = np.flatnonzero(self.block_of[self.expanded()] == number)
            first = last - self.blocks[number].shape[1]
            found = _nearest_in_order(values[of_block], frequencies[first:last])
            modes[of_block] = found + first
        return modes

    def expanded(self) -> np.ndarray:
        """(n_modes,), int64, the value that each mode has."""
        return np.repeat(np.arange(len(self.values)), self.degeneracies)


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredCurve:
    """Heat capacity, entropy or free energy over temperature.

    Attributes:
        temperatures: (n,), K.
        values: (n,), J/K or kJ per mole of primitive cells.
        weights: (n,), what errors count by.
        mesh: q-points of the sum over modes.
    """

    temperatures: np.ndarray
    values: np.ndarray
    weights: np.ndarray
    mesh: InterpolationMesh


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredDensity:
    """A density of states.

    Attributes:
        points: (n,), THz, ascending.
        values: (n,), of any scale: their integral counts as all modes.
        mesh: q-points of the density of a potential.
    """

    points: np.ndarray
    values: np.ndarray
    mesh: InterpolationMesh

    def shares(self) -> np.ndarray:
        """(n,), share of the modes at each point, sum 1: the trapezoidal rule."""
        return density_shares(self.points, self.values)


def density_shares(points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of the modes at each point of a density of states: the trapezoidal rule.

    Args:
        points: (n,), THz, ascending.
        values: (n,), of any scale.

    Returns:
        (n,), sum 1.
    """
    found = values * np.gradient(points)
    ends = np.array([0, -1])
    found[ends] /= 2
    shares: np.ndarray = found / found.sum()
    return shares


Measurement = MeasuredFrequencies | MeasuredCurve | MeasuredDensity


def _nearest_in_order(values: np.ndarray, modes: np.ndarray) -> np.ndarray:
    """Numbers of modes, ascending, nearest to values in the order of these."""
    order = np.argsort(values, kind="stable")
    found = np.empty(len(order), dtype=np.int64)
    found[order] = _match_in_order(values[order], modes)
    return found


def _match_in_order(values: np.ndarray, modes: np.ndarray) -> np.ndarray:
    """Numbers of modes, ascending, nearest to ascending values.

    By dynamic programming: ``best[i, j]`` is the least sum of the first i values among
    the first j modes.
    """
    n_values, n_modes = len(values), len(modes)
    costs = np.abs(values[:, None] - modes)
    best = np.full((n_values + 1, n_modes + 1), np.inf)
    best[0] = 0.0
    for i in range(1, n_values + 1):
        for j in range(i, n_modes + 1):
            taken = best[i - 1, j - 1] + costs[i - 1, j - 1]
            best[i, j] = min(best[i, j - 1], taken)
    found = np.empty(n_values, dtype=np.int64)
    j = n_modes
    for i in range(n_values, 0, -1):
        while j > i and best[i, j - 1] <= best[i, j]:
            j -= 1
        j -= 1
        found[i - 1] = j
    return found
