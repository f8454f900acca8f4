"""Scores of a thermal conductivity against that of DFT, mode by mode.

Definitions of arXiv:2408.00755 (SRD, SRE, SRME), for the mean of the conductivities
along the three axes:

- symmetric relative difference ``SRD = 2 (k - k_DFT) / (k + k_DFT)``, from -2 to 2;
- symmetric relative error ``SRE = |SRD|``;
- symmetric relative mean error ``SRME = 2 sum_m |k_m - k_DFT,m| / (k + k_DFT)`` over
  modes m, with ``sum_m k_m = k``: a mode that conducts too much does not make up for
  another that conducts too little, so ``SRE <= SRME <= 2``.

What cannot be computed counts as no conductivity at all: -2, 2 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from pft_lightning.errors import ShapeError


# Distance from a lattice point, in reciprocal lattice vectors, that counts as Γ.
_GAMMA: Final = 1e-5

# Branches that vanish at Γ.
_N_ACOUSTIC: Final = 3

# Largest difference of q-points that are the same, in reciprocal lattice vectors.
_SAME_POINT: Final = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Conductivity:
    """Conductivity of a crystal at one temperature, with what each mode adds.

    Attributes:
        temperature: K.
        kappa: W/m/K, mean of the three axes.
        modes: (n_points, n_bands), W/m/K, each times the number of q-points that the
            point stands for, so that ``modes.sum() / weights.sum()`` is ``kappa``.
        weights: (n_points,), how many q-points of the mesh a point stands for.
        q_points: (n_points, 3), in reciprocal lattice vectors of the primitive cell.
        frequencies: (n_points, n_bands), THz.
    """

    temperature: float
    kappa: float
    modes: np.ndarray
    weights: np.ndarray
    q_points: np.ndarray
    frequencies: np.ndarray


@dataclass(frozen=True, slots=True)
class Score:
    """How far a conductivity is from that of DFT.

    Attributes:
        srd: symmetric relative difference, -2 to 2; negative where too little.
        sre: symmetric relative error, 0 to 2.
        srme: symmetric relative mean error, mode by mode, 0 to 2.
    """

    srd: float
    sre: float
    srme: float


# Of a material on which a potential failed.
FAILED_SCORE: Final = Score(srd=-2.0, sre=2.0, srme=2.0)


def relative_difference(kappa: float, reference: float) -> float:
    """Symmetric relative difference of two conductivities; -2 where one is unknown.

    >>> relative_difference(3.0, 1.0), relative_difference(float("nan"), 1.0)
    (1.0, -2.0)
    """
    if not np.isfinite(kappa) or kappa + reference <= 0:
        return FAILED_SCORE.srd
    return float(2 * (kappa - reference) / (kappa + reference))


def compute_score(found: Conductivity | None, reference: Conductivity) -> Score:
    """Compare a conductivity with that of DFT on the same q-points.

    Args:
        found: None, or with a number that is not finite, where it could not be
            computed.
        reference: of DFT.

    Raises:
        ShapeError: the two have other q-points, weights or numbers of modes.
    """
    if found is None or not (
        np.isfinite(found.kappa) and np.isfinite(found.modes).all()
    ):
        return FAILED_SCORE
    _check_points(found, reference)
    srd = relative_difference(found.kappa, reference.kappa)
    error = np.abs(found.modes - reference.modes).sum() / found.weights.sum()
    total = found.kappa + reference.kappa
    if total <= 0:
        return FAILED_SCORE
    return Score(srd=srd, sre=abs(srd), srme=float(2 * error / total))


def _check_points(found: Conductivity, reference: Conductivity) -> None:
    """Refuse to compare modes that are not the same ones."""
    if found.modes.shape != reference.modes.shape:
        raise ShapeError(
            f"the modes of the model have the shape {found.modes.shape} (q-points, "
            f"bands), those of the reference {reference.modes.shape}: the mesh, the "
            "primitive cell or the symmetry is another one. Give the crystal the mesh "
            "and the cell of the reference."
        )
    apart = found.q_points - reference.q_points
    apart = np.abs(apart - np.rint(apart)).max()
    if apart > _SAME_POINT or not np.array_equal(found.weights, reference.weights):
        raise ShapeError(
            f"the q-points of the model are up to {apart:.3g} from those of the "
            "reference, or have other weights: the primitive cell is another one. Give "
            "the crystal the cell of the reference."
        )


def share_coherence(matrix: np.ndarray, heat_capacities: np.ndarray) -> np.ndarray:
    """Share the conductivity of pairs of bands among their modes.

    The particle part of a mode is the diagonal of the matrix. What two bands s and s'
    conduct by coherence is shared in the ratio of their heat capacities,
    ``2 C_s / (C_s + C_s')``, and summed over s: the way of the published reference.
    The sum over all bands is the whole matrix's.

    Args:
        matrix: (n_points, n_bands, n_bands, 6), W/m/K, xx, yy, zz, yz, xz, xy.
        heat_capacities: (n_points, n_bands), in any unit.

    Returns:
        (n_points, n_bands), W/m/K, mean of the three axes.
    """
    axes = matrix[..., :3].mean(axis=-1)
    particle = np.einsum("qss->qs", axes)
    coherence = axes.copy()
    np.einsum("qss->qs", coherence)[...] = 0
    capacities = heat_capacities[:, :, None] + heat_capacities[:, None, :]
    share = np.divide(
        2 * heat_capacities[:, :, None],
        capacities,
        out=np.zeros_like(capacities),
        where=capacities > 0,
    )
    # The published reference sums over the first of the two bands.
    return np.asarray(particle + (coherence * share).sum(axis=1))


def find_imaginary(
    frequencies: np.ndarray, q_points: np.ndarray, acoustic_limit: float
) -> str | None:
    """Say which frequency is imaginary; None where none is.

    Any that is below zero counts, but for the three acoustic branches at Γ, which are
    zero up to rounding.

    Args:
        frequencies: (n_points, n_bands), THz, imaginary ones negative, in rising order.
        q_points: (n_points, 3), in reciprocal lattice vectors.
        acoustic_limit: how far below zero these three may be, THz.
    """
    is_gamma = (np.abs(q_points - np.rint(q_points)) < _GAMMA).all(axis=1)
    limits = np.zeros_like(frequencies)
    limits[is_gamma, :_N_ACOUSTIC] = -acoustic_limit
    # NaN is not below anything.
    below = ~(frequencies >= limits)
    if not below.any():
        return None
    point, band = np.unravel_index(
        np.argmin(np.where(below, frequencies, np.inf)), frequencies.shape
    )
    lowest = frequencies[point, band]
    where = ", ".join(f"{x:.3g}" for x in q_points[point])
    return (
        f"{np.count_nonzero(below)} imaginary frequencies, the lowest {lowest:.3g} THz "
        f"at q = ({where})"
    )
