"""Frequencies, thermal properties and spectra as smooth functions of ``ω²``.

All of them are symmetric functions of the eigenvalues of dynamical matrices, so their
gradient is the matrix function ``f'(D) = U f'(λ) U†``, which exists where modes
are degenerate and is the same in any basis of them; that of a single eigenvector does
not. Squares are in THz², negative for imaginary modes.

Thermal properties are those of phonopy (A. Togo, J. Phys. Soc. Jpn. 92, 012001, 2023)
per mole of primitive cells, but that no mode is left out: below some 0.1 THz, and for
imaginary modes, the frequency passes into a small positive number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

from pft_lightning.errors import ShapeError
from pft_lightning.physics.functions import Function


# Where functions of a square start to feel zero, THz: at ten times of it frequencies
# differ by 1e-5 and less from the square root.
SMOOTHING: Final = 0.05

# Eigenvalues nearer than that, as a share of the largest, are of one degenerate group.
# Products in float32 split exact ones by less.
_DEGENERATE: Final = 1e-5


class _Eigenvalues(Function):
    """Ascending eigenvalues of Hermitian matrices, (n, m, m), and vectors as columns.

    Vectors have no gradient.
    """

    @staticmethod
    def forward(ctx: Any, matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, vectors = torch.linalg.eigh(matrices)
        ctx.save_for_backward(values, vectors)
        ctx.mark_non_differentiable(vectors)
        return values, vectors

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> torch.Tensor:  # type: ignore[override]
        values, vectors = ctx.saved_tensors
        shared = _mean_of_groups(gradient, values)
        return (vectors * shared[:, None]) @ vectors.mH


def _mean_of_groups(gradient: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Average gradients over degenerate groups.

    What keeps the symmetry moves the members of a group alike, so nothing is lost;
    which vector belongs to which member is arbitrary.
    """
    group = degenerate_groups(values)
    totals = torch.zeros_like(gradient).scatter_add(1, group, gradient)
    sizes = torch.zeros_like(gradient).scatter_add(1, group, torch.ones_like(gradient))
    return (totals / sizes.clamp(min=1)).gather(1, group)


def degenerate_groups(values: torch.Tensor) -> torch.Tensor:
    """Number the groups of degenerate modes in each row, from 0.

    Args:
        values: (n_q, m), ascending eigenvalues in any unit.

    Returns:
        (n_q, m), int64.
    """
    apart = values.diff(dim=1) > _DEGENERATE * values.abs().amax()
    return torch.nn.functional.pad(apart.cumsum(dim=1), (1, 0))


def squared_frequencies(matrices: torch.Tensor) -> torch.Tensor:
    """Squares of frequencies, THz², ascending; differentiable at degenerate modes.

    Args:
        matrices: (n_q, 3n, 3n), Hermitian, eV/Å²/AMU, of ``Waves.matrices``.

    Returns:
        (n_q, 3n), float64.
    """
    values: torch.Tensor = _Eigenvalues.apply(matrices)[0]
    return values * square_unit()


def square_unit() -> float:
    """THz² per eV/Å²/AMU, phonopy's."""
    return _constants().square


def signed_frequencies(squares: torch.Tensor) -> torch.Tensor:
    """Frequencies, THz, negative for imaginary modes, as phonopy gives them.

    ``λ / (λ² + w⁴)^(1/4)`` with w of 0.05 THz, whose slope at zero is finite.
    """
    return squares / (squares.square() + SMOOTHING**4).pow(0.25)


def positive_frequencies(squares: torch.Tensor) -> torch.Tensor:
    """Frequencies, THz, above zero also for imaginary modes, and rising everywhere."""
    root = (squares.square() + SMOOTHING**4).sqrt()
    # The other form of (squares + root) / 2, which does not cancel below zero.
    below = SMOOTHING**4 / (2 * (root - squares.clamp(max=0)))
    return torch.where(squares > 0, (squares.clamp(min=0) + root) / 2, below).sqrt()


def gaussian_lines(
    frequencies: torch.Tensor, points: torch.Tensor, smearing: float
) -> torch.Tensor:
    """Normalised Gaussians about frequencies, (..., n_points), 1/THz.

    Args:
        frequencies: THz, of any shape.
        points: (n_points,), THz.
        smearing: THz, standard deviation.
    """
    distance = (points - frequencies[..., None]) / smearing
    height = 1 / (smearing * (2 * torch.pi) ** 0.5)
    return height * torch.exp(-distance.square() / 2)


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Modes of one crystal, and how much each counts.

    Attributes:
        squares: (n_q, n_bands), THz², ascending in each row, but that translations of
            the crystal come first.
        weights: (n_q, n_bands), of sums over modes per primitive cell: those of their
            q-points, which have the sum 1, or 0 for a crystal that moves as a whole.
        modes: (n_q, 3n, n_bands), complex128, eigenvectors as columns, in the order of
            the squares, without a gradient; None where they are not kept.
        by_element: gives densities of states (n_elements, n) at points (n,) with a
            smearing, see ``element_densities``; None where elements are not told apart.
    """

    squares: torch.Tensor
    weights: torch.Tensor
    modes: torch.Tensor | None = None
    by_element: Callable[[torch.Tensor, float], torch.Tensor] | None = None

    @classmethod
    def of(
        cls,
        matrices: torch.Tensor,
        weights: torch.Tensor,
        is_gamma: torch.Tensor,
        *,
        keep_modes: bool = False,
    ) -> Spectrum:
        """Take the spectrum of dynamical matrices.

        Args:
            matrices: (n_q, 3n, 3n), eV/Å²/AMU.
            weights: (n_q,), sum 1.
            is_gamma: (n_q,), bool; the three modes of which that are nearest to zero
                are translations of the crystal and do not count.
            keep_modes: keep eigenvectors.
        """
        values, vectors = _Eigenvalues.apply(matrices)
        squares = values * square_unit()
        nearest = squares.detach().abs().argsort(dim=1)[:, :3]
        counted = torch.ones_like(squares).scatter(1, nearest, 0.0)
        counted = torch.where(is_gamma[:, None], counted, 1.0)
        # Others keep their order among themselves, below zero too.
        order = counted.argsort(dim=1, stable=True)
        modes = None
        if keep_modes:
            modes = vectors.gather(2, order[:, None, :].expand_as(vectors))
        return cls(
            squares.gather(1, order),
            weights[:, None] * counted.gather(1, order),
            modes,
        )

    def frequencies(self) -> torch.Tensor:
        """(n_q, n_bands), THz, negative for imaginary modes."""
        return signed_frequencies(self.squares)

    def _sum(self, per_mode: torch.Tensor) -> torch.Tensor:
        """Over modes, of (n_q, n_bands, n)."""
        return (self.weights[:, :, None] * per_mode).sum(dim=(0, 1))

    def _energies(self, temperatures: torch.Tensor) -> torch.Tensor:
        """(n_q, n_bands, n_t), energy of a quantum over kT."""
        units = _constants()
        energies = units.quantum * positive_frequencies(self.squares)
        return energies[:, :, None] / (units.boltzmann * temperatures)

    def free_energy(self, temperatures: torch.Tensor) -> torch.Tensor:
        """Free energy, (n_t,), kJ/mol; ``temperatures`` (n_t,), K, above 0."""
        x = self._energies(temperatures)
        per_mode = x / 2 + torch.log(-torch.expm1(-x))
        return _constants().gas * temperatures / 1000 * self._sum(per_mode)

    def entropy(self, temperatures: torch.Tensor) -> torch.Tensor:
        """Entropy, (n_t,), J/K/mol."""
        x = self._energies(temperatures)
        decay = torch.exp(-x)
        occupied = decay / -torch.expm1(-x)
        return _constants().gas * self._sum(x * occupied - torch.log(-torch.expm1(-x)))

    def heat_capacity(self, temperatures: torch.Tensor) -> torch.Tensor:
        """Heat capacity at constant volume, (n_t,), J/K/mol."""
        x = self._energies(temperatures)
        per_mode = x.square() * torch.exp(-x) / torch.expm1(-x).square()
        return _constants().gas * self._sum(per_mode)

    def density_of_states(self, points: torch.Tensor, smearing: float) -> torch.Tensor:
        """Density of states, (n,), per THz and primitive cell.

        Args:
            points: (n,), THz.
            smearing: THz, standard deviation of the Gaussian of each mode.
        """
        return self._sum(gaussian_lines(self.frequencies(), points, smearing))

    def element_densities(self, points: torch.Tensor, smearing: float) -> torch.Tensor:
        """Density of states of every element, (n_elements, n), as ``by_element`` does.

        Raises:
            ShapeError: the spectrum does not tell elements apart.
        """
        if self.by_element is None:
            raise ShapeError("The spectrum was made without the elements of its atoms.")
        return self.by_element(points, smearing)

    def moments(self, orders: torch.Tensor) -> torch.Tensor:
        """``<ω^k>^(1/k)`` over all modes, (n,), THz.

        Args:
            orders: (n,), the k, none of them 0.
        """
        powers = positive_frequencies(self.squares)[:, :, None] ** orders
        return (self._sum(powers) / self.weights.sum()) ** (1 / orders)

    def max_frequency(self) -> torch.Tensor:
        """Highest frequency, (1,), THz."""
        return self.frequencies().amax().reshape(1)


@dataclass(frozen=True, slots=True)
class _Constants:
    """Those of phonopy, so that numbers agree.

    Attributes:
        square: THz² per eV/Å²/AMU.
        quantum: eV per THz.
        boltzmann: eV/K.
        gas: J/K/mol.
    """

    square: float
    quantum: float
    boltzmann: float
    gas: float


def _constants() -> _Constants:
    from phonopy.physical_units import get_physical_units

    units = get_physical_units()
    return _Constants(
        square=units.DefaultToTHz**2,
        quantum=units.THzToEv,
        boltzmann=units.KB,
        gas=1000 * units.KB * units.EvTokJmol,
    )
