"""Spherical harmonics and radial functions, with all their derivatives."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from pft_lightning.backends.nequix.forms import ARGUMENT, Form, Known, Sum
from pft_lightning.backends.nequix.paths import o3


class RowFunction(Form):
    """A function of rows to rows: (n, n_in) to (n, n_out)."""

    separate = True  # directions do not depend on the weights, cotangents do

    @abstractmethod
    def derivative(self, order: int, x: torch.Tensor, known: Known) -> torch.Tensor:
        """Derivative tensors (n, n_in ** order * n_out), the last axis last."""

    def evaluate(
        self,
        known: Known,
        spaces: Sequence[int],
        sums: Sequence[Sum],
        x: torch.Tensor,
        tensors: Sequence[torch.Tensor],
    ) -> list[torch.Tensor]:
        """See ``Form.evaluate``."""
        contracted: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}

        def along(order: int, directions: tuple[int, ...]) -> torch.Tensor:
            if (order, directions) not in contracted:
                if directions:
                    before = along(order, directions[:-1])
                    before = before.unflatten(-1, (x.shape[-1], -1))
                    value = _contract("nir,ni->nr", before, tensors[directions[-1]])
                else:
                    if (order,) not in known:
                        known[order,] = self.derivative(order, x, known)
                    value = known[order,]
                contracted[order, directions] = value
            return contracted[order, directions]

        found = []
        for each in sums:
            total: torch.Tensor | None = None
            for order, places in each.terms:
                directions = [i for i in places if spaces[i] == ARGUMENT]
                value = along(order, tuple(sorted(directions)))
                for i in set(places).difference(directions):  # one cotangent or none
                    value = value.unflatten(-1, (x.shape[-1], -1))
                    value = _contract("nir,nr->ni", value, tensors[i])
                total = value if total is None else total + value
            assert total is not None
            found.append(total.detach())  # its own object: autograd marks it
        return found


def _contract(what: str, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``torch.einsum`` of two tensors, either of which may have an axis in front."""
    inputs, output = what.split("->")
    first, second = inputs.split(",")
    mapped = one.ndim > len(first), other.ndim > len(second)
    first, second = (
        "b" * is_mapped + axes
        for is_mapped, axes in zip(mapped, (first, second), strict=True)
    )
    output = "b" * any(mapped) + output
    return torch.einsum(f"{first},{second}->{output}", one, other)


class Harmonics(RowFunction):
    """Spherical harmonics of the directions of vectors, as e3nn's with "component".

    On the unit sphere their derivatives of any order are polynomials, and elsewhere
    these over a power of the length.

    Args:
        lmax: highest degree; the values are those of all degrees from 0.
    """

    def __init__(self, lmax: int) -> None:
        self.lmax = lmax

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
        places, table = _harmonics_table(self.lmax, order, degree, *where)
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
def _harmonics_table(
    lmax: int, order: int, degree: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Monomials and their coefficients in derivatives on the unit sphere.

    Returns:
        (3 * n_monomials,), int64, places of the powers of x, y and z of each among
        ``degree + 1`` powers of these; (n_monomials, 3 ** order * (lmax + 1) ** 2).
    """
    # Of unit vectors, so that what they are divided by is one.
    total = np.sum(list(_harmonics_polynomials(lmax, order).values()), axis=0)
    flat = total.reshape(-1, *total.shape[-3:])
    present = np.nonzero(np.abs(flat).max(axis=0) > 1e-12)
    places = [(degree + 1) * axis + powers for axis, powers in enumerate(present)]
    columns = (slice(None), *present)
    table = torch.from_numpy(flat[columns].T.copy())
    return torch.from_numpy(np.concatenate(places)).to(device), table.to(device, dtype)


@functools.cache
def _harmonics_polynomials(lmax: int, order: int) -> dict[float, np.ndarray]:
    """Derivatives of the harmonics of ``v / |v|``, as polynomials of ``v``.

    Returns:
        (3,) * order + (n_harmonics, n, n, n) by an exponent: coefficients of the powers
        of the three components, of what is to be divided by ``|v| ** (2 exponent)``.
    """
    if order == 0:
        return {
            degree / 2: _solid_harmonics(lmax, degree) for degree in range(lmax + 1)
        }
    found: dict[float, np.ndarray] = {}
    for exponent, before in _harmonics_polynomials(lmax, order - 1).items():
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


def _solid_harmonics(lmax: int, degree: int) -> np.ndarray:
    """Coefficients (n_harmonics, n, n, n) of those of one degree, others zero."""
    powers = [
        (i, j, degree - i - j) for i in range(degree + 1) for j in range(degree + 1 - i)
    ]
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(128, 3)))
    values = o3.spherical_harmonics(
        degree, points, normalize=False, normalization="component"
    )
    monomials = (points[:, None] ** torch.tensor(powers)).prod(dim=-1)
    solution = torch.linalg.lstsq(monomials, values).solution.numpy()
    found = np.zeros(((lmax + 1) ** 2, lmax + 1, lmax + 1, lmax + 1))
    rows = np.arange(degree**2, (degree + 1) ** 2)
    for power, coefficients in zip(powers, solution, strict=True):
        place = (rows, *power)
        found[place] = coefficients
    return found


class RadialBasis(RowFunction):
    """Bessel functions of lengths (n, 1) times an envelope; 0 from the cutoff on.

    Args:
        cutoff: Å.
        size: number of functions.
        exponent: of the envelope.
    """

    def __init__(self, cutoff: float, size: int, exponent: float) -> None:
        self.cutoff, self.size, self.exponent = cutoff, size, exponent

    def derivative(self, order: int, x: torch.Tensor, known: Known) -> torch.Tensor:
        """See ``RowFunction.derivative``; by the rule for products."""
        total = self._wave(0, x, known) * self._envelope(order, x, known)
        for i in range(1, order + 1):
            wave, envelope = (
                self._wave(i, x, known),
                self._envelope(order - i, x, known),
            )
            total = torch.addcmul(total, wave, envelope, value=math.comb(order, i))
        return total

    def _wave(self, order: int, x: torch.Tensor, known: Known) -> torch.Tensor:
        """Derivative of the sines."""
        if ("wave", order) not in known:
            wavenumbers, squares = _wavenumbers(
                self.cutoff, self.size, x.dtype, x.device
            )
            if order == 0:
                value = torch.sin(x * wavenumbers)
            elif order == 1:
                value = torch.cos(x * wavenumbers) * wavenumbers
            else:
                value = self._wave(order - 2, x, known) * squares
            known["wave", order] = value
        return known["wave", order]

    def _envelope(self, order: int, x: torch.Tensor, known: Known) -> torch.Tensor:
        """Derivative of the envelope over the length, times 2 / cutoff: (n, 1)."""
        if ("envelope", order) not in known:
            powers, factors = _envelope_table(
                self.cutoff, self.exponent, order, x.dtype, x.device
            )
            value = (x / self.cutoff) ** powers @ factors
            known["envelope", order] = torch.where(x < self.cutoff, value, 0.0)
        return known["envelope", order]


@functools.lru_cache(maxsize=64)
def _wavenumbers(
    cutoff: float, size: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Wavenumbers of the sines, and their squares with the sign of two derivatives."""
    numbers = torch.arange(1, size + 1, dtype=torch.float64) * math.pi / cutoff
    return numbers.to(device, dtype), -numbers.square().to(device, dtype)


@functools.lru_cache(maxsize=64)
def _envelope_table(
    cutoff: float, p: float, order: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Powers (4,) of length over cutoff, and what each is multiplied with, (4, 1)."""
    powers = np.array([0.0, p, p + 1, p + 2]) - 1.0
    factors = np.array([1.0, -(p + 1) * (p + 2) / 2, p * (p + 2), -p * (p + 1) / 2])
    factors *= 2.0 / cutoff ** (2 + order)
    for i in range(order):
        factors *= powers - i
    table = torch.from_numpy(factors[:, None]).to(device, dtype)
    return torch.from_numpy(powers - order).to(device, dtype), table
