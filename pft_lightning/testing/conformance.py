"""What the rest of the package relies on in a backend, checked with numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import ase
import numpy as np
import torch
from ase.build import bulk
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.registry import parse_device
from pft_lightning.graphs import build_crystal_batch
from pft_lightning.testing.differences import (
    compute_richardson_derivative,
    hvp_of,
    numerical_hvp,
    numerical_third,
    parameter_gradient_error,
    random_tangents,
    relative_error,
    third_of,
)
from pft_lightning.testing.strain import check_strain, strain_without_a_cell
from pft_lightning.types import Derivatives, Engine


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Relative tolerances in float64, each with what limits it.

    Attributes:
        finite_difference: three central differences extrapolated: rounding of the
            forces divided by the smallest step.
        third_finite_difference: the same of products, which have a fifth of its step
            and less derivatives at a cutoff.
        engines: the same derivative by two orders of summation.
        symmetry: exact properties of H (sum rule, symmetry, batching), limited by
            rounding of some thousand terms.
        rotation: of a model trained in float32 and upcast, whose coupling
            coefficients keep the rounding (5e-11 seen); 1e-14 otherwise.
        parameters: finite differences of a loss that squares second derivatives.
        warm_up: calls before anything is measured; TorchScript optimises (and may
            break derivatives) only from the second or third call on.
    """

    finite_difference: float = 1e-9
    third_finite_difference: float = 1e-8
    engines: float = 1e-12
    symmetry: float = 1e-11
    rotation: float = 1e-9
    parameters: float = 1e-6
    warm_up: int = 5


TOLERANCES: Final = Tolerances()

# Å; edges beyond the cutoff that may come within it while atoms are displaced.
_MARGIN: Final = 0.2


def build_tiny_crystals(
    atomic_numbers: Sequence[int],
    cutoff: float,
    *,
    spacing: float = 2.7,
    seed: int = 0,
) -> dict[str, ase.Atoms]:
    """Rattled, strained structures around the usual special cases.

    Args:
        atomic_numbers: elements to use; the first two of them are.
        cutoff: Å.
        spacing: between neighbours, Å. Finite differences need an energy with enough
            derivatives, so no pair should be near a cutoff where it has few.
        seed: of the displacements.

    Returns:
        ``small`` (2 atoms, cell smaller than the cutoff), ``large`` (cell larger than
        the cutoff) and ``molecule`` (4 atoms, no cell).
    """
    first, second = (list(atomic_numbers) * 2)[:2]
    rng = np.random.default_rng(seed)
    primitive = bulk("NaCl", "rocksalt", a=2 * spacing)
    repeats = max(1, math.floor(cutoff / (2 * spacing)) + 1)
    cubic = bulk("NaCl", "rocksalt", a=2 * spacing, cubic=True)
    # One axis longer than the cutoff is enough and keeps the cell small.
    structures = {"small": primitive, "large": cubic.repeat((repeats, 1, 1))}
    corners = [[0, 0, 0], [1, 0, 0], [0, 1, 0.2], [0.1, 0.3, 1]]
    structures["molecule"] = ase.Atoms("NaClNaCl", spacing * np.array(corners))
    for atoms in structures.values():
        is_first = atoms.numbers == 11
        atoms.numbers = np.where(is_first, first, second)
        atoms.positions += rng.normal(scale=0.06, size=atoms.positions.shape)
        deformation = np.eye(3) + rng.normal(scale=0.02, size=(3, 3))
        atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    return structures


def check_backend_conformance(
    model: EnergyModel,
    structures: dict[str, ase.Atoms] | None = None,
    *,
    tolerances: Tolerances = TOLERANCES,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """Check everything that the rest of the package relies on.

    Args:
        model: in float64; its parameters are put back, and stay on the device.
        structures: by name; default: ``build_tiny_crystals``.
        tolerances: see ``Tolerances``.
        device: to check on, which the model is moved to.

    Returns:
        Largest relative error of each check over the structures.

    Raises:
        AssertionError: one of them exceeds its tolerance.
        ConfigError: there is no such device.
    """
    device = parse_device(device)
    model.to(device)
    assert model.device.type == device.type, "its parameters did not move there"
    assert model.dtype == torch.float64, "load the model with dtype='float64'"
    if structures is None:
        structures = build_tiny_crystals(model.atomic_numbers, model.cutoff)
    measured: dict[str, float] = {}
    limits: dict[str, float] = {}
    for name, atoms in structures.items():
        for check, (error, limit) in _check_structure(model, atoms, tolerances).items():
            limits[check] = limit
            measured[check] = max(measured.get(check, 0.0), error)
            assert error <= limit, (
                f"{check} on {name!r}: relative error {error:.2e} exceeds {limit:.0e}"
            )
    checks = {
        "batching": (_batching(model, list(structures.values())), tolerances.symmetry),
        "copying": (_copying(model, structures), tolerances.symmetry),
        "isolated_atom": (_isolated_atom(model), 0.0),
    }
    for check, (error, limit) in checks.items():
        measured[check] = error
        assert error <= limit, f"{check}: error {error:.2e} exceeds {limit:.0e}"
    return measured


def _check_structure(
    model: EnergyModel, atoms: ase.Atoms, tolerances: Tolerances
) -> dict[str, tuple[float, float]]:
    batch = build_crystal_batch([atoms], model.cutoff + _MARGIN, model.device)
    tangents = random_tangents(len(atoms), 2, model.device)
    for call in range(tolerances.warm_up):
        # Third derivatives take twice as long: two calls of each engine are enough.
        pairs = tangents[:, None] if call >= tolerances.warm_up - 2 else None
        result = _derivatives(model, batch, tangents, pairs=pairs)
        other = _derivatives(model, batch, tangents, "reverse_over_reverse", pairs)
    hvp = hvp_of(result)
    probe, second = tangents[:, 0], tangents[:, 1]
    uniform = torch.ones_like(tangents[:, :1])
    left, right = (second * hvp[:, 0]).sum(), (probe * hvp[:, 1]).sum()
    exact, numerical = tolerances.symmetry, tolerances.finite_difference
    scale = hvp.abs().max()
    errors = {
        "hvp_finite_difference": (
            relative_error(hvp[:, 0], numerical_hvp(model, batch, probe)),
            numerical,
        ),
        "engines": (relative_error(hvp, hvp_of(other)), tolerances.engines),
        "sum_rule": (
            float(hvp_of(_derivatives(model, batch, uniform)).abs().max() / scale),
            exact,
        ),
        "third_finite_difference": (
            relative_error(third_of(result), numerical_third(model, batch, tangents)),
            tolerances.third_finite_difference,
        ),
        "third_engines": (
            relative_error(third_of(result), third_of(other)),
            tolerances.engines,
        ),
        "hessian_symmetry": (float((left - right).abs() / scale), exact),
        "rotation": (_rotation(model, atoms, tangents, hvp), tolerances.rotation),
        "extra_edges": (_extra_edges(model, atoms, tangents, result), exact),
        "parameter_gradient": (
            _parameter_gradient(model, batch, tangents),
            tolerances.parameters,
        ),
    }
    if atoms.pbc.any():
        errors["stress"] = (_stress(model, batch, result), numerical)
        found = check_strain(model, batch)
        errors["strain_finite_difference"] = (found.finite_difference, numerical)
        errors["strain_third"] = (found.third, tolerances.third_finite_difference)
        errors["strain_engines"] = (found.engines, tolerances.engines)
        errors["strain_symmetry"] = (found.symmetry, exact)
        errors["strain_parameters"] = (found.parameters, tolerances.parameters)
    else:
        assert result.stress is not None
        errors["no_stress"] = (float(result.stress.detach().abs().max()), 0.0)
        errors["no_strain"] = (strain_without_a_cell(model, batch), 0.0)
    return errors


def _stress(model: EnergyModel, batch: Batch, result: Derivatives) -> float:
    """Compare one random component of the stress with energies of strained cells."""
    strain = random_tangents(3, 1, model.device)[:, 0]
    symmetric = (strain + strain.T) / 2
    positions, cell = batch[keys.POSITIONS], batch[keys.CELL][0]

    def energy(amplitude: float) -> torch.Tensor:
        deformation = torch.eye(3).to(symmetric) + amplitude * symmetric
        strained = copy.copy(batch)
        strained[keys.POSITIONS] = positions @ deformation
        strained[keys.CELL] = (cell @ deformation)[None]
        return model.derivatives(strained, forces=False, stress=False).energy.detach()

    assert result.stress is not None
    volume = torch.linalg.det(cell).abs()
    analytical = (result.stress[0].detach() * symmetric).sum() * volume
    # The energy holds large constants, so rounding counts relative to it.
    numerical = compute_richardson_derivative(energy)[0]
    scale = torch.maximum(numerical.abs(), result.energy.detach().abs()[0] * 1e-3)
    return float((analytical - numerical).abs() / scale)


def _rotation(
    model: EnergyModel, atoms: ase.Atoms, tangents: torch.Tensor, hvp: torch.Tensor
) -> float:
    matrix = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    matrix *= np.sign(np.linalg.det(matrix))
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ matrix)
    turned.positions = atoms.positions @ matrix
    rotation = torch.tensor(matrix, device=model.device)
    batch = build_crystal_batch([turned], model.cutoff, model.device)
    rotated = _derivatives(model, batch, tangents @ rotation)
    return relative_error(hvp_of(rotated), hvp @ rotation)


def _extra_edges(
    model: EnergyModel, atoms: ase.Atoms, tangents: torch.Tensor, result: Derivatives
) -> float:
    batch = build_crystal_batch([atoms], model.cutoff + 1.0, model.device)
    return relative_error(hvp_of(_derivatives(model, batch, tangents)), hvp_of(result))


def _parameter_gradient(
    model: EnergyModel, batch: Batch, tangents: torch.Tensor
) -> float:
    def loss(engine: Engine) -> torch.Tensor:
        result = _derivatives(model, batch, tangents, engine, tangents[:, None])
        assert result.hvp is not None
        assert result.third is not None
        return result.hvp.square().mean() + result.third.square().mean()

    return parameter_gradient_error(model, loss)


def _batching(model: EnergyModel, structures: list[ase.Atoms]) -> float:
    batch = build_crystal_batch(structures, model.cutoff, model.device)
    tangents = random_tangents(int(batch.num_nodes), 1, model.device)
    joint = _derivatives(model, batch, tangents)
    worst, start = 0.0, 0
    for i, atoms in enumerate(structures):
        stop = start + len(atoms)
        alone = _derivatives(
            model,
            build_crystal_batch([atoms], model.cutoff, model.device),
            tangents[start:stop],
        )
        assert joint.stress is not None
        assert alone.stress is not None
        worst = max(
            worst,
            relative_error(hvp_of(joint)[start:stop], hvp_of(alone)),
            relative_error(joint.energy[i : i + 1].detach(), alone.energy.detach()),
            relative_error(joint.stress[i].detach(), alone.stress[0].detach()),
        )
        start = stop
    return worst


def _copying(model: EnergyModel, structures: dict[str, ase.Atoms]) -> float:
    """A deep copy gives the same numbers, and shares no parameter."""
    twin = copy.deepcopy(model)
    batch = build_crystal_batch(
        [next(iter(structures.values()))], model.cutoff, model.device
    )
    tangents = random_tangents(int(batch.num_nodes), 1, model.device)
    expected = hvp_of(_derivatives(model, batch, tangents))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
        for _ in range(TOLERANCES.warm_up):
            found = hvp_of(_derivatives(twin, batch, tangents))
    model.load_state_dict(twin.state_dict())
    return relative_error(found, expected)


def _isolated_atom(model: EnergyModel) -> float:
    """A structure without a single edge has finite energy and no forces."""
    atoms = ase.Atoms([model.atomic_numbers[0]], positions=[[0.1, 0.2, 0.3]])
    batch = build_crystal_batch([atoms], model.cutoff, model.device)
    result = _derivatives(model, batch, random_tangents(1, 2, model.device))
    assert result.forces is not None
    assert bool(torch.isfinite(result.energy).all())
    return float(result.forces.detach().abs().max() + hvp_of(result).abs().max())


def _derivatives(
    model: EnergyModel,
    batch: Batch,
    tangents: torch.Tensor,
    engine: Engine = "forward_over_reverse",
    pairs: torch.Tensor | None = None,
) -> Derivatives:
    """With an engine that does not depend on the device."""
    return model.derivatives(batch, tangents=tangents, pairs=pairs, engine=engine)
