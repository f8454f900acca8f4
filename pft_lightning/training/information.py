"""What the predictions of a potential rest on: Fisher information of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.base import EnergyModel
from pft_lightning.graphs import count_atoms


def squared_gradients(
    model: EnergyModel,
    frames: Iterable[tuple[int, Batch]],
    weights: Sequence[torch.Tensor],
    *,
    seed: int,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Sum squares of the derivatives of energies and of forces by each weight.

    For labels with normal errors these are the diagonal of their Fisher information:
    ``Σ (∂(E/n)/∂w)²`` and ``Σ |∂F/∂w|² / n²``, the latter from one draw of random signs
    for each structure, ``E (∂(s·F)/∂w)² = |∂F/∂w|²`` (Hutchinson's estimate).

    Args:
        model: The potential.
        frames: A number and a batch of one structure each, on the device of the model;
            padding counts nothing.
        weights: Of the model, that gradients are taken of.
        seed: Of the signs, with the number of the frame.

    Returns:
        Of energies and of forces, a tensor like each weight.
    """
    of_energies, of_forces = ([torch.zeros_like(p) for p in weights] for _ in range(2))
    for number, batch in frames:
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        counted, index = batch[keys.COUNTED], batch[keys.STRUCTURE_INDEX]
        n_atoms = count_atoms(index, len(counted))
        derivatives = model.derivatives(batch, stress=False)
        energies, forces = derivatives.energy, derivatives.forces
        assert forces is not None
        signs = torch.randint(0, 2, forces.shape, generator=generator) * 2 - 1
        shares = (counted / n_atoms).to(forces)
        for total, value in (
            (of_energies, (energies * shares).sum()),
            (of_forces, (forces * signs.to(forces) * shares[index, None]).sum()),
        ):
            _add_squares(total, value, weights)
    return of_energies, of_forces


def _add_squares(
    total: Sequence[torch.Tensor], value: torch.Tensor, weights: Sequence[torch.Tensor]
) -> None:
    gradients = torch.autograd.grad(
        value, weights, retain_graph=True, allow_unused=True
    )
    for sum_, gradient in zip(total, gradients, strict=True):
        if gradient is not None:
            sum_ += gradient.detach().square()


def mean_one(parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Scale tensors alike, so that their elements have mean one."""
    mean = sum(float(p.sum()) for p in parts) / sum(p.numel() for p in parts)
    return [part / mean for part in parts]
