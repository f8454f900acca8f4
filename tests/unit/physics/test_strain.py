"""Directions that hold displacements and strain, of an energy known in closed form."""

from __future__ import annotations

import pytest
import torch

from pft_lightning.errors import ShapeError
from pft_lightning.physics.direction import along, current_direction, strained
from pft_lightning.physics.hvp import compute_derivatives


ENGINES = ["forward_over_reverse", "reverse_over_reverse"]
N_ATOMS = 4
# Of the two structures the second is not periodic.
VOLUMES = torch.tensor([2.0, 0.0]).double()
STRUCTURE = torch.tensor([0, 0, 1, 1])


class Coupled(torch.nn.Module):
    """Energy k Σ |r|² (1 + r·ε r) / 2 + 3 k (tr ε)² of each structure."""

    def __init__(self) -> None:
        super().__init__()
        self.stiffness = torch.nn.Parameter(torch.tensor(1.5).double())

    def forward(self, positions: torch.Tensor, strain: torch.Tensor) -> torch.Tensor:
        symmetric = (strain + strain.transpose(1, 2)) / 2
        square = positions.square().sum(dim=1)
        per_atom = torch.einsum(
            "na,nab,nb->n", positions, symmetric[STRUCTURE], positions
        )
        local = (square * (1 + per_atom) / 2).reshape(2, 2).sum(dim=1)
        trace = strain.diagonal(dim1=1, dim2=2).sum(dim=1)
        return self.stiffness * (local + 3 * trace**2)


@pytest.fixture
def energy() -> Coupled:
    return Coupled()


def draw(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).double()


def expected(positions, tangents, strains):
    """Products of ``Coupled`` at no strain, by hand."""
    e = (strains + strains.transpose(-1, -2)) / 2 * (VOLUMES > 0)[:, None, None, None]
    r, per_atom = positions[:, None], e[STRUCTURE]
    square = r.square().sum(-1, keepdim=True)
    turned = torch.einsum("npab,nb->npa", per_atom, positions)
    quadratic = (r * turned).sum(-1, keepdim=True)
    hvp = 1.5 * (tangents + r * quadratic + square * turned)
    outer = torch.einsum("npa,nb->npab", tangents, positions)
    moved = (tangents * r).sum(-1)[..., None, None]
    fixed = positions[:, None, :, None] * positions[:, None, None, :]
    of_atoms = moved * fixed + square[..., None] * (outer + outer.mT) / 2
    of_crystal = of_atoms.reshape(2, 2, *of_atoms.shape[1:]).sum(dim=1)
    trace = e.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    strain_hvp = 1.5 * (of_crystal + 6 * trace * torch.eye(3).double())
    return hvp, strain_hvp * (VOLUMES > 0)[:, None, None, None]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n_probes", [1, 3])
@pytest.mark.parametrize("moved", [True, False])
def test_closed_form(energy, engine, n_probes, moved):
    positions, strains = draw(N_ATOMS, 3), draw(2, n_probes, 3, 3)
    tangents = draw(N_ATOMS, n_probes, 3) if moved else None
    found = compute_derivatives(
        energy,
        positions,
        VOLUMES,
        tangents=tangents,
        strain_tangents=strains,
        engine=engine,
    )
    still = torch.zeros(N_ATOMS, n_probes, 3).double()
    hvp, strain_hvp = expected(positions, tangents if moved else still, strains)
    assert torch.allclose(found.hvp, hvp, rtol=1e-13, atol=1e-13)
    assert torch.allclose(found.strain_hvp, strain_hvp, rtol=1e-13, atol=1e-13)
    plain = compute_derivatives(energy, positions, VOLUMES)
    assert torch.allclose(found.energy, plain.energy)
    assert torch.allclose(found.forces, plain.forces)
    assert torch.allclose(found.stress, plain.stress)


@pytest.mark.parametrize("engine", ENGINES)
def test_parameter_gradient_of_a_loss_on_strain(energy, engine):
    strains = draw(2, 1, 3, 3)

    def loss():
        found = compute_derivatives(
            energy, draw(N_ATOMS, 3), VOLUMES, strain_tangents=strains, engine=engine
        )
        return found.strain_hvp.square().sum() + found.hvp.square().sum()

    (gradient,) = torch.autograd.grad(loss(), energy.stiffness)
    # All second derivatives are proportional to the stiffness.
    assert torch.allclose(gradient, 2 * loss() / energy.stiffness)
    with torch.no_grad():
        free = loss()
    assert not free.requires_grad
    assert torch.equal(free, loss().detach())


def test_only_what_was_asked_for(energy):
    found = compute_derivatives(
        energy,
        draw(N_ATOMS, 3),
        VOLUMES,
        strain_tangents=draw(2, 1, 3, 3),
        forces=False,
        stress=False,
    )
    assert found.forces is None
    assert found.stress is None
    assert compute_derivatives(energy, draw(N_ATOMS, 3), VOLUMES).strain_hvp is None


@pytest.mark.parametrize(
    ("tangents", "strains", "message"),
    [
        (None, draw(1, 2, 3, 3), r"with n_structures=2"),
        (None, draw(2, 3, 3), r"strain_tangents has shape \(2, 3, 3\)"),
        (None, draw(2, 0, 3, 3), r"holds 0 probes; expected .* at least 1"),
        (draw(N_ATOMS, 3, 3), draw(2, 2, 3, 3), r"2 probes and tangents 3"),
    ],
)
def test_wrong_shapes(energy, tangents, strains, message):
    with pytest.raises(ShapeError, match=message):
        compute_derivatives(
            energy,
            draw(N_ATOMS, 3),
            VOLUMES,
            tangents=tangents,
            strain_tangents=strains,
        )


def test_no_pair_of_atoms_is_still_under_strain():
    seen = []

    class Energy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, positions):
            return positions.clone()

        @staticmethod
        def backward(ctx, gradient):
            seen.append(current_direction())
            return gradient

    def energy(positions, strain):
        per_atom = Energy.apply(positions).square().sum(dim=1)
        return per_atom.reshape(2, 2).sum(dim=1) + strain.square().sum(dim=(1, 2))

    options = {"engine": "reverse_over_reverse"}
    still = torch.zeros(N_ATOMS, 1, 3).double()
    compute_derivatives(energy, draw(N_ATOMS, 3), VOLUMES, tangents=still, **options)
    assert any(direction is not None for direction in seen)
    seen.clear()
    strains = draw(2, 1, 3, 3)
    compute_derivatives(
        energy, draw(N_ATOMS, 3), VOLUMES, strain_tangents=strains, **options
    )
    assert seen
    assert all(direction is None for direction in seen)
    with strained():
        pass
    with along(still):
        assert current_direction() is not None


@pytest.mark.parametrize("engine", ENGINES)
def test_third_derivatives_beside_strain_are_those_without(energy, engine):
    positions, pairs = draw(N_ATOMS, 3), draw(N_ATOMS, 2, 2, 3)
    options = {"tangents": draw(N_ATOMS, 1, 3), "pairs": pairs, "engine": engine}

    def quartic(positions, strain):
        return energy(positions, strain) * (1 + positions.square().sum())

    plain = compute_derivatives(quartic, positions, VOLUMES, **options)
    found = compute_derivatives(
        quartic, positions, VOLUMES, strain_tangents=draw(2, 1, 3, 3), **options
    )
    assert plain.third.abs().max() > 0.1
    assert torch.allclose(found.third, plain.third, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("moved", [True, False])
def test_third_derivatives_along_strain_are_changes_of_products(energy, engine, moved):
    positions, strains = draw(N_ATOMS, 3), draw(2, 1, 2, 3, 3)
    strains[:, :, 0] = 0  # u is a displacement alone, w also strains
    pairs = draw(N_ATOMS, 1, 2, 3)
    if not moved:
        pairs[:, :, 1] = 0

    def quartic(positions, strain):
        return energy(positions, strain) * (1 + positions.square().sum())

    found = compute_derivatives(
        quartic, positions, VOLUMES, pairs=pairs, strain_pairs=strains, engine=engine
    )
    assert found.hvp is None
    assert found.strain_hvp is None
    of_crystals = strains[:, 0, 1] * (VOLUMES > 0)[:, None, None]

    def product(step):
        return compute_derivatives(
            lambda r, e: quartic(r, e + step * of_crystals),
            positions + step * pairs[:, 0, 1],
            VOLUMES,
            tangents=pairs[:, :, 0],
        ).hvp

    numerical = (product(1e-4) - product(-1e-4)) / 2e-4
    assert numerical.abs().max() > 1
    # The square of the step by the fifth derivatives.
    assert torch.allclose(found.third, numerical, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_pairs_of_strain_alone(energy, engine):
    positions, strains = draw(N_ATOMS, 3), draw(2, 2, 2, 3, 3)
    options = {"strain_pairs": strains, "engine": engine}
    found = compute_derivatives(energy, positions, VOLUMES, **options)
    # The energy is linear in strain but for its trace, which moves no atom.
    assert torch.equal(found.third, torch.zeros(N_ATOMS, 2, 3).double())
    still = compute_derivatives(
        energy, positions, VOLUMES, pairs=draw(N_ATOMS, 2, 2, 3), **options
    )
    assert still.third.abs().max() > 0.1


@pytest.mark.parametrize(
    ("pairs", "strains"),
    [
        (None, draw(1, 2, 2, 3, 3)),
        (None, draw(2, 2, 3, 3)),
        (None, draw(2, 0, 2, 3, 3)),
        (draw(N_ATOMS, 3, 2, 3), draw(2, 2, 2, 3, 3)),
    ],
)
def test_wrong_shapes_of_pairs(energy, pairs, strains):
    with pytest.raises(ShapeError, match=r"strain_pairs has shape .*; expected"):
        compute_derivatives(
            energy, draw(N_ATOMS, 3), VOLUMES, pairs=pairs, strain_pairs=strains
        )
