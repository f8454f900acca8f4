"""Derivatives of energies whose Hessian is known in closed form."""

from __future__ import annotations

import pytest
import torch

from pft_lightning.errors import ConfigError, NotDifferentiableError, ShapeError
from pft_lightning.physics import hvp
from pft_lightning.physics.direction import along
from pft_lightning.physics.hvp import compute_derivatives, default_engine


ENGINES = ["forward_over_reverse", "reverse_over_reverse"]
N_ATOMS = 4


class Quartic(torch.nn.Module):
    """Two structures of two atoms: energy k |r|⁴ / 4 + strain terms, per structure."""

    def __init__(self) -> None:
        super().__init__()
        self.stiffness = torch.nn.Parameter(torch.tensor(1.5).double())
        self.calls = 0

    def forward(self, positions: torch.Tensor, strain: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        squares = positions.square().sum(dim=1).square().reshape(2, 2).sum(dim=1)
        # Not symmetric in the strain, so that symmetrising it shows.
        return self.stiffness * (squares / 4 + strain[:, 0, 1] + strain[:, 2, 2] ** 2)

    def hvp(self, positions: torch.Tensor, tangents: torch.Tensor) -> torch.Tensor:
        r = positions[:, None]
        along = (r * tangents).sum(-1, keepdim=True)
        square = r.square().sum(-1, keepdim=True)
        return self.stiffness * (square * tangents + 2 * along * r)


@pytest.fixture
def energy() -> Quartic:
    return Quartic()


@pytest.fixture
def positions() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N_ATOMS, 3, generator=generator).double()


@pytest.fixture
def tangents() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N_ATOMS, 3, 3, generator=generator).double()


VOLUMES = torch.tensor([2.0, 0.0]).double()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stress", [True, False])
@pytest.mark.parametrize("n_probes", [1, 3])
def test_closed_form(energy, positions, tangents, engine, stress, n_probes):
    tangents = tangents[:, :n_probes]
    result = compute_derivatives(
        energy, positions, VOLUMES, tangents=tangents, stress=stress, engine=engine
    )
    strain = torch.zeros(2, 3, 3).double()
    assert torch.allclose(result.energy, energy(positions, strain))
    square = positions.square().sum(1, keepdim=True)
    assert torch.allclose(result.forces, -1.5 * square * positions)
    assert result.hvp.shape == (N_ATOMS, n_probes, 3)
    assert torch.allclose(result.hvp, energy.hvp(positions, tangents))
    if stress:
        expected = torch.zeros(2, 3, 3).double()
        expected[0, 0, 1] = expected[0, 1, 0] = 1.5 / 2 / 2.0
        assert torch.equal(result.stress, expected)  # zero, not NaN, without volume
    else:
        assert result.stress is None


@pytest.mark.parametrize("engine", ENGINES)
def test_energy_is_evaluated_once(energy, positions, tangents, engine):
    compute_derivatives(energy, positions, VOLUMES, tangents=tangents, engine=engine)
    assert energy.calls == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_parameter_gradient_of_a_loss(energy, positions, tangents, engine):
    result = compute_derivatives(
        energy, positions, VOLUMES, tangents=tangents, engine=engine
    )
    (gradient,) = torch.autograd.grad(result.hvp.square().sum(), energy.stiffness)
    # H is proportional to the stiffness.
    expected = 2 * energy.hvp(positions, tangents).square().sum() / 1.5
    assert torch.allclose(gradient, expected)
    for value in (result.energy, result.forces, result.stress):
        assert value.requires_grad


@pytest.mark.parametrize("engine", ENGINES)
def test_no_grad_gives_the_same_without_a_graph(energy, positions, tangents, engine):
    options = {"tangents": tangents, "engine": engine}
    kept = compute_derivatives(energy, positions, VOLUMES, **options)
    with torch.no_grad():
        free = compute_derivatives(energy, positions, VOLUMES, **options)
        plain = compute_derivatives(energy, positions, VOLUMES)
    for name in ("energy", "forces", "stress", "hvp"):
        assert torch.equal(getattr(free, name), getattr(kept, name))
        assert not getattr(free, name).requires_grad
    assert torch.equal(plain.forces, free.forces)
    assert not plain.forces.requires_grad


def test_only_what_was_asked_for(energy, positions):
    result = compute_derivatives(
        energy, positions, VOLUMES, forces=False, stress=False, tangents=None
    )
    assert result.forces is None
    assert result.stress is None
    assert result.hvp is None
    result = compute_derivatives(energy, positions, VOLUMES, forces=False)
    assert result.forces is None
    assert result.stress.shape == (2, 3, 3)


@pytest.mark.parametrize("engine", ENGINES)
def test_energy_that_does_not_depend_on_positions(positions, tangents, engine):
    def constant(positions, strain):
        return strain.sum(dim=(1, 2)) * 0 + 3.0

    def number(positions, strain):
        return positions.new_ones(2)

    def linear(positions, strain):
        return positions.reshape(2, -1).sum(dim=1)

    for function in (constant, number, linear):
        result = compute_derivatives(
            function, positions, VOLUMES, tangents=tangents, engine=engine
        )
        assert torch.equal(result.hvp, torch.zeros_like(tangents))
        assert torch.equal(result.stress, torch.zeros(2, 3, 3).double())


def test_positions_are_left_alone(energy, positions):
    compute_derivatives(energy, positions, VOLUMES)
    assert not positions.requires_grad


def test_tensors_made_under_inference_mode(energy, tangents):
    with torch.inference_mode():
        positions = torch.ones(N_ATOMS, 3).double()
    result = compute_derivatives(energy, positions, VOLUMES, tangents=tangents)
    assert torch.allclose(result.hvp, energy.hvp(torch.ones(N_ATOMS, 3), tangents))


def test_inference_mode_is_refused(energy, positions):
    with (
        torch.inference_mode(),
        pytest.raises(NotDifferentiableError, match="inference_mode=False"),
    ):
        compute_derivatives(energy, positions, VOLUMES)


class _NoForwardRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs):
        ctx.save_for_backward(inputs)
        return inputs**2

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


def test_missing_rule_names_the_other_engine(positions, tangents):
    def energy(positions, strain):
        return _NoForwardRule.apply(positions).reshape(2, -1).sum(dim=1)

    with pytest.raises(NotDifferentiableError, match="engine='reverse_over_reverse'"):
        compute_derivatives(
            energy, positions, VOLUMES, tangents=tangents, engine="forward_over_reverse"
        )
    result = compute_derivatives(
        energy, positions, VOLUMES, tangents=tangents, engine="reverse_over_reverse"
    )
    assert torch.allclose(result.hvp, 2 * tangents)


def test_errors_of_the_energy_pass_through(positions, tangents):
    def energy(positions, strain):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        compute_derivatives(energy, positions, VOLUMES, tangents=tangents)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": torch.zeros(4, 2)}, r"positions has shape \(4, 2\)"),
        ({"volumes": torch.zeros(2, 1)}, r"volumes has shape \(2, 1\)"),
        ({"tangents": torch.zeros(4, 3)}, r"Use tangents\[:, None, :\]"),
        ({"tangents": torch.zeros(3, 1, 3)}, r"with n_atoms=4"),
        ({"tangents": torch.zeros(4, 0, 3)}, r"no probe"),
    ],
)
def test_wrong_shapes(energy, positions, change, message):
    arguments = {"positions": positions, "volumes": VOLUMES, **change}
    with pytest.raises(ShapeError, match=message):
        compute_derivatives(energy, **arguments)


def test_the_engine_is_chosen_by_device_and_number_of_probes(
    energy, positions, tangents, monkeypatch
):
    taken = []
    for name in ("_forward_over_reverse", "_reverse_over_reverse"):
        compute = getattr(hvp, name)
        monkeypatch.setattr(
            hvp,
            name,
            lambda *args, name=name, compute=compute: (
                taken.append(name),
                compute(*args),
            )[1],
        )
    for engine in (None, "forward_over_reverse"):
        compute_derivatives(
            energy, positions, VOLUMES, tangents=tangents, engine=engine
        )
    assert taken == ["_reverse_over_reverse", "_forward_over_reverse"]
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    on_cuda = [default_engine(cuda, n_probes) for n_probes in (1, 5, 6, 16)]
    assert on_cuda == ["reverse_over_reverse"] * 2 + ["forward_over_reverse"] * 2
    assert default_engine(cpu, 16) == "reverse_over_reverse"


def test_unknown_engine(energy, positions):
    with pytest.raises(ConfigError, match="expected one of"):
        compute_derivatives(energy, positions, VOLUMES, engine="forward")


def test_backward_passes_along_a_direction_stay_in_the_thread_that_knows_it():
    with along(torch.ones(1, 1, 3)):
        assert not torch._C._is_multithreading_enabled()
    assert torch._C._is_multithreading_enabled()
