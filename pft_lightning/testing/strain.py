"""Second and third derivatives by strain against differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.base import EnergyModel
from pft_lightning.testing.differences import (
    THIRD_STEP,
    compute_richardson_derivative,
    parameter_gradient_error,
    random_tangents,
    relative_error,
    third_of,
)
from pft_lightning.types import Engine


_ENGINES = get_args(Engine)


@dataclass(frozen=True, slots=True)
class StrainErrors:
    """Relative errors of products along directions of displacements and strain.

    Attributes:
        finite_difference: against differences of the gradient by both.
        engines: of one against the other, of third derivatives too.
        third: derivatives along a displacement and a displacement with a strain,
            against differences of the products with the first.
        symmetry: of the second derivatives, the mixed ones among them.
        parameters: of the gradient by parameters, along a strain that moves no atom
            within the cell.
    """

    finite_difference: float
    engines: float
    third: float
    symmetry: float
    parameters: float


def check_strain(model: EnergyModel, batch: Batch) -> StrainErrors:
    """Measure second and third derivatives by positions and strain of one crystal.

    Args:
        model: in float64.
        batch: of one crystal, with edges beyond the cutoff.
    """
    n_atoms = int(batch.num_nodes)
    tangents = random_tangents(n_atoms, 2, model.device)
    strains = _random_strains(2, model.device)
    found = _products(model, batch, tangents, strains)
    other = _products(model, batch, tangents, strains, "reverse_over_reverse")

    def work(along: int, of: int) -> torch.Tensor:
        by_strain = (strains[0, along] * found[1][of]).sum()
        return (tangents[:, along] * found[0][:, of]).sum() + by_strain

    numerical = _differences(model, batch, tangents[:, 0], strains[:, 0])
    thirds = [_third(model, batch, tangents, strains, engine) for engine in _ENGINES]
    changes = _third_differences(model, batch, tangents, strains[:, 1])
    return StrainErrors(
        finite_difference=max(
            relative_error(found[0][:, 0], numerical[0]),
            relative_error(found[1][0], numerical[1]),
        ),
        engines=max(*map(relative_error, found, other), relative_error(*thirds)),
        third=relative_error(thirds[0], changes),
        symmetry=float((work(0, 1) - work(1, 0)).abs() / found[1].abs().max()),
        parameters=_parameters(model, batch, strains[:, :1]),
    )


def strain_without_a_cell(model: EnergyModel, batch: Batch) -> float:
    """Largest product along a strain where none has a meaning, which is to be 0.

    Args:
        model: of any precision.
        batch: of one structure without a cell.
    """
    products = _products(model, batch, None, _random_strains(2, model.device))
    return float(max(product.abs().max() for product in products))


def _parameters(model: EnergyModel, batch: Batch, strains: torch.Tensor) -> float:
    def loss(engine: Engine) -> torch.Tensor:
        result = model.derivatives(batch, strain_tangents=strains, engine=engine)
        assert result.hvp is not None
        assert result.strain_hvp is not None
        return result.hvp.square().mean() + result.strain_hvp.square().mean()

    return parameter_gradient_error(model, loss)


def _products(
    model: EnergyModel,
    batch: Batch,
    tangents: torch.Tensor | None,
    strains: torch.Tensor,
    engine: Engine = "forward_over_reverse",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of positions (n_atoms, n_probes, 3) and of strain (n_probes, 3, 3)."""
    result = model.derivatives(
        batch, tangents=tangents, strain_tangents=strains, engine=engine
    )
    assert result.hvp is not None
    assert result.strain_hvp is not None
    return result.hvp.detach(), result.strain_hvp[0].detach()


def _differences(
    model: EnergyModel, batch: Batch, tangent: torch.Tensor, strain: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change of both gradients along a direction, by differences."""
    prepared = model.prepare(batch)
    start = prepared[keys.POSITIONS].detach()

    def gradient(amplitude: float) -> torch.Tensor:
        positions = (start + amplitude * tangent).requires_grad_()
        strained = (amplitude * strain).requires_grad_()
        energy = model.energy(prepared, positions, strained).sum()
        by_both = torch.autograd.grad(energy, (positions, strained))
        return torch.cat([by_both[0], by_both[1][0]])

    change = compute_richardson_derivative(gradient)
    return change[: len(start)], change[len(start) :]


def _third(
    model: EnergyModel,
    batch: Batch,
    tangents: torch.Tensor,
    strains: torch.Tensor,
    engine: Engine,
) -> torch.Tensor:
    """Third derivatives (n_atoms, 3) along the first tangent and, strained, both."""
    pair = strains[:, None].clone()
    pair[:, :, 0] = 0.0
    result = model.derivatives(
        batch, pairs=tangents[:, None], strain_pairs=pair, engine=engine
    )
    return third_of(result)


def _third_differences(
    model: EnergyModel, batch: Batch, tangents: torch.Tensor, strain: torch.Tensor
) -> torch.Tensor:
    """The same from products with the first tangent, which the second one moves."""
    prepared = model.prepare(batch)
    start, (first, second) = prepared[keys.POSITIONS].detach(), tangents.unbind(1)

    def product(amplitude: float) -> torch.Tensor:
        positions = (start + amplitude * second).requires_grad_()
        energy = model.energy(prepared, positions, amplitude * strain).sum()
        (gradient,) = torch.autograd.grad(energy, positions, create_graph=True)
        return torch.autograd.grad((gradient * first).sum(), positions)[0]

    return compute_richardson_derivative(product, step=THIRD_STEP)


def _random_strains(n_probes: int, device: torch.device) -> torch.Tensor:
    """Strains (1, n_probes, 3, 3), not symmetric.

    Small ones: a step moves no neighbour farther than one of the tangents does.
    """
    return 0.05 * random_tangents(3, n_probes, device).movedim(0, 1)[None]
