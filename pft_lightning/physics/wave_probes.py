"""Probes in commensurate cells: waves of the q-points that need such a cell.

Every cell holds Γ, and a cell of four primitive cells also the q-points of order two,
so columns of small cells would weigh low orders too much: no choice of cells smaller
than the supercell makes up for it. What is right is to draw q uniformly, to take the
smallest cell that it fits, and to move atoms along waves that no smaller cell has.
Each q-point then enters the expected squared error as it does with whole columns.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import numpy as np
from pydantic import Field

from pft_lightning.errors import ConfigError
from pft_lightning.physics.commensurate import FoldedForceConstants
from pft_lightning.physics.force_constants import ForceConstants
from pft_lightning.physics.probes import ColumnProbe, NTangents, Probe, RademacherProbe


class _CellProbe(Probe):
    """Draws in commensurate cells, or in supercells as the next base class does.

    Args:
        n_probes: Tangents per structure and step.
        share: Share of the draws that take a commensurate cell; the others take the
            whole supercell.

    Raises:
        ConfigError: ``share`` is no share, or a draw that must take a cell is given a
            supercell.
    """

    def __init__(
        self,
        n_probes: NTangents = 1,
        share: Annotated[float, Field(gt=0, le=1)] = 1.0,
    ) -> None:
        super().__init__(n_probes)
        if not 0 < share <= 1:
            raise ConfigError(
                f"probe.share is {share}; above 0, at most 1. probe=column and "
                "probe=rademacher never take a commensurate cell."
            )
        self.commensurate_share = share

    def sample(
        self, force_constants: ForceConstants, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw tangents, (n_atoms, n_probes, 3)."""
        if isinstance(force_constants, FoldedForceConstants):
            return self._sample_cell(force_constants, rng)
        if self.commensurate_share == 1:
            raise _not_folded(self)
        # Of the base class beside this one.
        return super().sample(force_constants, rng)  # type: ignore[safe-super]

    @abstractmethod
    def _sample_cell(
        self, force_constants: FoldedForceConstants, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw tangents in a commensurate cell."""


class CommensurateProbe(_CellProbe, ColumnProbe):
    """Columns of the smallest cell of a random q-point, of its own waves only.

    A Cartesian column of the cell loses its components along the waves that fit a
    smaller cell, and is normalised. With M primitive cells in a ring and the φ(M) q
    whose order is M, the atom moved by s steps has the amplitude
    ``Σ_q cos(2π q s) / sqrt(M φ(M))``: 1 for M = 1, ±1/√2 for M = 2.

    ``E|(H - Φ) v|² = ||H - Φ||_F² / (3N)`` as for whole columns, also q by q.
    """

    def _sample_cell(
        self, force_constants: FoldedForceConstants, rng: np.random.Generator
    ) -> np.ndarray:
        n_primitive = force_constants.n_primitive
        n_columns = 3 * n_primitive
        columns = rng.choice(
            n_columns, self.n_probes, replace=self.n_probes > n_columns
        )
        tangents = np.zeros((n_primitive, force_constants.order, self.n_probes, 3))
        probes = np.arange(self.n_probes)
        tangents[columns // 3, :, probes, columns % 3] = _own_waves(force_constants)
        return tangents.reshape(-1, self.n_probes, 3)


class CommensurateRademacherProbe(_CellProbe, RademacherProbe):
    """Random signs in the smallest cell of a random q-point, its own waves only.

    Signs on every component of the cell lose their components along the waves that fit
    a smaller cell, and are scaled by √(M / φ(M)) for the loss of length, divided by
    sqrt(3N) with the N atoms of the cell. So
    ``E|(H - Φ) v|² = ||H - Φ||_F² / (3N)``, also q by q, N those of the supercell on
    the right: one draw sees every atom of the primitive cell.
    """

    def _sample_cell(
        self, force_constants: FoldedForceConstants, rng: np.random.Generator
    ) -> np.ndarray:
        signs = RademacherProbe.sample(self, force_constants, rng)
        order = force_constants.order
        steps = np.arange(order)
        kernel = _own_waves(force_constants)[(steps[:, None] - steps) % order]
        rings = signs.reshape(force_constants.n_primitive, order, -1)
        return np.einsum("st,pta->psa", kernel, rings).reshape(signs.shape)


def _own_waves(force_constants: FoldedForceConstants) -> np.ndarray:
    """Amplitudes, (order,), of unit norm, of a delta freed of smaller cells' waves."""
    order, waves = force_constants.order, force_constants.wave_steps()
    phases = 2 * np.pi / order * np.outer(waves, np.arange(order))
    return np.cos(phases).sum(axis=0) / np.sqrt(order * len(waves))


class ModeProbe(Probe):
    """Vibrations of the reference crystal: DFT eigenvectors as displacements.

    A q-point and a branch are drawn uniformly, the phase of a travelling wave too. An
    atom of mass m moves by its component of the eigenvector divided by √m, all of it
    scaled so that ``E|v|² = 1`` over the branches of each q.

    Light atoms move more, so the second moment is not isotropic:
    ``E[v vᵀ] = diag(w) / (3N)`` with ``w_i = (1/m_i) / mean(1/m)``, and
    ``E|(H - Φ) v|² = Σ_i w_i |(H - Φ)_i|² / (3N)``: columns of the Hessian enter with
    the weight that they have in squared frequencies.

    Masses are the standard ones of the elements.

    Args:
        n_probes: Tangents per structure and step: branches of the same cell.
    """

    commensurate_share = 1.0

    def sample(
        self, force_constants: ForceConstants, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw tangents, (n_atoms, n_probes, 3)."""
        if not isinstance(force_constants, FoldedForceConstants):
            raise _not_folded(self)
        order, n_primitive = force_constants.order, force_constants.n_primitive
        wave = rng.choice(force_constants.wave_steps())
        phases = 2 * np.pi / order * wave * np.arange(order)
        roots = np.sqrt(force_constants.masses)
        eigenvectors = _eigenvectors(force_constants, phases)
        n_branches = 3 * n_primitive
        branches = rng.choice(
            n_branches, self.n_probes, replace=self.n_probes > n_branches
        )
        displaced = eigenvectors[:, branches].reshape(n_primitive, 3, self.n_probes)
        displaced = displaced / roots[:, None, None]
        # A wave of order one or two stands, and would vanish at some phases.
        travels = order > 2
        start = rng.uniform(0, 2 * np.pi, self.n_probes) * travels
        tangents = np.einsum(
            "pak,s,k->pska", displaced, np.exp(1j * phases), np.exp(1j * start)
        ).real
        scale = np.sqrt((2 if travels else 1) / (order * np.mean(1 / roots**2)))
        return scale * tangents.reshape(-1, self.n_probes, 3)


def _eigenvectors(
    force_constants: FoldedForceConstants, phases: np.ndarray
) -> np.ndarray:
    """Give the columns that diagonalise the dynamical matrix of a wave."""
    n_primitive, order = force_constants.n_primitive, force_constants.order
    blocks = force_constants.compact.reshape(n_primitive, n_primitive, order, 3, 3)
    dynamical = np.einsum("pqsab,s->paqb", blocks, np.exp(1j * phases))
    roots = np.sqrt(force_constants.masses)
    dynamical /= roots[:, None, None, None] * roots[:, None]
    dynamical = dynamical.reshape(3 * n_primitive, 3 * n_primitive)
    if order <= 2:
        dynamical = dynamical.real
    return np.linalg.eigh((dynamical + dynamical.conj().T) / 2)[1]


def _not_folded(probe: Probe) -> ConfigError:
    return ConfigError(
        f"{type(probe).__name__} draws in commensurate cells, but was given a whole "
        "supercell. Train with HessianLoss and PhononDataModule, which make them."
    )
