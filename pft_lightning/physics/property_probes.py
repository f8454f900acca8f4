"""Directions whose Hessian-vector products give the gradient of a property's loss.

A loss L on properties of dynamical matrices D has the gradient ``Σ_q tr(G_q dD_q)``
with ``G_q = dL/dD_q``. With ``G = R S†``, ``R = |G|^(1/2)`` and ``S = R sign(G)``, and
random signs z on all atoms this is the expectation of ``u · dH v`` for
``v = M^(-1/2) R z`` and ``u = M^(-1/2) S z``: M. F. Hutchinson, Commun. Stat. Simul.
Comput. 18, 1059 (1989). Of all ways to share G between u and v this has the smallest
variance where G is of one sign.

A draw is a function of ``(seed, step, structure name)`` alone, as those of ``probes``,
of which it is independent.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from pft_lightning.errors import ConfigError
from pft_lightning.physics.dynamical_matrix import Waves
from pft_lightning.physics.force_constants import ForceConstants


# Keeps these draws independent of those of tangents and pairs.
_STREAM: Final = 11


@dataclass(frozen=True, slots=True)
class PropertyProbe:
    """How gradients of properties are sampled.

    Attributes:
        n_probes: directions of a structure and step.
        share: of the structures of a step, drawn at random, whose properties are
            computed.
        seed: of the draws.
    """

    n_probes: int = 1
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: one makes no sense.
        """
        if self.n_probes < 1:
            raise ConfigError(
                f"loss.n_property_probes is {self.n_probes}; it must be at least 1."
            )
        if not 0 < self.share <= 1:
            raise ConfigError(
                f"loss.property_share is {self.share}; above 0, at most 1."
            )

    def draw(self, n_atoms: int, name: str, step: int) -> np.ndarray | None:
        """Draw signs, (n_atoms, n_probes, 3); None where it is not its turn."""
        entropy = [self.seed, step, zlib.crc32(name.encode()), _STREAM]
        rng = np.random.default_rng(entropy)
        if rng.random() >= self.share:
            return None
        return rng.integers(0, 2, size=(n_atoms, self.n_probes, 3)) * 2.0 - 1.0


def weigh(
    waves: Waves,
    gradient: torch.Tensor,
    force_constants: ForceConstants,
    signs: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Make directions of signs.

    Args:
        waves: of the cell.
        gradient: (n_q, 3 n_primitive, 3 n_primitive), Hermitian, of a loss by the
            ``waves.matrices``, per eV/Å²/AMU.
        force_constants: of the cell; their values do not matter.
        signs: (n_atoms, n_probes, 3).

    Returns:
        v to multiply the Hessian with, and u to multiply the product with; the mean of
        ``Σ u · H v`` over all signs is ``Σ_q tr(G_q D_q)``. Both of the shape of
        ``signs``, Å AMU^(1/2)/eV^(1/2) times the root of the loss.
    """
    # A wave that stands for its opposite too has the gradient of both.
    each = gradient / waves.multiplicities[:, None, None]
    values, vectors = torch.linalg.eigh(each)
    light = waves.masses.rsqrt().repeat_interleave(3)[:, None]

    def spread(amplitudes: torch.Tensor) -> np.ndarray:
        blocks = light * ((vectors * amplitudes[:, None]) @ vectors.mH)
        kernel = waves.kernel(blocks).numpy()
        return replace(force_constants, compact=kernel).multiply(signs)

    roots = values.abs().sqrt()
    return spread(roots), spread(values.sign() * roots)
