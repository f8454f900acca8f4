"""Third-order force constants of a potential in the supercell of a calculation."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import ase
import numpy as np
import torch

from pft_lightning.backends.base import EnergyModel
from pft_lightning.data.third_order import check_phono3py, copy_cells, quiet
from pft_lightning.errors import ConfigError, NotDifferentiableError
from pft_lightning.evaluation.failures import check_finite
from pft_lightning.evaluation.force_constants import (
    Potential,
    all_passes,
    displaced_forces,
    in_float64,
)
from pft_lightning.graphs import build_crystal_batch
from pft_lightning.physics.third_order_constants import (
    symmetrise_third,
    third_from_array,
)
from pft_lightning.types import Engine


if TYPE_CHECKING:
    from phono3py import Phono3py


ThirdOrderMethod = Literal["third_derivatives", "finite_displacement"]


def third_order_force_constants(
    model: Potential,
    phono3py: Phono3py,
    *,
    method: ThirdOrderMethod = "third_derivatives",
    displacement: float = 0.03,
    max_atoms: int = 256,
    engine: Engine | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Compute third-order force constants of a potential.

    Both methods go over the pairs that phono3py finds inequivalent, and leave it to
    its solver to expand them by symmetry; the acoustic sum rules and permutation
    symmetry are imposed. All arithmetic is float64.

    ``third_derivatives`` takes the exact third derivative of the energy along each
    pair; opposite directions, which only finite differences need, are left out.
    ``finite_displacement`` takes forces on supercells with two displaced atoms, those
    of the data set that ``phono3py`` holds or, without pairs, of ``displacement``;
    this is what phono3py does with DFT, its error by fourth derivatives included.

    Args:
        model: from ``load_model``, or an ASE calculator (``finite_displacement``
            only).
        phono3py: ``phono3py.Phono3py``, in eV and Å; it is left as it is.
        method: ``third_derivatives`` or ``finite_displacement``.
        displacement: Å, of both atoms, where ``phono3py`` has no pairs.
        max_atoms: Atoms of a pass, counted once per pair; what bounds memory.
        engine: see ``pft_lightning.physics.hvp.compute_derivatives``.
        progress: Show a progress bar.

    Returns:
        (n_primitive, n_atoms, n_atoms, 3, 3, 3), eV/Å³, phono3py's layout.

    Raises:
        ConfigError: unknown method, other units, or elements that the model lacks.
        NotDifferentiableError: exact third derivatives of an ASE calculator.
        BackendUnavailableError: phono3py is not there, or too old.
    """
    check_phono3py("third-order force constants")
    _check(model, phono3py, method, displacement, max_atoms)
    if isinstance(model, EnergyModel):
        model = in_float64(model)
    work = copy_cells(phono3py)
    if method == "third_derivatives":
        assert isinstance(model, EnergyModel)
        # Of length 1, so that forces are third derivatives.
        work.generate_displacements(distance=1.0, is_plusminus=False)
        dataset: Any = work.dataset
        _set_third_derivatives(
            model, _supercell(work), dataset, max_atoms, engine, progress
        )
    else:
        dataset = _displaced_pairs(phono3py, work, displacement)
        _set_forces(model, _supercell(work), dataset, max_atoms, progress)
    return _solve(work, dataset)


def _displaced_pairs(phono3py: Phono3py, work: Phono3py, displacement: float) -> Any:
    """Give the pairs that a calculation has, else those that phono3py makes."""
    given: Any = phono3py.dataset
    if given is not None and "first_atoms" in given:
        return copy.deepcopy(given)
    work.generate_displacements(distance=displacement)
    return work.dataset


def _solve(work: Phono3py, dataset: Any) -> np.ndarray:
    """Expand pairs by symmetry, and symmetrise."""
    work.dataset = dataset
    with quiet():
        work.produce_fc3()
    found = third_from_array(np.asarray(work.fc3), work.primitive)
    return symmetrise_third(found).compact


def _set_third_derivatives(
    model: EnergyModel,
    atoms: ase.Atoms,
    dataset: dict[str, Any],
    max_atoms: int,
    engine: Engine | None,
    progress: bool,
) -> None:
    """Put third derivatives in place of forces, so that the solver finds them.

    It takes the change of forces by the second displacement, subtracts the force
    constants of second order that it finds of single displacements, and divides by
    both displacements. With no forces on single displacements nothing is subtracted.
    """
    directions = []
    for first in dataset["first_atoms"]:
        first["forces"] = np.zeros((len(atoms), 3))
        for second in first["second_atoms"]:
            pair = np.zeros((len(atoms), 2, 3))
            pair[first["number"], 0] = first["displacement"]
            pair[second["number"], 1] = second["displacement"]
            directions.append(pair)
    third = multiply_third(
        model, atoms, np.array(directions), max_atoms, engine, progress
    )
    entries = (s for first in dataset["first_atoms"] for s in first["second_atoms"])
    for second, found in zip(entries, third, strict=True):
        second["forces"] = -found


def multiply_third(
    model: EnergyModel,
    atoms: ase.Atoms,
    pairs: np.ndarray,
    max_atoms: int,
    engine: Engine | None,
    progress: bool = False,
    strain: np.ndarray | None = None,
) -> np.ndarray:
    """Take third derivatives of the energy along pairs of directions.

    Args:
        model: in float64.
        atoms: where.
        pairs: (n_pairs, n_atoms, 2, 3), directions u and w.
        max_atoms: of a pass, counted once per pair.
        engine: None chooses by device.
        progress: show a progress bar.
        strain: (3, 3), symmetric, that every w holds beside its displacements.

    Returns:
        (n_pairs, n_atoms, 3), eV/Å³ times both units.
    """
    arrange = model.arrangement()  # once for all passes
    batch = arrange(build_crystal_batch([atoms], model.cutoff)).to(model.device)

    def strains(n_pairs: int) -> torch.Tensor | None:
        if strain is None:
            return None
        both = torch.from_numpy(np.stack([np.zeros((3, 3)), strain]))
        return both.to(model.device).expand(1, n_pairs, 2, 3, 3)

    def multiply(some: np.ndarray) -> np.ndarray:
        found = model.derivatives(
            batch,
            pairs=torch.from_numpy(some).to(model.device).transpose(0, 1),
            strain_pairs=strains(len(some)),
            forces=False,
            stress=False,
            engine=engine,
        )
        assert found.third is not None
        return np.asarray(found.third.detach().transpose(0, 1).cpu().numpy())

    per_pass = max(1, max_atoms // len(atoms))
    passes = all_passes(multiply, pairs, per_pass, "third derivatives", progress)
    found = np.concatenate(passes)
    check_finite(found, "third derivatives")
    return found


def _set_forces(
    model: Potential,
    atoms: ase.Atoms,
    dataset: dict[str, Any],
    max_atoms: int,
    progress: bool,
) -> None:
    """Put the forces of a potential into a data set with pairs."""
    entries, displaced = [], []
    for first in dataset["first_atoms"]:
        entries.append(first)
        displaced.append(_moved(atoms, first))
    for first in dataset["first_atoms"]:
        for second in first["second_atoms"]:
            entries.append(second)
            displaced.append(_moved(atoms, first, second))
    forces = displaced_forces(model, atoms, np.array(displaced), max_atoms, progress)
    for entry, found in zip(entries, forces, strict=True):
        entry["forces"] = found


def _moved(atoms: ase.Atoms, *entries: dict[str, Any]) -> np.ndarray:
    positions = atoms.positions.copy()
    for entry in entries:
        positions[entry["number"]] += entry["displacement"]
    return positions


def _supercell(phono3py: Phono3py) -> ase.Atoms:
    supercell = phono3py.supercell
    return ase.Atoms(
        numbers=supercell.numbers,
        cell=supercell.cell,
        positions=supercell.positions,
        pbc=True,
    )


def _check(
    model: Potential, phono3py: Any, method: str, displacement: float, max_atoms: int
) -> None:
    if method not in get_args(ThirdOrderMethod):
        raise ConfigError(
            f"method={method!r}; expected one of "
            f"{', '.join(get_args(ThirdOrderMethod))}."
        )
    if not isinstance(displacement, (int, float)) or not 0 < displacement < math.inf:
        raise ConfigError(
            f"displacement={displacement!r}; a positive length is needed."
        )
    if not isinstance(max_atoms, int) or max_atoms < 1:
        raise ConfigError(f"max_atoms={max_atoms!r}; an integer of at least 1.")
    from phono3py import Phono3py

    if not isinstance(phono3py, Phono3py):
        raise ConfigError(
            f"phono3py is a {type(phono3py).__name__}; expected a phono3py.Phono3py "
            "object. A file? pft.read_phono3py reads it."
        )
    if not isinstance(model, EnergyModel) and method == "third_derivatives":
        raise NotDifferentiableError(
            f"method={method!r} needs third derivatives, which an ASE calculator "
            f"({type(model).__name__}) does not give. Use "
            "method='finite_displacement'."
        )
    calculator = phono3py.calculator or "vasp"
    if calculator != "vasp":
        raise ConfigError(
            f"the Phono3py object is in the units of {calculator}; eV and Å are "
            "needed. pft.read_phono3py converts files when it reads them."
        )
