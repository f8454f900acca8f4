"""Directions that hold displacements and strain: rows of one set of coordinates.

The rows of the strain of each structure (3 x 3) follow those of the positions, so that
whatever differentiates an energy by positions differentiates it by both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pft_lightning.errors import ShapeError
from pft_lightning.types import Derivatives, EnergyFunction


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
        self, tangents: torch.Tensor | None, strain_tangents: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Rows (n_atoms + 3 n_structures, n_probes, 3) of directions.

        Args:
            tangents: (n_atoms, n_probes, 3); None moves no atom.
            strain_tangents: (n_structures, n_probes, 3, 3); their symmetric part
                counts, where a structure is periodic; None strains nothing.

        Returns:
            None where both are.

        Raises:
            ShapeError: the strain has another number of structures or probes.
        """
        if strain_tangents is None:
            return None if tangents is None else self.join(tangents)
        self._check(tangents, strain_tangents)
        if tangents is None:
            shape = (self.n_atoms, strain_tangents.shape[1], 3)
            tangents = strain_tangents.new_zeros(shape)
        strain_tangents = strain_tangents.to(tangents)
        rows = self._of_crystals(strain_tangents).movedim(1, 2).flatten(0, 1)
        return torch.cat([tangents, rows])

    def join_pairs(
        self, pairs: torch.Tensor | None, strain_pairs: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Rows (n_atoms + 3 n_structures, n_pairs, 2, 3) of pairs of directions.

        Args:
            pairs: (n_atoms, n_pairs, 2, 3); None moves no atom.
            strain_pairs: (n_structures, n_pairs, 2, 3, 3), as of ``join_tangents``.

        Returns:
            None where both are.

        Raises:
            ShapeError: the strain has another number of structures or pairs.
        """
        if strain_pairs is None:
            return None if pairs is None else self.join(pairs)
        shape = tuple(strain_pairs.shape)
        n_pairs = shape[1] if len(shape) > 1 else 0
        n_pairs = n_pairs if pairs is None else pairs.shape[1]
        expected = (len(self.periodic), n_pairs, 2, 3, 3)
        if shape != expected or n_pairs == 0:
            raise ShapeError(
                f"strain_pairs has shape {shape}; expected (n_structures, n_pairs, 2, "
                f"3, 3), here {expected}, of at least one pair."
            )
        # A pair is two directions, one after the other.
        flat = None if pairs is None else pairs.flatten(1, 2)
        joined = self.join_tangents(flat, strain_pairs.flatten(1, 2))
        assert joined is not None
        return joined.unflatten(1, (-1, 2))

    def energy_of(self, energy: EnergyFunction) -> EnergyFunction:
        """The energy as a function of the rows; its second argument counts no more."""

        def joint(rows: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
            del unused
            return energy(rows[: self.n_atoms], rows[self.n_atoms :].reshape(-1, 3, 3))

        return joint

    def split_derivatives(
        self,
        found: Derivatives,
        volumes: torch.Tensor,
        forces: bool,
        stress: bool,
    ) -> Derivatives:
        """Give derivatives by rows as those by positions and strain.

        Args:
            found: of ``energy_of``, with forces, without stress.
            volumes: (n_structures,), Å³.
            forces: keep forces.
            stress: give the stress.

        Returns:
            Products by strain, too, symmetric and zero where nothing is periodic.
        """
        assert found.forces is not None
        n_atoms, third, by_strain = self.n_atoms, found.third, None
        grad_strain = -found.forces[n_atoms:].reshape(-1, 3, 3)
        if found.hvp is not None:
            rows = found.hvp[n_atoms:].unflatten(0, (-1, 3)).movedim(1, 2)
            by_strain = self._of_crystals(rows)
        return Derivatives(
            energy=found.energy,
            forces=found.forces[:n_atoms] if forces else None,
            stress=to_stress(grad_strain, volumes) if stress else None,
            hvp=None if found.hvp is None else found.hvp[:n_atoms],
            third=None if third is None else third[:n_atoms],
            strain_hvp=by_strain,
        )

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


def to_stress(grad_strain: torch.Tensor, volumes: torch.Tensor) -> torch.Tensor:
    """dE/dstrain / V, eV/Å³, symmetrised; zero where the volume is zero.

    Args:
        grad_strain: (n_structures, 3, 3), eV.
        volumes: (n_structures,), Å³.
    """
    volumes = volumes.to(grad_strain)
    inverse = torch.where(
        volumes > 0, 1 / volumes.clamp(min=torch.finfo(volumes.dtype).tiny), 0.0
    )
    symmetric = (grad_strain + grad_strain.transpose(-1, -2)) / 2
    return symmetric * inverse[:, None, None]
