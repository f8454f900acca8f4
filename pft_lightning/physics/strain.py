"""Directions that hold displacements and strain: rows of one set of coordinates.

The rows of the strain of each structure (3 x 3) follow those of the positions, so that
whatever differentiates an energy by positions differentiates it by both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pft_lightning.errors import ShapeError
from pft_lightning.types import EnergyFunction


@dataclass(frozen=True, slots=True, eq=False)
class StrainedCoordinates:
    """Positions and strains of a batch as rows (n_atoms + 3 n_structures, 3).

    Attributes:
        n_atoms: of the batch.
        periodic: (n_structures,), bool; the strain of others has no meaning.
    """

    n_atoms: int
    periodic: torch.Tensor

    def join(self, of_atoms: torch.Tensor) -> torch.Tensor:
        """Rows of atoms (n_atoms, ...), and of no strain after them."""
        shape = (3 * len(self.periodic), *of_atoms.shape[1:])
        return torch.cat([of_atoms, of_atoms.new_zeros(shape)])

    def join_tangents(
        self, tangents: torch.Tensor | None, strain_tangents: torch.Tensor
    ) -> torch.Tensor:
        """Rows (n_atoms + 3 n_structures, n_probes, 3) of directions.

        Args:
            tangents: (n_atoms, n_probes, 3); None moves no atom.
            strain_tangents: (n_structures, n_probes, 3, 3); their symmetric part
                counts, where a structure is periodic.

        Raises:
            ShapeError: the strain has another number of structures or probes.
        """
        self._check(tangents, strain_tangents)
        if tangents is None:
            shape = (self.n_atoms, strain_tangents.shape[1], 3)
            tangents = strain_tangents.new_zeros(shape)
        strain_tangents = strain_tangents.to(tangents)
        rows = self._of_crystals(strain_tangents).movedim(1, 2).flatten(0, 1)
        return torch.cat([tangents, rows])

    def energy_of(self, energy: EnergyFunction) -> EnergyFunction:
        """The energy as a function of the rows; its second argument counts no more."""

        def joint(rows: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
            del unused
            return energy(rows[: self.n_atoms], rows[self.n_atoms :].reshape(-1, 3, 3))

        return joint

    def split(self, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient of the rows to those of positions (n_atoms, 3) and strain."""
        return gradient[: self.n_atoms], gradient[self.n_atoms :].reshape(-1, 3, 3)

    def split_products(
        self, products: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Products of the rows to those of positions and strain.

        Args:
            products: (n_atoms + 3 n_structures, n_probes, 3).

        Returns:
            (n_atoms, n_probes, 3) and (n_structures, n_probes, 3, 3), symmetric and
            zero where a structure is not periodic.
        """
        rows = products[self.n_atoms :].unflatten(0, (-1, 3)).movedim(1, 2)
        return products[: self.n_atoms], self._of_crystals(rows)

    def _of_crystals(self, strains: torch.Tensor) -> torch.Tensor:
        """Symmetric part; zero where nothing is periodic."""
        symmetric = (strains + strains.transpose(-1, -2)) / 2
        return torch.where(self.periodic[:, None, None, None], symmetric, 0.0)

    def _check(
        self, tangents: torch.Tensor | None, strain_tangents: torch.Tensor
    ) -> None:
        n_structures, shape = len(self.periodic), tuple(strain_tangents.shape)
        if len(shape) != 4 or shape[::2] != (n_structures, 3) or shape[3] != 3:
            raise ShapeError(
                f"strain_tangents has shape {shape}; expected (n_structures, n_probes, "
                f"3, 3) with n_structures={n_structures}."
            )
        n_probes = shape[1] if tangents is None else tangents.shape[1]
        if shape[1] != n_probes or n_probes == 0:
            raise ShapeError(
                f"strain_tangents holds {shape[1]} probes"
                + ("" if tangents is None else f" and tangents {n_probes}")
                + "; expected the same number of both, at least 1."
            )
