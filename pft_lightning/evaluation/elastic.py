"""Elastic constants of a potential, from exact second derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import ase
import numpy as np
import spglib
import torch
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from pft_lightning.backends.base import EnergyModel, check_model
from pft_lightning.errors import DataFormatError
from pft_lightning.evaluation.force_constants import (
    compute_force_constants,
    in_float64,
)
from pft_lightning.graphs import build_crystal_batch
from pft_lightning.physics.elasticity import (
    AcousticProperties,
    Moduli,
    acoustic_properties,
    average_moduli,
    relaxed_second_derivative,
    stiffness_under_stress,
    to_voigt,
    voigt_strains,
)
from pft_lightning.symmetry import search
from pft_lightning.types import Engine
from pft_lightning.units import GPA_PER_EV_PER_CUBIC_ANGSTROM


@dataclass(frozen=True, slots=True, eq=False)
class ElasticConstants:
    """Elastic constants of a crystal as it is, and what follows from them.

    Attributes:
        relaxed: (6, 6), GPa, stress by strain in Voigt order (xx, yy, zz, yz, xz, xy),
            of ions that relax; what experiments measure.
        clamped: (6, 6), GPa, of ions that follow the cell.
        stress: (3, 3), GPa, of the crystal, positive under tension.
        max_force: largest force on an atom, eV/Å. Both should be near zero: constants
            of a cell under stress are those of ``stiffness_under_stress``.
        lowest_internal: lowest eigenvalue of the Γ Hessian without translations,
            eV/Å²; where it is not positive the ions are at no minimum, and the
            relaxed constants have no meaning.
        moduli: of the relaxed constants.
        acoustic: sound and heat, of the same.
    """

    relaxed: np.ndarray
    clamped: np.ndarray
    stress: np.ndarray
    max_force: float
    lowest_internal: float
    moduli: Moduli
    acoustic: AcousticProperties


def elastic_constants(
    model: EnergyModel,
    atoms: ase.Atoms,
    *,
    temperature: float = 300.0,
    symprec: float = 1e-5,
    max_atoms: int = 256,
    engine: Engine | None = None,
) -> ElasticConstants:
    """Compute clamped and relaxed-ion elastic constants of a crystal, exactly.

    Six strains give the clamped constants and the internal-strain couplings, in one
    pass; the Γ Hessian, whose columns symmetry reduces, relaxes the ions:
    ``C = (d2E/de2 - Λ^T H^+ Λ) / V`` (``physics.elasticity``). No finite step is
    taken, and nothing is relaxed: the crystal is taken as it is. All arithmetic is
    float64.

    Args:
        model: from ``load_model``.
        atoms: periodic along three axes; relaxed with the model, for constants
            without stress.
        temperature: of Slack's conductivity, K.
        symprec: tolerance of the symmetry search, Å.
        max_atoms: atoms of a pass, counted once per direction; what bounds memory.
        engine: see ``pft_lightning.physics.hvp.compute_derivatives``.

    Raises:
        ConfigError: the model is none of ours, or lacks an element.
        DataFormatError: the structure is not periodic along three axes, or no volume
            or symmetry is found.
        ShapeError: the stiffness is singular.
    """
    check_model(model)
    n_primitive = _count_primitive(atoms, symprec)
    model = in_float64(model)
    volume = atoms.get_volume()
    found = _six_strains(model, atoms, max_atoms, engine)
    relaxed, lowest = relaxed_second_derivative(
        found.second, found.coupling, _hessian(model, atoms, symprec, max_atoms, engine)
    )
    to_gpa = GPA_PER_EV_PER_CUBIC_ANGSTROM
    stress = found.stress * to_gpa
    clamped = stiffness_under_stress(found.second / volume * to_gpa, stress)
    relaxed = stiffness_under_stress(relaxed / volume * to_gpa, stress)
    moduli = average_moduli(relaxed)
    return ElasticConstants(
        relaxed=relaxed,
        clamped=clamped,
        stress=stress,
        max_force=float(np.linalg.norm(found.forces, axis=1).max()),
        lowest_internal=lowest,
        moduli=moduli,
        acoustic=acoustic_properties(
            moduli, volume, atoms.get_masses(), n_primitive, temperature
        ),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Strained:
    """Derivatives of a crystal along the six strains: eV, eV/Å, eV/Å³."""

    second: np.ndarray
    coupling: np.ndarray
    stress: np.ndarray
    forces: np.ndarray


def _six_strains(
    model: EnergyModel, atoms: ase.Atoms, max_atoms: int, engine: Engine | None
) -> _Strained:
    batch = build_crystal_batch([atoms], model.cutoff, model.device)
    strains = torch.from_numpy(voigt_strains()).to(model.device)
    rows, columns = [], []
    forces = stress = torch.empty(0)
    for some in strains.split(max(1, max_atoms // len(atoms))):
        with torch.no_grad():
            found = model.derivatives(batch, strain_tangents=some[None], engine=engine)
        assert found.hvp is not None
        assert found.strain_hvp is not None
        assert found.stress is not None
        assert found.forces is not None
        forces, stress = found.forces, found.stress[0]
        rows.append(to_voigt(found.strain_hvp[0].cpu().numpy()))
        columns.append(found.hvp.cpu().numpy())
    second = np.concatenate(rows)
    return _Strained(
        second=(second + second.T) / 2,
        coupling=np.concatenate(columns, axis=1),
        stress=stress.cpu().numpy(),
        forces=forces.cpu().numpy(),
    )


def _hessian(
    model: EnergyModel,
    atoms: ase.Atoms,
    symprec: float,
    max_atoms: int,
    engine: Engine | None,
) -> np.ndarray:
    """Γ Hessian (3 n_atoms, 3 n_atoms), eV/Å², with its sum rule."""
    if len(atoms) == 1:
        return np.zeros((3, 3))
    cell = PhonopyAtoms(
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(wrap=False),
        masses=atoms.get_masses(),  # phonopy knows none of some actinides
    )
    phonon = Phonopy(cell, np.eye(3), primitive_matrix=np.eye(3), symprec=symprec)
    constants = compute_force_constants(
        model, phonon, max_atoms=max_atoms, engine=engine
    ).compact
    return constants.transpose(0, 2, 1, 3).reshape(3 * len(atoms), -1)


def _count_primitive(atoms: ase.Atoms, symprec: float) -> int:
    """Number of atoms of the primitive cell.

    Raises:
        DataFormatError: there is no crystal, or no symmetry is found.
    """
    if not atoms.pbc.all() or atoms.cell.rank < 3:
        n_axes = int((atoms.pbc & atoms.cell.any(axis=1)).sum())
        raise DataFormatError(
            f"{atoms.get_chemical_formula()} is periodic along {n_axes} axes; elastic "
            "constants need a crystal, periodic along three."
        )
    found = search(spglib.find_primitive, atoms, symprec)
    if found is None:
        raise DataFormatError(
            f"spglib finds no symmetry of {atoms.get_chemical_formula()} within "
            f"{symprec:g} Å. Do atoms overlap?"
        )
    return len(found[2])
