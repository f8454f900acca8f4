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
from pft_lightning.backends.base import EnergyModel, check_model
from pft_lightning.errors import ConfigError, DataFormatError, ShapeError
from pft_lightning.graphs import build_batch, build_data, build_graph
from pft_lightning.types import Engine


class Calculator(ASECalculator):
    """ASE calculator of any model: energy, forces, stress.

    Args:
        model: from ``load_model``.
        **kwargs: ASE's own, e.g. ``label``.

    Raises:
        ConfigError: the model is something else.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, model: EnergyModel, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_model(model)
        self.model = model

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Energy in eV, forces in eV/Å, stress in eV/Å³ (zero without periodicity).

        Raises:
            DataFormatError: there are no atoms, or positions or cell make no sense.
        """
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
        ShapeError: tangents have another shape, or are no finite numbers.
        DataFormatError: there are no atoms, or positions or cell make no sense.
        ConfigError: the model lacks an element of the structure.
    """
    check_model(model)
    check_structure(atoms)
    try:
        # Complex numbers would lose their imaginary part with a warning alone.
        tangents = np.asarray(tangents).astype(np.float64, casting="same_kind")
    except (TypeError, ValueError) as error:
        raise ShapeError(
            f"tangents={str(tangents)[:100]!r}; expected an array of numbers, "
            f"(n_atoms, 3) or (n_atoms, n_probes, 3) with n_atoms={len(atoms)}."
        ) from error
    if tangents.shape != (len(atoms), 3) and (
        tangents.ndim != 3 or tangents.shape[::2] != (len(atoms), 3)
    ):
        raise ShapeError(
            f"tangents has shape {tangents.shape}; expected (n_atoms, 3) or (n_atoms, "
            f"n_probes, 3) with n_atoms={len(atoms)}."
        )
    if not np.isfinite(tangents).all():
        raise ShapeError("tangents hold NaN or infinity; expected finite numbers.")
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


def check_structure(atoms: ase.Atoms) -> None:
    """Refuse a structure that has no energy.

    Args:
        atoms: any structure.

    Raises:
        ConfigError: something else than ``ase.Atoms``.
        DataFormatError: no atoms, positions or cell that are not finite, or a
            periodic structure without a volume, area or length to repeat.
    """
    if not isinstance(atoms, ase.Atoms):
        raise ConfigError(
            f"atoms is a {type(atoms).__name__}; expected ase.Atoms, e.g. from "
            "ase.io.read."
        )
    if len(atoms) == 0:
        raise DataFormatError("the structure has no atoms.")
    name, cell = str(atoms.symbols), np.asarray(atoms.cell.array)
    finite = np.isfinite(atoms.positions).all(axis=1)
    if not finite.all():
        raise DataFormatError(
            f"{name}: the position of atom {int(np.argmin(finite))} is not finite, "
            f"{atoms.positions[np.argmin(finite)]}."
        )
    if not np.isfinite(cell).all():
        raise DataFormatError(f"{name}: the cell is not finite, {cell.tolist()}.")
    # The rank of no vectors at all is an error in numpy 1.
    if any(atoms.pbc) and np.linalg.matrix_rank(cell[atoms.pbc]) < sum(atoms.pbc):
        raise DataFormatError(
            f"{name}: is periodic along {int(sum(atoms.pbc))} directions, which its "
            f"cell {cell.tolist()} does not span. Set the cell, or pbc=False."
        )


def _to_batch(model: EnergyModel, atoms: ase.Atoms) -> Batch:
    check_structure(atoms)
    cell = np.asarray(atoms.cell.array)
    graph = build_graph(atoms.positions, cell, atoms.pbc, model.cutoff)
    data = build_data(atoms.numbers, atoms.positions, cell, atoms.pbc, graph)
    data[keys.NAME] = str(atoms.symbols)
    return build_batch([data]).to(model.device)


def _to_numpy(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().to(torch.float64).numpy()
