"""Force constants of a potential in the supercell of a phonon calculation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import ase
import numpy as np
import torch
from ase.calculators.calculator import BaseCalculator
from phonopy import Phonopy
from phonopy.harmonic.displacement import (
    directions_to_displacement_dataset,
    get_least_displacements,
)
from phonopy.harmonic.force_constants import FDFCSolver
from tqdm import tqdm

from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.memory import in_passes
from pft_lightning.errors import ConfigError, NotDifferentiableError
from pft_lightning.evaluation.failures import check_finite
from pft_lightning.graphs import build_crystal_batch
from pft_lightning.physics.force_constants import from_array, symmetrise
from pft_lightning.types import Engine
from pft_lightning.units import unit_system


Method = Literal["hvp", "finite_displacement", "full"]

# What the package can evaluate: a model of its own, or any ASE calculator.
Potential = EnergyModel | BaseCalculator


@dataclass(frozen=True, slots=True, eq=False)
class ModelForceConstants:
    """Force constants of a potential, and what they cost.

    Attributes:
        compact: (n_primitive, n_atoms, 3, 3), eV/Å², symmetrised.
        n_products: Hessian-vector products, or force calculations, that were made.
    """

    compact: np.ndarray
    n_products: int


def force_constants(
    model: Potential,
    phonon: Phonopy,
    *,
    method: Method = "hvp",
    displacement: float = 0.01,
    max_atoms: int = 256,
    engine: Engine | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Compute the force constants of a potential in the supercell of ``phonon``.

    All three methods go through the same end: the acoustic sum rule and permutation
    symmetry are imposed by ``physics.force_constants.symmetrise``. All arithmetic is
    float64, whatever the precision of the model's parameters.

    ``hvp`` multiplies the analytic Hessian with one displacement direction after the
    other: those that phonopy finds symmetry-inequivalent, without the opposite
    directions that only finite differences need. phonopy's own solver expands them by
    the symmetry of the supercell. ``full`` takes the Hessian-vector products of all
    3N directions and assumes no symmetry but lattice translations.
    ``finite_displacement`` takes differences of forces between displaced supercells,
    with opposite displacements where symmetry does not give them.

    ``phonon`` is left as it is; hand it the result with
    ``phonon.force_constants = pft.force_constants(model, phonon)``.

    Args:
        model: from ``load_model``, or an ASE calculator (``finite_displacement``
            only).
        phonon: in eV and Å; the positions of its supercell are taken as they are.
        method: ``hvp``, ``finite_displacement`` or ``full``.
        displacement: Å, of ``finite_displacement``.
        max_atoms: Atoms of a pass, counted once per direction; what bounds memory.
        engine: see ``pft_lightning.physics.hvp.compute_derivatives``.
        progress: Show a progress bar.

    Returns:
        Compact force constants (n_primitive, n_atoms, 3, 3), eV/Å², phonopy's layout.

    Raises:
        ConfigError: unknown method, other units, or elements that the model lacks.
        NotDifferentiableError: analytic force constants of an ASE calculator.
    """
    return compute_force_constants(
        model,
        phonon,
        method=method,
        displacement=displacement,
        max_atoms=max_atoms,
        engine=engine,
        progress=progress,
    ).compact


def compute_force_constants(
    model: Potential,
    phonon: Phonopy,
    *,
    method: Method = "hvp",
    displacement: float = 0.01,
    max_atoms: int = 256,
    engine: Engine | None = None,
    progress: bool = False,
) -> ModelForceConstants:
    """Compute force constants and count the work; see ``force_constants``."""
    _check(model, phonon, method, displacement, max_atoms)
    if isinstance(model, EnergyModel):
        model = in_float64(model)
    if method == "full":
        assert isinstance(model, EnergyModel)
        n_atoms = len(phonon.supercell)
        products = multiply_hessian(
            model,
            supercell_of(phonon),
            all_directions(n_atoms),
            max_atoms,
            engine,
            progress,
        )
        # (atom, direction, responding atom, direction) to phonopy's order.
        array = products.reshape(n_atoms, 3, n_atoms, 3).transpose(0, 2, 1, 3)
        n_products = len(products)
    else:
        analytic = method == "hvp"
        displacements = inequivalent_displacements(
            phonon, 1.0 if analytic else displacement, opposite=not analytic
        )
        first_atoms = displacements["first_atoms"]
        if analytic:
            assert isinstance(model, EnergyModel)
            products = multiply_hessian(
                model,
                supercell_of(phonon),
                to_directions(displacements, len(phonon.supercell)),
                max_atoms,
                engine,
                progress,
            )
            responses: Sequence[np.ndarray] = list(-products)
        else:
            responses = _displaced_forces(
                model, phonon, first_atoms, max_atoms, progress
            )
        array = expand_by_symmetry(phonon, displacements, responses)
        n_products = len(first_atoms)
    raw, _ = from_array(array, phonon.primitive, phonon.symmetry.get_map_atoms())
    return ModelForceConstants(symmetrise(raw).compact, n_products)


def inequivalent_displacements(
    phonon: Phonopy, length: float, *, opposite: bool
) -> dict[str, Any]:
    """List displacements that symmetry expands to all directions of all atoms.

    Args:
        phonon: Cells and symmetry.
        length: Å, of each displacement.
        opposite: Add the opposite displacement where no symmetry operation of the
            site gives it, as finite differences need.

    Returns:
        phonopy's data set: ``first_atoms``, each with ``number`` and
        ``displacement``.
    """
    directions = get_least_displacements(
        phonon.symmetry, is_plusminus="auto" if opposite else False
    )
    return dict(
        directions_to_displacement_dataset(directions, length, phonon.supercell)
    )


def to_directions(displacements: dict[str, Any], n_atoms: int) -> np.ndarray:
    """Directions (n, n_atoms, 3) of the displacements of a data set, Å."""
    directions = np.zeros((len(displacements["first_atoms"]), n_atoms, 3))
    for direction, entry in zip(directions, displacements["first_atoms"], strict=True):
        direction[entry["number"]] = entry["displacement"]
    return directions


def expand_by_symmetry(
    phonon: Phonopy, displacements: dict[str, Any], responses: Sequence[np.ndarray]
) -> np.ndarray:
    """Expand responses to displacements by the symmetry of the supercell.

    Args:
        phonon: cells and symmetry.
        displacements: of ``inequivalent_displacements``; gets the responses.
        responses: (n_atoms, 3) for each, forces or what transforms as they do.

    Returns:
        (n_primitive, n_atoms, 3, 3), unit of the responses per Å.
    """
    for entry, response in zip(displacements["first_atoms"], responses, strict=True):
        entry["forces"] = response
    solver = FDFCSolver(
        phonon.supercell,
        phonon.primitive,
        phonon.symmetry,
        displacements,  # type: ignore[arg-type]
        is_compact_fc=True,
    )
    return np.asarray(solver.force_constants[2])


def in_float64(model: EnergyModel) -> EnergyModel:
    """Give the model itself, or a copy in float64."""
    if model.dtype == model.input_dtype == torch.float64:
        return model
    return copy.deepcopy(model).to(torch.float64)


def _check(
    model: Potential, phonon: Phonopy, method: str, displacement: float, max_atoms: int
) -> None:
    if method not in get_args(Method):
        raise ConfigError(
            f"method={method!r}; expected one of {', '.join(get_args(Method))}."
        )
    if not isinstance(displacement, (int, float)) or not 0 < displacement < math.inf:
        raise ConfigError(
            f"displacement={displacement!r}; a positive length is needed."
        )
    if not isinstance(max_atoms, int) or max_atoms < 1:
        raise ConfigError(f"max_atoms={max_atoms!r}; an integer of at least 1.")
    if not isinstance(phonon, Phonopy):
        raise ConfigError(
            f"phonon is a {type(phonon).__name__}; expected a phonopy.Phonopy object. "
            "A file? pft.evaluate_phonons takes its path."
        )
    if not isinstance(model, EnergyModel):
        if not isinstance(model, BaseCalculator):
            raise ConfigError(
                f"model is a {type(model).__name__}; expected a model from "
                "pft.load_model or an ASE calculator."
            )
        if method != "finite_displacement":
            raise NotDifferentiableError(
                f"method={method!r} needs second derivatives, which an ASE calculator "
                f"({type(model).__name__}) does not give. Use "
                "method='finite_displacement'; in an evaluation, a protocol with it."
            )
    units = unit_system(phonon.calculator or "vasp")
    if units.length != 1.0 or units.force_constants != 1.0:
        raise ConfigError(
            f"the phonon calculation is in {units.description}; eV and Å are needed. "
            "Evaluate the file, which is converted when it is read, or use "
            "pft_lightning.evaluation.reference.read_reference."
        )


def all_directions(n_atoms: int) -> np.ndarray:
    """Directions (3 n_atoms, n_atoms, 3), each of one atom along one axis."""
    return np.eye(3 * n_atoms).reshape(3 * n_atoms, n_atoms, 3)


def multiply_hessian(
    model: EnergyModel,
    atoms: ase.Atoms,
    directions: np.ndarray,
    max_atoms: int,
    engine: Engine | None,
    progress: bool = False,
) -> np.ndarray:
    """Multiply the Hessian with directions (n, n_atoms, 3), a few at a time."""
    arrange = model.arrangement()  # once for all passes
    structures = build_crystal_batch([atoms], model.cutoff)
    batch = arrange(structures).to(model.device)

    def multiply(some: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            result = model.derivatives(
                batch,
                tangents=torch.from_numpy(some).to(model.device).transpose(0, 1),
                forces=False,
                stress=False,
                engine=engine,
            )
        assert result.hvp is not None
        return np.asarray(result.hvp.transpose(0, 1).cpu().numpy())

    per_pass = max(1, max_atoms // len(atoms))
    return np.concatenate(
        all_passes(multiply, directions, per_pass, "Hessian", progress)
    )


def displaced_forces(
    model: Potential,
    atoms: ase.Atoms,
    displaced: np.ndarray,
    max_atoms: int,
    progress: bool = False,
) -> list[np.ndarray]:
    """Forces (n_atoms, 3) at each of several positions (n, n_atoms, 3).

    Raises:
        DivergenceError: one is not finite.
    """
    moved = []
    for positions in displaced:
        moved.append(atoms.copy())
        moved[-1].positions = positions
    if not isinstance(model, EnergyModel):
        forces = []
        calculated = atoms.copy()
        calculated.calc = model
        for structure in _bar(moved, "displacements", progress):
            calculated.positions = structure.positions
            forces.append(np.array(calculated.get_forces(), dtype=np.float64))
        check_finite(forces, "forces")
        return forces

    def forces_of(some: np.ndarray) -> np.ndarray:
        batch = build_crystal_batch([moved[i] for i in some], model.cutoff)
        with torch.no_grad():
            result = model.derivatives(batch.to(model.device), stress=False)
        assert result.forces is not None
        return np.asarray(result.forces.cpu().numpy().reshape(-1, len(atoms), 3))

    per_pass = max(1, max_atoms // len(atoms))
    numbers = np.arange(len(moved))
    found = all_passes(forces_of, numbers, per_pass, "displacements", progress)
    forces = list(np.concatenate(found))
    check_finite(forces, "forces")
    return forces


def _displaced_forces(
    model: Potential,
    phonon: Phonopy,
    first_atoms: Sequence[dict[str, Any]],
    max_atoms: int,
    progress: bool,
) -> list[np.ndarray]:
    """Forces (n_atoms, 3) of each displaced supercell."""
    displaced = np.repeat(phonon.supercell.positions[None], len(first_atoms), axis=0)
    for positions, entry in zip(displaced, first_atoms, strict=True):
        positions[entry["number"]] += entry["displacement"]
    return displaced_forces(model, supercell_of(phonon), displaced, max_atoms, progress)


def supercell_of(phonon: Phonopy) -> ase.Atoms:
    """The supercell of a phonon calculation, as ASE has it."""
    supercell = phonon.supercell
    return ase.Atoms(
        numbers=supercell.numbers,
        cell=supercell.cell,
        positions=supercell.positions,
        pbc=True,
    )


def all_passes(
    compute: Callable[[np.ndarray], np.ndarray],
    items: np.ndarray,
    per_pass: int,
    what: str,
    progress: bool,
) -> list[np.ndarray]:
    """Results of all passes, with fewer items each where memory runs out.

    Args:
        compute: results of some items.
        items: (n_items, ...).
        per_pass: most items of a pass.
        what: is computed, for the progress bar.
        progress: show it.
    """
    found = []
    with tqdm(total=len(items), desc=what, leave=False, disable=not progress) as bar:
        for result in in_passes(compute, items, per_pass):
            found.append(result)
            bar.update(len(result))
    return found


def _bar(items: Any, what: str, progress: bool) -> Iterator[Any]:
    return iter(tqdm(items, desc=what, leave=False, disable=not progress))
