"""Pairs of directions for third derivatives, and how they are drawn.

The target is Ψ u w with the reference's third-order force constants Ψ. A draw is a
pure function of ``(seed, step, structure name)``, as those of ``probes``, of which it
is independent.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from pft_lightning.errors import ConfigError
from pft_lightning.physics.third_order_constants import ThirdOrderConstants


PairKind = Literal["atoms", "signs"]

# Keeps these draws independent of those of tangents.
_STREAM: Final = 3

# Share of the pairs of atoms that are drawn uniformly; the others by size. No pair is
# then weighted more than its inverse, however small its force constants are.
_UNIFORM: Final = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class PairDraw:
    """Pairs of directions of one structure.

    Attributes:
        pairs: (n_atoms, n_pairs, 2, 3), u and w.
        weights: (n_pairs,), factors of the loss of each pair, of mean one.
    """

    pairs: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, slots=True)
class PairProbe:
    """How pairs of directions are drawn for one structure.

    ``atoms``: two atoms, each along an isotropic unit vector. The first is uniform, the
    second drawn with half its probability uniform and half in proportion to the norm of
    their block ``Σ_k |Ψ_ijk|²`` under the root; ``weights`` undo this, so that the
    expectation of any loss is that of uniform pairs. ``signs``: independent random
    signs on all components of both, divided by sqrt(3N).

    Attributes:
        kind: ``atoms`` or ``signs``.
        n_pairs: of a structure and step.
        seed: of the draws.
    """

    kind: PairKind = "atoms"
    n_pairs: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: one makes no sense.
        """
        if self.kind not in get_args(PairKind):
            raise ConfigError(
                f"loss.third_order_pairs is {self.kind!r}; expected one of "
                f"{', '.join(get_args(PairKind))}."
            )
        if self.n_pairs < 1:
            raise ConfigError(
                f"loss.n_third_order_pairs is {self.n_pairs}; it must be at least 1."
            )

    def draw(self, constants: ThirdOrderConstants, name: str, step: int) -> PairDraw:
        """Draw the pairs of a structure at a step."""
        entropy = [self.seed, step, zlib.crc32(name.encode()), _STREAM]
        rng = np.random.default_rng(entropy)
        if self.kind == "signs":
            shape = (constants.n_atoms, self.n_pairs, 2, 3)
            signs = rng.integers(0, 2, size=shape) * 2.0 - 1.0
            scaled = signs / np.sqrt(3 * constants.n_atoms)
            return PairDraw(scaled, np.ones(self.n_pairs))
        return self._draw_atoms(constants, rng)

    def _draw_atoms(
        self, constants: ThirdOrderConstants, rng: np.random.Generator
    ) -> PairDraw:
        n_atoms, n_pairs = constants.n_atoms, self.n_pairs
        # Translations make all images of an atom of the primitive cell alike.
        rows = rng.integers(constants.n_primitive, size=n_pairs)
        first = constants.representatives()[rows]
        probabilities = pair_probabilities(constants)[rows]
        second = [rng.choice(n_atoms, p=p) for p in probabilities]
        directions = rng.standard_normal((n_pairs, 2, 3))
        directions /= np.linalg.norm(directions, axis=2, keepdims=True)
        pairs = np.zeros((n_atoms, n_pairs, 2, 3))
        each = np.arange(n_pairs)
        pairs[first, each, 0] = directions[:, 0]
        pairs[second, each, 1] = directions[:, 1]
        return PairDraw(pairs, 1 / (n_atoms * probabilities[each, second]))


def pair_probabilities(constants: ThirdOrderConstants) -> np.ndarray:
    """How likely each second atom is drawn after each first one.

    Returns:
        (n_primitive, n_atoms), rows of sum one.
    """
    sizes = np.sqrt(np.square(constants.compact).sum(axis=(2, 3, 4, 5)))
    totals = sizes.sum(axis=1, keepdims=True)
    uniform = np.full_like(sizes, 1 / constants.n_atoms)
    share = np.divide(sizes, totals, out=uniform.copy(), where=totals > 0)
    return _UNIFORM * uniform + (1 - _UNIFORM) * share
