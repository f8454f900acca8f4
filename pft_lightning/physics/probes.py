"""Probes: how the directions (tangents) of Hessian-vector products are drawn.

Whatever the tangent v is, the target of the loss is Φ v with the reference force
constants Φ, so no choice of probe biases the comparison; they differ in variance
and in what a mean absolute error weighs. Every training probe has unit expected
squared norm, ``E|v|² = 1``, and an isotropic second moment, ``E[v vᵀ] = 1/(3N)``.
Hence all of them share ``E|(H - Φ) v|² = ||H - Φ||_F² / (3N)`` and a loss weight
tuned for one is a fair start for another.

Draws are a pure function of ``(seed, step, structure name)``: they do not depend
on the rank, the worker or the batch in which a structure appears, and need no
state to resume.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from pft_lightning.errors import ConfigError
from pft_lightning.option_types import NAtoms, Unit
from pft_lightning.physics.force_constants import ForceConstants


def probe_generator(seed: int, step: int, name: str) -> np.random.Generator:
    """Return the random generator of one structure at one training step."""
    return np.random.default_rng([seed, step, zlib.crc32(name.encode())])


def _isotropic_directions(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw (n, 3) unit vectors, uniform on the sphere."""
    directions = rng.standard_normal((n, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


NTangents = Annotated[int, Field(ge=1, le=10_000), Unit("tangents")]


class Probe(ABC):
    """A way to draw tangents for one structure.

    Args:
        n_probes: Tangents per structure and step.

    Attributes:
        commensurate_share: Of the draws that are made in a commensurate cell instead
            of the supercell (``FoldedForceConstants``).
    """

    commensurate_share: float = 0.0

    def __init__(self, n_probes: NTangents = 1) -> None:
        if n_probes < 1:
            raise ConfigError(f"probe.n_probes is {n_probes}; it must be at least 1.")
        self.n_probes = n_probes

    def __repr__(self) -> str:
        """Say all that the draws depend on besides the seed."""
        options = [f"{k}={v}" for k, v in vars(self).items() if k != "n_probes"]
        text = f"{self.n_probes} x {type(self).__name__}"
        return f"{text}({', '.join(options)})" if options else text

    @abstractmethod
    def sample(
        self, force_constants: ForceConstants, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw tangents, (n_atoms, n_probes, 3), dimensionless."""


@dataclass(frozen=True, slots=True)
class Draws:
    """The tangents of a training; pickled into the processes of a loader.

    Attributes:
        probe: how they are drawn.
        seed: of the draws.
    """

    probe: Probe
    seed: int

    def tangents(
        self, force_constants: ForceConstants, name: str, step: int
    ) -> np.ndarray:
        """Draw those of a structure at a step, (n_atoms, n_probes, 3)."""
        return self.probe.sample(
            force_constants, probe_generator(self.seed, step, name)
        )

    def label(self, step: int) -> str:
        """What the draw of one structure at a step depends on besides the structure."""
        return f"step {step} of seed {self.seed}: {self.probe!r}"


class ColumnProbe(Probe):
    """Uniformly random Cartesian columns of the Hessian (arXiv:2601.07742).

    Several columns of one step are distinct, as long as there are enough.
    """

    def sample(
        self, force_constants: ForceConstants, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw tangents, (n_atoms, n_probes, 3): one 1 in each, 0 elsewhere."""
        n_columns = 3 * force_constants.n_atoms
        columns = rng.choice(
            n_columns, self.n_probes, replace=self.n_probes > n_columns
        )
        tangents = np.zeros((force_constants.n_atoms, self.n_probes, 3))
        tangents[columns // 3, np.arange(self.n_probes), columns % 3] = 1.0
        return tangents


class IrreducibleProbe(Probe):
    """Displacements of symmetry-inequivalent atoms along isotropic directions.

    An atom is drawn with its multiplicity, so a squared loss has the same
    expectation as with ``ColumnProbe``. An L1 norm is not rotation invariant:
    its expectation agrees only when directions are isotropic, as they are here,
    and then it is that of randomly oriented columns.
    """

    def sample(
        self, force_constants: ForceConstants, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw tangents, (n_atoms, n_probes, 3): one unit vector in each."""
        atoms, multiplicities = force_constants.inequivalent_atoms()
        chosen = rng.choice(
            atoms, self.n_probes, p=multiplicities / multiplicities.sum()
        )
        tangents = np.zeros((force_constants.n_atoms, self.n_probes, 3))
        tangents[chosen, np.arange(self.n_probes)] = _isotropic_directions(
            rng, self.n_probes
        )
        return tangents


class SparseProbe(Probe):
    """Several far-apart atoms displaced at once, each in a direction of its own.

    An atom is drawn uniformly; the others are its images under lattice translations,
    so that every atom is as likely as any other. Translations are chosen one by one,
    each so that the columns of its atom overlap least with those chosen before: H v is
    then close to the columns side by side, of which an absolute error sees every one.
    Directions are isotropic and independent, of length ``1/sqrt(n_displaced)``.

    Args:
        n_probes: Tangents per structure and step.
        n_displaced: Atoms of one tangent; in a supercell of fewer primitive cells, one
            atom of each.
    """

    def __init__(self, n_probes: NTangents = 1, n_displaced: NAtoms = 4) -> None:
        super().__init__(n_probes)
        if n_displaced < 1:
            raise ConfigError(
                f"probe.n_displaced is {n_displaced}; it must be at least 1."
            )
        self.n_displaced = n_displaced

    def sample(
        self, force_constants: ForceConstants, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw tangents, (n_atoms, n_probes, 3), of unit norm."""
        chosen = _far_apart(force_constants, self.n_displaced)
        images = force_constants.permutations[chosen]
        first = rng.integers(force_constants.n_atoms, size=self.n_probes)
        moved = images[:, first]
        directions = _isotropic_directions(rng, moved.size).reshape(*moved.shape, 3)
        tangents = np.zeros((force_constants.n_atoms, self.n_probes, 3))
        tangents[moved, np.arange(self.n_probes)] = directions / np.sqrt(len(moved))
        return tangents


def _far_apart(force_constants: ForceConstants, n: int) -> list[int]:
    """Choose up to n translations that send an atom to where columns overlap least.

    The overlap of two atoms is ``Σ_i |Φ_ij| |Φ_ik|``, summed over the primitive cell.
    """
    norms = np.linalg.norm(force_constants.compact, axis=(2, 3))
    permutations = force_constants.permutations
    overlaps = np.einsum("pi,pti->t", norms, norms[:, permutations])
    # Translation from the image of atom 0 under one to that under another.
    images = permutations[:, 0]
    backwards = force_constants.translation_index[images]
    chosen = [0]
    nearest = np.zeros(len(permutations))
    while len(chosen) < min(n, len(permutations)):
        moved = permutations[backwards[chosen[-1]], images]
        between = overlaps[force_constants.translation_index[moved]]
        nearest = np.maximum(nearest, between)
        nearest[chosen] = np.inf
        chosen.append(int(np.argmin(nearest)))
    return chosen


class RademacherProbe(Probe):
    """Random signs on every component, divided by sqrt(3N): a whole-matrix sketch."""

    def sample(
        self, force_constants: ForceConstants, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw tangents, (n_atoms, n_probes, 3), components ±1/sqrt(3N)."""
        shape = (force_constants.n_atoms, self.n_probes, 3)
        signs = rng.integers(0, 2, size=shape) * 2.0 - 1.0
        return signs / np.sqrt(3 * force_constants.n_atoms)


class GaussianProbe(Probe):
    """Normal components of variance 1/(3N): a whole-matrix sketch."""

    def sample(
        self, force_constants: ForceConstants, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw tangents, (n_atoms, n_probes, 3)."""
        shape = (force_constants.n_atoms, self.n_probes, 3)
        return rng.standard_normal(shape) / np.sqrt(3 * force_constants.n_atoms)


def validation_tangents(
    force_constants: ForceConstants, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Fixed tangents that cover every inequivalent atom of a structure.

    Args:
        force_constants: Of the structure.
        seed: Of the validation set; the same seed gives the same tangents.
        name: Of the structure.

    Returns:
        Tangents (n_atoms, n_inequivalent, 3), one isotropic unit displacement of
        each inequivalent atom, and weights (n_inequivalent,) that sum to one, the
        share of atoms that each stands for.
    """
    atoms, multiplicities = force_constants.inequivalent_atoms()
    rng = probe_generator(seed, 0, name)
    tangents = np.zeros((force_constants.n_atoms, len(atoms), 3))
    tangents[atoms, np.arange(len(atoms))] = _isotropic_directions(rng, len(atoms))
    return tangents, multiplicities / multiplicities.sum()
