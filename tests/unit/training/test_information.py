from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.pair import PairPotential
from pft_lightning.graphs import build_batch, build_data, build_graph
from pft_lightning.training.information import mean_one, squared_gradients


CUTOFF = 4.0


def crystal(seed: int) -> Batch:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.rattle(0.1, seed=seed)
    graph = build_graph(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
    batch = build_batch(
        [build_data(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, graph)]
    )
    batch[keys.COUNTED] = torch.tensor([True])
    return batch


@pytest.fixture
def model() -> PairPotential:
    return PairPotential(CUTOFF, (11, 17))


@pytest.fixture
def weights(model) -> list[torch.Tensor]:
    return list(model.parameters())


def predictions(model, batch) -> torch.Tensor:
    """Energy per atom, and forces per atom."""
    derivatives = model.derivatives(batch, stress=False)
    n_atoms = len(derivatives.forces)
    values = [derivatives.energy.flatten(), derivatives.forces.flatten()]
    return torch.cat(values).detach() / n_atoms


def differences(model, weights, batch, step=1e-4) -> list[torch.Tensor]:
    """Derivatives of the predictions by each weight, from central differences."""
    found = []
    for weight in weights:
        columns = []
        for index in np.ndindex(*weight.shape):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    weight[index] += sign * step
                values.append(predictions(model, batch))
                with torch.no_grad():
                    weight[index] -= sign * step
            columns.append((values[0] - values[1]) / (2 * step))
        found.append(torch.stack(columns))
    return found


def test_squares_are_those_of_differences(model, weights, monkeypatch):
    """Over all signs of the forces the squares have the mean of |dF/dw|² / n²."""
    batch = crystal(1)
    of_forces = [torch.zeros_like(p) for p in weights]
    every = list(itertools.product((0, 1), repeat=6))
    for signs in every:
        drawn = torch.tensor(signs).reshape(2, 3)
        monkeypatch.setattr(torch, "randint", lambda *_, drawn=drawn, **__: drawn)
        energies, forces = squared_gradients(model, [(0, batch)], weights, seed=0)
        for total, part in zip(of_forces, forces, strict=True):
            total += part / len(every)
    expected = differences(model, weights, batch)
    for energy, force, columns in zip(energies, of_forces, expected, strict=True):
        # Differences of steps of 1e-4 leave errors of some 1e-8 of the derivative.
        one, rest = columns[:, 0].square(), columns[:, 1:].square().sum(1)
        torch.testing.assert_close(energy.flatten(), one, rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(force.flatten(), rest, rtol=1e-6, atol=1e-12)


def test_structures_add_up_and_padding_counts_nothing(model, weights):
    frames = [(seed, crystal(seed)) for seed in (1, 2)]
    both = squared_gradients(model, frames, weights, seed=0)
    one = squared_gradients(model, frames[:1], weights, seed=0)
    frames[1][1][keys.COUNTED] = torch.tensor([False])
    padded = squared_gradients(model, frames, weights, seed=0)
    for part, alone, together in zip(padded, one, both, strict=True):
        for a, b, c in zip(part, alone, together, strict=True):
            assert torch.equal(a, b)
            assert (c >= b).all()
        assert sum(c.sum() for c in together) > sum(b.sum() for b in alone)


def test_parts_are_scaled_alike() -> None:
    parts = mean_one([torch.tensor([1.0, 2.0]), torch.tensor([[6.0]])])
    assert torch.equal(parts[0], torch.tensor([1 / 3, 2 / 3]))
    assert torch.equal(parts[1], torch.tensor([[2.0]]))
