"""Spherical harmonics, with all their derivatives."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch

from pft_lightning.physics.forms import Known
from pft_lightning.physics.smooth import RowFunction


# Of a degree, at points (n, 3), as polynomials of these: e3nn's, whose signs hold.
Solid = Callable[..., torch.Tensor]


class Harmonics(RowFunction):
    """Spherical harmonics of the directions of vectors, normalised as "component".

    On the unit sphere their derivatives of any order are polynomials, and elsewhere
    these over a power of the length.

    Args:
        lmax: highest degree; the values are those of all degrees from 0.
        solid: ``e3nn.o3.spherical_harmonics``.
    """

    def __init__(self, lmax: int, solid: Solid) -> None:
        self.lmax, self.solid = lmax, solid

    def derivative(self, order: int, x: torch.Tensor, known: Known) -> torch.Tensor:
        """See ``RowFunction.derivative``."""
        where = x.dtype, x.device
        if "inverse" not in known:
            square = x[..., None, :] @ x[..., :, None]
            known["inverse"] = square[..., 0].rsqrt()
            known["unit"] = x * known["inverse"]
        # Energies and forces need two orders.
        degree = self.lmax + max(order, 1)
        if ("powers", degree) not in known:
            exponents = _exponents(degree, *where)
            powers = known["unit"][..., None] ** exponents
            known["powers", degree] = powers.flatten(-2)
        places, table = _table(self.solid, self.lmax, order, degree, *where)
        chosen = known["powers", degree].index_select(-1, places)
        first, second, third = chosen.unflatten(-1, (3, -1)).unbind(-2)
        monomials = first * second * third
        for _ in range(order):
            monomials = monomials * known["inverse"]
        return monomials @ table


@functools.lru_cache(maxsize=64)
def _exponents(degree: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.arange(degree + 1, dtype=dtype, device=device)


@functools.lru_cache(maxsize=64)
def _table(
    solid: Solid,
    lmax: int,
    order: int,
    degree: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Monomials and their coefficients in derivatives on the unit sphere.

    Returns:
        (3 * n_monomials,), int64, places of the powers of x, y and z of each among
        ``degree + 1`` powers of these; (n_monomials, 3 ** order * (lmax + 1) ** 2).
    """
    # Of unit vectors, so that what they are divided by is one.
    total = np.sum(list(_polynomials(solid, lmax, order).values()), axis=0)
    flat = total.reshape(-1, *total.shape[-3:])
    present = np.nonzero(np.abs(flat).max(axis=0) > 1e-12)
    places = [(degree + 1) * axis + powers for axis, powers in enumerate(present)]
    columns = (slice(None), *present)
    # Copied: numpy's memory begins anywhere, and products have other last bits then.
    table = torch.tensor(flat[columns].T, dtype=dtype, device=device)
    return torch.from_numpy(np.concatenate(places)).to(device), table


@functools.cache
def _polynomials(solid: Solid, lmax: int, order: int) -> dict[float, np.ndarray]:
    """Derivatives of the harmonics of ``v / |v|``, as polynomials of ``v``.

    Returns:
        (3,) * order + (n_harmonics, n, n, n) by an exponent: coefficients of the powers
        of the three components, of what is to be divided by ``|v| ** (2 exponent)``.
    """
    if order == 0:
        return {
            degree / 2: _coefficients(solid, lmax, degree) for degree in range(lmax + 1)
        }
    found: dict[float, np.ndarray] = {}
    for exponent, before in _polynomials(solid, lmax, order - 1).items():
        wider = np.pad(before, [(0, 0)] * (before.ndim - 3) + [(0, 1)] * 3)
        for axis in range(3):
            moved = np.moveaxis(wider, axis - 3, -1)
            n = moved.shape[-1]
            lowered, raised = np.zeros_like(moved), np.zeros_like(moved)
            lowered[..., :-1] = moved[..., 1:] * np.arange(1, n)
            raised[..., 1:] = moved[..., :-1] * (-2.0 * exponent)
            for new, part in ((exponent, lowered), (exponent + 1, raised)):
                gradient = found.setdefault(new, np.zeros((3, *wider.shape)))
                gradient[axis] += np.moveaxis(part, -1, axis - 3)
    return found


def _coefficients(solid: Solid, lmax: int, degree: int) -> np.ndarray:
    """Coefficients (n_harmonics, n, n, n) of those of one degree, others zero."""
    powers = [
        (i, j, degree - i - j) for i in range(degree + 1) for j in range(degree + 1 - i)
    ]
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(128, 3)))
    values = solid(degree, points, normalize=False, normalization="component")
    monomials = (points[:, None] ** torch.tensor(powers)).prod(dim=-1)
    solution = torch.linalg.lstsq(monomials, values).solution.numpy()
    found = np.zeros(((lmax + 1) ** 2, lmax + 1, lmax + 1, lmax + 1))
    rows = np.arange(degree**2, (degree + 1) ** 2)
    for power, coefficients in zip(powers, solution, strict=True):
        place = (rows, *power)
        found[place] = [_exact(x) for x in coefficients]
    return found


def _exact(coefficient: float) -> float:
    """The root of a fraction that a fitted coefficient is.

    A fit has other last bits where its arrays lie elsewhere in memory, and with it
    every training that begins anew.
    """
    square = Fraction(coefficient**2).limit_denominator(10**6)
    return math.copysign(math.sqrt(square), coefficient) if square else 0.0
