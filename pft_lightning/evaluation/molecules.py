"""Isolated molecules: their Hessians, vibrations and thermal properties.

Frequencies are those of the Hessian at the geometry of the reference (or, where the
protocol relaxes, of the model's own minimum). Translations and rotations are projected
out on both sides: away from its own minimum a model has forces, which make rotations
look like vibrations.
"""

from __future__ import annotations

import time
from dataclasses import replace

import ase
import numpy as np
from ase import units
from ase.optimize import FIRE

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.calculator import Calculator
from pft_lightning.data.molecules import Molecule
from pft_lightning.errors import RelaxationError
from pft_lightning.evaluation.folder import (
    ERROR,
    FREQUENCIES,
    FREQUENCY_MAE_CM1,
    N_PRODUCTS,
    OK,
    RELAX_STEPS,
    SECONDS,
    STATUS,
    VOLUME_RATIO,
    ZERO_POINT_ENERGY,
    Row,
    error_of,
    reference_of,
)
from pft_lightning.evaluation.force_constants import (
    Potential,
    all_directions,
    displaced_forces,
    in_float64,
    multiply_hessian,
)
from pft_lightning.evaluation.metrics import compare
from pft_lightning.evaluation.properties import DOS_MARGIN
from pft_lightning.evaluation.protocols import Protocol, minimise
from pft_lightning.evaluation.task import Task
from pft_lightning.physics.molecules import zero_point_energy
from pft_lightning.types import PhononProperties


# THz per cm⁻¹
_THZ = units._c * 1e2 * 1e-12

_KJ_PER_MOL = units.kJ / units.mol

# Relaxing does not make a molecule longer than this many times, unless it falls apart.
_MAX_EXTENT = 2.0


def compare_molecule(
    model: Potential,
    reference: Molecule,
    expected: PhononProperties,
    task: Task[Protocol],
) -> tuple[Row, PhononProperties]:
    """Row and properties of a model on a molecule, whose own are expected."""
    started = time.perf_counter()
    found, steps, n_products = _compute(model, reference, task)
    seconds = time.perf_counter() - started
    ours, theirs = found.frequencies(), reference.frequencies()
    if len(ours) != len(theirs):
        raise RelaxationError(
            f"the molecule has {len(ours)} vibrations in its minimum, and "
            f"{len(theirs)} in the reference: one of them is linear. Compare them at "
            "the geometry of the reference, with the protocol dft_cell."
        )
    properties = molecule_properties(found, task.protocol)
    row: Row = {
        STATUS: OK,
        ERROR: "",
        **compare(properties, expected, task.protocol),
        FREQUENCY_MAE_CM1: float(np.abs(ours - theirs).mean()),
        ZERO_POINT_ENERGY: zero_point_energy(ours),
        reference_of(ZERO_POINT_ENERGY): zero_point_energy(theirs),
        FREQUENCIES: ours.tolist(),
        reference_of(FREQUENCIES): theirs.tolist(),
        VOLUME_RATIO: 1.0,
        RELAX_STEPS: steps,
        N_PRODUCTS: n_products,
        SECONDS: seconds,
    }
    row[error_of(ZERO_POINT_ENERGY)] = abs(
        row[ZERO_POINT_ENERGY] - row[reference_of(ZERO_POINT_ENERGY)]
    )
    return row, properties


def molecule_properties(molecule: Molecule, protocol: Protocol) -> PhononProperties:
    """Compute what an evaluation compares, per mole of molecules, vibrations alone."""
    frequencies = molecule.frequencies() * _THZ
    first, last, step = protocol.temperatures
    temperatures = np.unique(
        [*np.arange(first, last + step / 2, step), protocol.temperature]
    )
    counted = frequencies[frequencies > protocol.cutoff_frequency]
    free_energy, entropy, heat_capacity = _thermal(counted, temperatures)
    points, dos = _density_of_states(frequencies, protocol)
    at_gamma, weight = frequencies[None], np.ones(1)
    return PhononProperties(
        commensurate_frequencies=at_gamma,
        commensurate_weights=weight,
        mesh_frequencies=at_gamma,
        mesh_weights=weight,
        dos_frequencies=points,
        dos=dos,
        temperatures=temperatures,
        free_energy=free_energy,
        entropy=entropy,
        heat_capacity=heat_capacity,
        bands=None,
        force_constants=molecule.force_constants,
        non_analytical=False,
    )


def _compute(
    model: Potential, reference: Molecule, task: Task[Protocol]
) -> tuple[Molecule, int, int]:
    """Hessian of a model, steps of relaxation and number of products or forces."""
    protocol, atoms, steps = task.protocol, reference.atoms.copy(), 0
    if isinstance(model, EnergyModel):
        model = in_float64(model)
    if protocol.relax:
        steps = _relax(model, atoms, protocol)
    n_atoms = len(atoms)
    directions = all_directions(n_atoms)
    if protocol.method == "finite_displacement":
        moves = protocol.displacement * np.concatenate([directions, -directions])
        forces = np.array(
            displaced_forces(model, atoms, atoms.positions + moves, task.max_atoms)
        )
        n_products = len(moves)
        forward, backward = np.split(forces, 2)
        products = (backward - forward) / (2 * protocol.displacement)
    else:
        assert isinstance(model, EnergyModel)
        products = multiply_hessian(
            model, atoms, directions, task.max_atoms, task.engine
        )
        n_products = len(products)
    matrix = products.reshape(3 * n_atoms, 3 * n_atoms)
    blocks = ((matrix + matrix.T) / 2).reshape(n_atoms, 3, n_atoms, 3)
    found = replace(
        reference, atoms=atoms, force_constants=blocks.transpose(0, 2, 1, 3)
    )
    return found, steps, n_products


def _relax(model: Potential, atoms: ase.Atoms, protocol: Protocol) -> int:
    """Relax the atoms in place; gives the number of steps.

    Raises:
        RelaxationError: the molecule fell apart, or it did not converge in time.
    """
    atoms.calc = Calculator(model) if isinstance(model, EnergyModel) else model
    extent = atoms.get_all_distances().max()

    def problem() -> str | None:
        ratio = atoms.get_all_distances().max() / extent
        if ratio < _MAX_EXTENT:
            return None
        return f"the molecule is {ratio:.3g} times as long as the reference"

    steps = minimise(FIRE(atoms, logfile=None), protocol, problem)
    atoms.calc = None
    return steps


def _thermal(
    frequencies: np.ndarray, temperatures: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Helmholtz energy (kJ/mol), entropy and heat capacity (J/K/mol) of oscillators.

    Args:
        frequencies: (n_modes,), positive, THz.
        temperatures: (n_t,), K.
    """
    quanta = frequencies / _THZ * units.invcm
    free_energy = np.full(len(temperatures), quanta.sum() / 2)
    entropy, heat_capacity = np.zeros((2, len(temperatures)))
    for i, temperature in enumerate(temperatures):
        if temperature == 0:
            continue
        x = quanta / (units.kB * temperature)
        # Bose and Einstein's occupation; no overflow where x is large.
        occupation = np.exp(-x) / -np.expm1(-x)
        logarithm = np.log(-np.expm1(-x))
        free_energy[i] += units.kB * temperature * logarithm.sum()
        entropy[i] = units.kB * (x * occupation - logarithm).sum()
        heat_capacity[i] = units.kB * (x**2 * occupation * (1 + occupation)).sum()
    per_kelvin = 1e3 / _KJ_PER_MOL
    return free_energy / _KJ_PER_MOL, entropy * per_kelvin, heat_capacity * per_kelvin


def _density_of_states(
    frequencies: np.ndarray, protocol: Protocol
) -> tuple[np.ndarray, np.ndarray]:
    """Smeared density of states at multiples of the pitch."""
    pitch, width = protocol.dos_pitch, protocol.dos_smearing
    margin = DOS_MARGIN * width
    first = int(np.floor((frequencies.min() - margin) / pitch))
    last = int(np.ceil((frequencies.max() + margin) / pitch))
    points = np.arange(first, last + 1) * pitch
    shapes = np.exp(-((points[:, None] - frequencies) ** 2) / (2 * width**2))
    return points, shapes.sum(axis=1) / (width * np.sqrt(2 * np.pi))
