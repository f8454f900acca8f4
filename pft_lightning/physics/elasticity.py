"""Elastic constants from second derivatives, and what they say of a material.

Strain is symmetric and deforms a cell by ``1 + ε``; stress is positive under tension
(ASE's convention). Voigt order is xx, yy, zz, yz, xz, xy, with engineering shear:
``σ_I = C_IJ e_J``, ``e_4 = 2 ε_yz``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from ase import units

from pft_lightning.errors import ShapeError


# Pairs of axes in Voigt order.
_VOIGT: Final = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
_ROWS: Final = [row for row, _ in _VOIGT]
_COLUMNS: Final = [column for _, column in _VOIGT]

# Internal modes as soft as this, relative to the hardest, have no response.
_FLAT: Final = 1e-8

_KG_PER_M3: Final = 1e30 / units.kg  # per amu/Å³
_BOLTZMANN_OVER_HBAR: Final = units._k / units._hbar  # 1/s/K


def voigt_strains() -> np.ndarray:
    """Strains (6, 3, 3) of one unit of each Voigt component, e = 1."""
    strains = np.zeros((6, 3, 3))
    for strain, (i, j) in zip(strains, _VOIGT, strict=True):
        strain[i, j] += 0.5
        strain[j, i] += 0.5
    return strains


def to_voigt(tensor: np.ndarray) -> np.ndarray:
    """Components (..., 6) of symmetric tensors (..., 3, 3), without factors of 2."""
    return np.asarray(tensor)[..., _ROWS, _COLUMNS]


def relaxed_second_derivative(
    clamped: np.ndarray, coupling: np.ndarray, hessian: np.ndarray
) -> tuple[np.ndarray, float]:
    """Second strain derivative of the energy that the ions minimise.

    ``A = A_clamped - Λ^T H^+ Λ``, with uniform translations left out of H. Source: M.
    Born and K. Huang, Dynamical Theory of Crystal Lattices (1954); X. Wu, D.
    Vanderbilt and D. R. Hamann, Phys. Rev. B 72, 035105 (2005).

    Args:
        clamped: (6, 6), ``d2E/de2`` of ions that follow the cell, eV.
        coupling: (n_atoms, 6, 3), Λ = ``d2E/dr de``, eV/Å.
        hessian: (3 n_atoms, 3 n_atoms), at Γ, eV/Å².

    Returns:
        (6, 6), eV, and the lowest eigenvalue of H without translations, eV/Å²; inf
        for one atom. Where it is not positive the ions are at no minimum, and the
        response has no meaning.
    """
    displacements, lowest = relax_ions(coupling, hessian)
    return clamped + np.einsum("asi,ati->st", coupling, displacements), lowest


def relax_ions(
    coupling: np.ndarray, hessian: np.ndarray, *, softest: float | None = None
) -> tuple[np.ndarray, float]:
    """How far ions move in a strained cell, beside what the strain itself moves them.

    ``u = -H^+ Λ``, with uniform translations left out of H.

    Args:
        coupling: (n_atoms, n_strains, 3), Λ = ``d2E/dr de``, eV/Å.
        hessian: (3 n_atoms, 3 n_atoms), at Γ, eV/Å².
        softest: modes below this share of the hardest one do not move, nor do those
            that are unstable; None moves all that are not flat, along which u is
            no minimum where they are unstable.

    Returns:
        (n_atoms, n_strains, 3), Å per unit of strain, and the lowest eigenvalue of H
        without translations, eV/Å²; inf for one atom.
    """
    n_atoms, n_strains = coupling.shape[:2]
    if n_atoms == 1:
        return np.zeros_like(coupling), float("inf")
    uniform = np.tile(np.eye(3), (n_atoms, 1))
    # The other columns of a complete QR decomposition are all that is orthogonal.
    internal = np.linalg.qr(uniform, mode="complete")[0][:, 3:]
    values, modes = np.linalg.eigh(internal.T @ (hessian + hessian.T) @ internal / 2)
    hardest = np.abs(values).max()
    if softest is None:
        kept = np.abs(values) > _FLAT * hardest
    else:
        kept = values > softest * hardest
    directions = (internal @ modes)[:, kept]
    forces = directions.T @ coupling.transpose(0, 2, 1).reshape(-1, n_strains)
    moved = -directions @ (forces / values[kept, None])
    return moved.reshape(n_atoms, 3, n_strains).transpose(0, 2, 1), float(values[0])


def stiffness_under_stress(
    second_derivative: np.ndarray, stress: np.ndarray
) -> np.ndarray:
    """Coefficients of stress by strain of a cell that is under stress.

    With ``A = (1/V) d2E/dε2`` and σ the stress of the cell as it is::

        B_ijkl = A_ijkl + (σ_ik δ_jl + σ_il δ_jk + σ_jk δ_il + σ_jl δ_ik) / 4
                 - σ_ij δ_kl

    The change of the true stress is ``B ε``, for a symmetric strain. Without stress
    all three are the same. With Brugger's constants C by the Lagrangian strain,
    ``A = C + (...) / 4``, this is ``B_ijkl = C_ijkl + (σ_ik δ_jl + σ_il δ_jk +
    σ_jk δ_il + σ_jl δ_ik - 2 σ_ij δ_kl) / 2``. Source: T. H. K. Barron and M. L.
    Klein, Proc. Phys. Soc. 85, 523 (1965); D. C. Wallace, Phys. Rev. 162, 776 (1967).

    Args:
        second_derivative: (6, 6), A; any unit of pressure.
        stress: (3, 3), of the same unit.

    Returns:
        (6, 6), σ_I by e_J; not symmetric where the stress is not hydrostatic.
    """
    delta = np.eye(3)
    mixed = np.einsum("ik,jl->ijkl", stress, delta)
    mixed = mixed + mixed.transpose(0, 1, 3, 2)
    mixed = mixed + mixed.transpose(1, 0, 2, 3)
    full = mixed / 4 - np.einsum("ij,kl->ijkl", stress, delta)
    at_rows = full[_ROWS, _COLUMNS]
    return np.asarray(second_derivative + at_rows[:, _ROWS, _COLUMNS])


@dataclass(frozen=True, slots=True)
class Moduli:
    """Moduli of a polycrystal, and what follows from Hill's.

    Attributes:
        bulk_voigt: of uniform strain, GPa.
        bulk_reuss: of uniform stress, GPa.
        bulk: mean of both (Hill), GPa.
        shear_voigt: of uniform strain, GPa.
        shear_reuss: of uniform stress, GPa.
        shear: mean of both (Hill), GPa.
        young: GPa.
        poisson: ratio.
        lowest_eigenvalue: of the symmetric part of the stiffness, GPa: Born's
            criterion, which a stable crystal has above 0 (F. Mouhat and F.-X.
            Coudert, Phys. Rev. B 90, 224104 (2014)).
    """

    bulk_voigt: float
    bulk_reuss: float
    bulk: float
    shear_voigt: float
    shear_reuss: float
    shear: float
    young: float
    poisson: float
    lowest_eigenvalue: float

    @property
    def is_stable(self) -> bool:
        """Whether the crystal withstands every strain."""
        return self.lowest_eigenvalue > 0


def average_moduli(stiffness: np.ndarray) -> Moduli:
    """Average elastic constants over all orientations of a crystal.

    Source: R. Hill, Proc. Phys. Soc. A 65, 349 (1952).

    Args:
        stiffness: (6, 6), GPa; the symmetric part counts.

    Raises:
        ShapeError: it has another shape, or is singular or not finite.
    """
    c = np.asarray(stiffness, dtype=np.float64)
    if c.shape != (6, 6) or not np.isfinite(c).all():
        raise ShapeError(
            f"stiffness has shape {c.shape}; expected (6, 6) finite numbers in GPa."
        )
    c = (c + c.T) / 2
    eigenvalues = np.linalg.eigvalsh(c)
    if np.abs(eigenvalues).min() < 1e-12 * np.abs(eigenvalues).max():
        raise ShapeError(
            "stiffness is singular: a strain costs nothing, and there is no compliance."
        )
    s = np.linalg.inv(c)
    bulk_voigt, bulk_reuss = c[:3, :3].sum() / 9, 1 / s[:3, :3].sum()
    shear_voigt = (1.5 * np.trace(c[:3, :3]) - c[:3, :3].sum() / 2) / 15
    shear_voigt += np.trace(c[3:, 3:]) / 5
    axial = 6 * np.trace(s[:3, :3]) - 2 * s[:3, :3].sum()
    shear_reuss = 15 / (axial + 3 * np.trace(s[3:, 3:]))
    bulk, shear = (bulk_voigt + bulk_reuss) / 2, (shear_voigt + shear_reuss) / 2
    values = (
        *(bulk_voigt, bulk_reuss, bulk, shear_voigt, shear_reuss, shear),
        9 * bulk * shear / (3 * bulk + shear),
        (3 * bulk - 2 * shear) / (2 * (3 * bulk + shear)),
        eigenvalues[0],
    )
    return Moduli(*map(float, values))


def wave_velocities(
    stiffness: np.ndarray, density: float, directions: np.ndarray
) -> np.ndarray:
    """Velocities of plane waves, by Christoffel's equation.

    Args:
        stiffness: (6, 6), GPa, of a crystal without stress; its symmetric part counts.
        density: kg/m³.
        directions: (n, 3), of propagation, of any length.

    Returns:
        (n, 3), m/s, ascending; NaN where a wave grows instead of running.
    """
    index = np.zeros((3, 3), dtype=int)
    for place, (i, j) in enumerate(_VOIGT):
        index[i, j] = index[j, i] = place
    symmetric = (stiffness + np.transpose(stiffness)) / 2
    full = symmetric[index[:, :, None, None], index]
    n = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(np.einsum("ijkl,nj,nl->nik", full, n, n)) * 1e9
    return np.sqrt(np.where(values >= 0, values, np.nan) / density)


@dataclass(frozen=True, slots=True)
class AcousticProperties:
    """What isotropic elasticity says of sound and heat.

    Attributes:
        longitudinal: velocity of sound, m/s.
        transverse: m/s.
        mean: velocity of Debye's model, m/s.
        debye_temperature: K, of all atoms.
        gruneisen: parameter from Poisson's ratio.
        slack: lattice thermal conductivity of Slack's model, W/m/K.
    """

    longitudinal: float
    transverse: float
    mean: float
    debye_temperature: float
    gruneisen: float
    slack: float


def acoustic_properties(
    moduli: Moduli,
    volume: float,
    masses: np.ndarray,
    n_primitive: int,
    temperature: float = 300.0,
) -> AcousticProperties:
    """Velocities of sound, Debye temperature and Slack's conductivity.

    ``v_l = sqrt((K + 4/3 G) / ρ)``, ``v_t = sqrt(G / ρ)``, ``3 / v_m^3 = 1 / v_l^3 +
    2 / v_t^3`` and ``θ = ħ/k (6 π² n/V)^(1/3) v_m``: O. L. Anderson, J. Phys. Chem.
    Solids 24, 909 (1963). ``γ = 3 (1 + ν) / (2 (2 - 3 ν))``: V. N. Belomestnykh, Tech.
    Phys. Lett. 30, 91 (2004). Slack's model, with the acoustic ``θ_a = θ n^(-1/3)``::

        κ = 2.43e-6 / (1 - 0.514/γ + 0.228/γ²) M θ_a³ δ n^(1/3) / (γ² T)

    M is the mean mass in amu, δ³ the volume of an atom in Å³, n the atoms of the
    primitive cell; κ in W/m/K. The factor is 0.849 · 3 · 4^(1/3) / (20 π³) (k/ħ)³ in
    these units: G. A. Slack, Solid State Physics 34, 1 (1979); C. Toher et al., Phys.
    Rev. B 90, 174107 (2014).

    Args:
        moduli: of the crystal; Hill's are taken.
        volume: of the cell, Å³.
        masses: (n_atoms,), of the cell, amu.
        n_primitive: atoms of the primitive cell.
        temperature: of κ, K.

    Returns:
        NaN in what needs a positive modulus, where it is not.
    """
    density = masses.sum() / volume * _KG_PER_M3
    bulk, shear = moduli.bulk * 1e9, moduli.shear * 1e9
    with np.errstate(invalid="ignore", divide="ignore"):
        longitudinal = np.sqrt(np.float64(bulk + 4 / 3 * shear) / density)
        transverse = np.sqrt(np.float64(shear) / density)
        mean = (3 / (longitudinal**-3 + 2 * transverse**-3)) ** (1 / 3)
    per_atom = volume / len(masses)
    wave_number = 1e10 * (6 * np.pi**2 / per_atom) ** (1 / 3)
    debye = wave_number * mean / _BOLTZMANN_OVER_HBAR
    gruneisen = 3 * (1 + moduli.poisson) / (2 * (2 - 3 * moduli.poisson))
    factor = 0.849 * 3 * 4 ** (1 / 3) / (20 * np.pi**3) * _BOLTZMANN_OVER_HBAR**3
    factor *= units._amu * 1e-10 / (1 - 0.514 / gruneisen + 0.228 / gruneisen**2)
    acoustic = debye * n_primitive ** (-1 / 3)
    size = per_atom ** (1 / 3) * n_primitive ** (1 / 3)
    slack = factor * masses.mean() * acoustic**3 * size / (gruneisen**2 * temperature)
    values = (longitudinal, transverse, mean, debye, gruneisen, slack)
    return AcousticProperties(*map(float, values))
