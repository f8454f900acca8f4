"""Long-range dipoles: what they add to dynamical matrices at Γ, along a direction.

``(4π/Ω) k (q̂·Z_i)_a (q̂·Z_j)_b / (q̂·ε·q̂) / sqrt(m_i m_k)`` (R. M. Pick, M. H. Cohen and
R. M. Martin, Phys. Rev. B 1, 910, 1970), the limit of q → 0 that phonopy has (A. Togo,
J. Phys. Soc. Jpn. 92, 012001, 2023). It splits longitudinal from transverse optical
modes. At other commensurate q-points force constants of the supercell hold all of it,
and at Γ without a direction nothing is added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pft_lightning.errors import ShapeError


@dataclass(frozen=True, slots=True, eq=False)
class BornCharges:
    """Born effective charges and the dielectric tensor of a primitive cell.

    Attributes:
        charges: (n_primitive, 3, 3), e, phonopy's: the field is along the first axis
            of each tensor, the displacement along the second.
        dielectric: (3, 3), the high-frequency tensor, positive.

    Raises:
        ShapeError: one of them has another shape.
    """

    charges: np.ndarray
    dielectric: np.ndarray

    def __post_init__(self) -> None:
        """Check the shapes."""
        n = len(self.charges)
        if self.charges.shape != (n, 3, 3) or self.dielectric.shape != (3, 3):
            raise ShapeError(
                f"charges have shape {self.charges.shape} and dielectric has "
                f"{self.dielectric.shape}; expected (n_primitive, 3, 3) and (3, 3)."
            )

    def neutral(self) -> BornCharges:
        """Take what the charges sum to in equal parts from all atoms, as phonopy does.

        The crystal as a whole then feels no force in a field, and its translations
        have the frequency zero.
        """
        return BornCharges(self.charges - self.charges.mean(axis=0), self.dielectric)

    def matrix(
        self, direction: np.ndarray, masses: np.ndarray, cell: np.ndarray
    ) -> np.ndarray:
        """What is added at Γ, where it is approached along a direction.

        Args:
            direction: (3,), fractions of the reciprocal vectors of the cell, of any
                length but zero; the opposite one gives the same.
            masses: (n_primitive,), AMU.
            cell: (3, 3), Å, lattice vectors of the primitive cell as rows.

        Returns:
            (3 n_primitive, 3 n_primitive), real, symmetric, eV/Å²/AMU, positive
            semidefinite.

        Raises:
            ShapeError: masses of another number of atoms, or the direction is zero.
        """
        if masses.shape != (len(self.charges),):
            raise ShapeError(
                f"masses have shape {masses.shape}; expected ({len(self.charges)},), "
                "one for each charge."
            )
        along = np.linalg.solve(cell, np.asarray(direction, dtype=np.float64))
        screening = along @ self.dielectric @ along
        # Written so that NaN does not pass.
        if not screening > 0:
            raise ShapeError(
                f"direction is {np.asarray(direction).tolist()}, along which the "
                f"dielectric tensor is {screening:g}; a direction of some length and a "
                "positive tensor are needed."
            )
        volume = abs(np.linalg.det(cell))
        forces = (along @ self.charges / np.sqrt(masses)[:, None]).ravel()
        scale = 4 * np.pi * _coulomb() / (volume * screening)
        found: np.ndarray = scale * np.outer(forces, forces)
        return found


def _coulomb() -> float:
    """e²/4πε₀, eV Å, phonopy's ``factor`` of codes with eV and Å."""
    from phonopy.physical_units import get_physical_units

    units = get_physical_units()
    return float(units.Hartree * units.Bohr)
