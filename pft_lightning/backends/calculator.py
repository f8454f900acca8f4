"""Use of a model on ASE structures: a calculator, and Hessian-vector products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.calculator import all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.base import EnergyModel
from pft_lightning.errors import ShapeError
from pft_lightning.graphs import build_batch, build_data, build_graph
from pft_lightning.types import Engine


class Calculator(ASECalculator):
    """ASE calculator of any model: energy, forces, stress.

    Args:
        model: from ``load_model``.
        **kwargs: ASE's own, e.g. ``label``.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, model: EnergyModel, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Energy in eV, forces in eV/Å, stress in eV/Å³ (zero without periodicity)."""
        super().calculate(atoms, properties, system_changes)
        batch = _to_batch(self.model, self.atoms)
        with torch.no_grad():
            result = self.model.derivatives(batch, stress="stress" in properties)
        energy = float(result.energy[0])
        self.results = {"energy": energy, "free_energy": energy}
        if result.forces is not None:
            self.results["forces"] = _to_numpy(result.forces)
        if result.stress is not None:
            stress = _to_numpy(result.stress)[0]
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)


def hessian_vector_product(
    model: EnergyModel,
    atoms: ase.Atoms,
    tangents: np.ndarray,
    *,
    engine: Engine | None = None,
) -> np.ndarray:
    """Multiply the energy Hessian of a structure with given directions.

    Sign: ``+d2E/dR2``, so that a stable crystal gives ``v . Hv >= 0``.

    Args:
        model: from ``load_model``.
        atoms: structure, periodic or not.
        tangents: (n_atoms, 3) or (n_atoms, n_probes, 3); not normalised here.
        engine: see ``pft_lightning.physics.hvp.compute_derivatives``.

    Returns:
        Same shape, float64, eV/Å² times the unit of the tangents.

    Raises:
        ShapeError: tangents have another shape.
        ConfigError: the model lacks an element of the structure.
    """
    tangents = np.asarray(tangents, dtype=np.float64)
    if tangents.shape != (len(atoms), 3) and (
        tangents.ndim != 3 or tangents.shape[::2] != (len(atoms), 3)
    ):
        raise ShapeError(
            f"tangents has shape {tangents.shape}; expected (n_atoms, 3) or (n_atoms, "
            f"n_probes, 3) with n_atoms={len(atoms)}."
        )
    directions = torch.tensor(tangents, device=model.device)
    with torch.no_grad():
        result = model.derivatives(
            _to_batch(model, atoms),
            tangents=directions.reshape(len(atoms), -1, 3),
            forces=False,
            stress=False,
            engine=engine,
        )
    assert result.hvp is not None
    return _to_numpy(result.hvp).reshape(tangents.shape)


def _to_batch(model: EnergyModel, atoms: ase.Atoms) -> Batch:
    cell = np.asarray(atoms.cell.array)
    graph = build_graph(atoms.positions, cell, atoms.pbc, model.cutoff)
    data = build_data(atoms.numbers, atoms.positions, cell, atoms.pbc, graph)
    data[keys.NAME] = str(atoms.symbols)
    return build_batch([data]).to(model.device)


def _to_numpy(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().to(torch.float64).numpy()
