"""Spectra of a potential and of its reference, and losses on their properties."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from ase.data import atomic_masses
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.memory import in_passes
from pft_lightning.losses.properties import Property, PropertyErrors
from pft_lightning.physics.dynamical_matrix import Waves, find_waves
from pft_lightning.physics.element_densities import element_densities
from pft_lightning.physics.force_constants import ForceConstants
from pft_lightning.physics.hessian_rows import products_to_rows, unit_tangents
from pft_lightning.physics.property_probes import weigh
from pft_lightning.physics.vibrations import Spectrum
from pft_lightning.types import Engine


# Columns of one pass; more need more memory.
_COLUMNS_PER_PASS = 8


def hessian_rows(
    model: EnergyModel, structure: Batch, engine: Engine | None = None
) -> np.ndarray:
    """Compute the Hessian of the atoms of one primitive cell, without a graph.

    Args:
        model: The potential.
        structure: Neutral batch of one structure with force constants.
        engine: How the products are differentiated; None is the faster way.

    Returns:
        (n_primitive, n_atoms, 3, 3), float64, eV/Å², in the layout of the force
        constants, see ``products_to_rows``.
    """
    (constants,) = structure[keys.FORCE_CONSTANTS]
    own = constants.representatives()
    columns = unit_tangents(own, constants.n_atoms)

    def multiply(some: range) -> np.ndarray:
        with torch.no_grad():
            hvp = model.derivatives(
                structure,
                tangents=torch.from_numpy(columns[:, some.start : some.stop]).to(
                    model.device
                ),
                forces=False,
                stress=False,
                engine=engine,
            ).hvp
        assert hvp is not None
        return hvp.cpu().double().numpy()

    passes = in_passes(multiply, range(columns.shape[1]), _COLUMNS_PER_PASS)
    return products_to_rows(np.concatenate(list(passes), axis=1), own)


@dataclass(frozen=True, slots=True)
class ComparedSpectra:
    """Properties of one structure, and what their weighted losses depend on.

    Attributes:
        waves: of its cell.
        losses: by name.
        gradient: (n_q, 3 n_primitive, 3 n_primitive), of their weighted sum by the
            dynamical matrices.
    """

    waves: Waves
    losses: dict[Property, float]
    gradient: torch.Tensor

    def directions(
        self, constants: ForceConstants, signs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tangents and cotangents of the gradient, see ``weigh``."""
        return weigh(self.waves, self.gradient, constants, signs)


def compare_spectra(
    model: EnergyModel,
    structure: Batch,
    errors: PropertyErrors,
    weights: Mapping[Property, float],
    engine: Engine | None = None,
) -> ComparedSpectra | None:
    """Compare the properties of a potential with those of the force constants.

    Args:
        model: The potential.
        structure: Neutral batch of one structure with force constants.
        errors: How they are compared.
        weights: Of the losses, by property.
        engine: How products are differentiated; None is the faster way.

    Returns:
        None where nothing vibrates: at Γ with a single atom in the primitive cell.
    """
    (constants,) = structure[keys.FORCE_CONSTANTS]
    numbers, positions, cell = (
        structure[name].cpu().numpy()
        for name in (keys.ATOMIC_NUMBERS, keys.POSITIONS, keys.CELL)
    )
    masses = atomic_masses[numbers]
    waves = find_waves(constants, positions, cell.reshape(3, 3), masses)

    _, kinds = np.unique(numbers[constants.representatives()], return_inverse=True)
    elements = torch.from_numpy(kinds)

    def spectrum(matrices: torch.Tensor) -> Spectrum:
        keep = errors.assignment == "overlap"
        found = Spectrum.of(matrices, waves.weights, waves.is_gamma, keep_modes=keep)
        densities = partial(element_densities, matrices, waves.weights, elements)
        return replace(found, by_element=densities)

    reference = spectrum(waves.matrices(torch.from_numpy(constants.compact)))
    if not bool(reference.weights.any()):
        return None

    def losses_of(matrices: torch.Tensor) -> dict[Property, torch.Tensor]:
        found = spectrum(matrices)
        return {name: errors.loss(name, found, reference) for name in weights}

    return differentiate_losses(model, structure, waves, losses_of, weights, engine)


def differentiate_losses(
    model: EnergyModel,
    structure: Batch,
    waves: Waves,
    losses_of: Callable[[torch.Tensor], Mapping[Property, torch.Tensor]],
    weights: Mapping[Property, float],
    engine: Engine | None = None,
) -> ComparedSpectra:
    """Losses on the dynamical matrices of a potential, and their exact gradient.

    Args:
        model: The potential.
        structure: Neutral batch of one structure, with the layout of force constants.
        waves: Of its cell, all of them or some.
        losses_of: Gives losses of the matrices, differentiable.
        weights: Of the losses, by property.
        engine: How products are differentiated; None is the faster way.
    """
    rows = torch.from_numpy(hessian_rows(model, structure, engine))
    with torch.enable_grad():  # validations have it off
        matrices = waves.matrices(rows).requires_grad_()
        losses = losses_of(matrices)
        weighted = [weights[name] * loss for name, loss in losses.items()]
        (gradient,) = torch.autograd.grad(torch.stack(weighted).sum(), matrices)
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    # Changes of the matrices are Hermitian, so the other part has no effect.
    return ComparedSpectra(waves, values, (gradient + gradient.mH) / 2)
