"""A training step of a model on silicon, and what it gives."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase
import torch
from ase.build import bulk
from torch_geometric.data import Batch
from visit import Skip

import pft_lightning as pft
from pft_lightning.errors import BackendUnavailableError
from pft_lightning.graphs import build_crystal_batch
from pft_lightning.testing import build_tiny_crystals
from pft_lightning.types import Engine


QUANTITIES = ("energy", "forces", "stress", "hvp", "gradient")


def load(path: Path, dtype: str, device: str) -> pft.EnergyModel:
    """A model on a device.

    Raises:
        Skip: its framework is not installed.
    """
    try:
        return pft.load_model(path, dtype=dtype, device=device)
    except BackendUnavailableError as error:
        raise Skip(str(error)) from error


def silicon(cells: int, seed: int = 0) -> ase.Atoms:
    """Rattled silicon of ``8 cells³`` atoms."""
    atoms = bulk("Si", cubic=True).repeat(cells)
    atoms.rattle(0.03, seed=seed)
    return atoms


def crystals(model: pft.EnergyModel, cells: int) -> list[ase.Atoms]:
    """Silicon, small crystals of two elements, and a molecule."""
    preferred = [z for z in (14, 8) if z in model.atomic_numbers]
    elements = preferred if len(preferred) == 2 else list(model.atomic_numbers)
    tiny = build_tiny_crystals(elements, model.cutoff).values()
    return [*([silicon(cells)] if 14 in model.atomic_numbers else []), *tiny]


def draw_tangents(n_atoms: int, n_probes: int) -> torch.Tensor:
    """(n_atoms, n_probes, 3), the same on every device."""
    generator = torch.Generator().manual_seed(1)
    shape = (n_atoms, n_probes, 3)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def take_step(
    model: pft.EnergyModel,
    batch: Batch,
    tangents: torch.Tensor | None,
    engine: Engine | None = None,
) -> dict[str, torch.Tensor]:
    """Energy, forces, stress, H v, and the gradient of a loss of them all.

    Of the gradient every fourth number, so that references stay small.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    found = model.derivatives(batch, tangents=tangents, engine=engine)
    assert found.forces is not None
    assert found.stress is not None
    loss = found.energy.square().mean() + found.forces.square().sum()
    loss = loss + found.stress.square().sum()
    results = {"energy": found.energy, "forces": found.forces, "stress": found.stress}
    if found.hvp is not None:
        loss = loss + found.hvp.square().sum()
        results["hvp"] = found.hvp
    gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
    # Contiguous: of a view the whole would be written.
    results["gradient"] = torch.cat([g.flatten() for g in gradients])[::4].contiguous()
    return results


def compute(
    path: Path,
    structures: list[ase.Atoms] | None,
    target: Path,
    *,
    dtype: str,
    device: str,
    cells: int,
    engines: tuple[Engine, ...] = ("reverse_over_reverse",),
    tf32: bool = False,
) -> None:
    """Write what a step gives, by engine, and the seconds of the first.

    Args:
        path: of the model.
        structures: of the batch; None for ``crystals``.
        target: file to write.
        dtype: of the model.
        device: of the model.
        cells: see ``crystals``.
        engines: for H v.
        tf32: let products of single precision be taken in TF32.
    """
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    model = load(path, dtype, device)
    structures = structures or crystals(model, cells)
    batch = build_crystal_batch(structures, model.cutoff, device)
    tangents = draw_tangents(int(batch.num_nodes), 2).to(device)
    results: dict[str, Any] = {"structures": structures}
    started = time.perf_counter()
    for engine in engines:
        found = take_step(model, batch, tangents, engine)
        results[engine] = {k: v.detach().double().cpu() for k, v in found.items()}
        results.setdefault("first_s", time.perf_counter() - started)
    part = target.with_name(f"{target.name}.part{os.getpid()}")
    torch.save(results, part)
    part.replace(target)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference, in units of the norm."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-300))


def time_step(step: Callable[[], Any], device: str, repeats: int) -> tuple[float, ...]:
    """Median seconds until a step has been handed over, and until it is done."""

    def synchronise() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    handed, done = [], []
    for _ in range(repeats + 2):
        synchronise()
        started = time.perf_counter()
        step()
        handed.append(time.perf_counter() - started)
        synchronise()
        done.append(time.perf_counter() - started)
    return statistics.median(handed[2:]), statistics.median(done[2:])
