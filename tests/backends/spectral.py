"""Checks of the losses on frequencies and thermal properties with a real potential."""

from __future__ import annotations

import numpy as np
import torch
from ase.build import bulk
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

import pft_lightning as pft
from pft_lightning import keys
from pft_lightning.data.records import StructureRecord, to_data
from pft_lightning.graphs import build_batch, build_graph
from pft_lightning.losses.properties import PropertyErrors
from pft_lightning.physics.force_constants import from_phonopy
from pft_lightning.testing.differences import parameter_gradient_error
from pft_lightning.training.spectra import compare_spectra


ERRORS = PropertyErrors(temperatures=(300.0,), kind="mse")
# One of a frequency, one that counts soft modes most.
WEIGHTS = {"frequencies": 1.0, "entropy": 0.1}


def check_property_gradient(model: pft.EnergyModel) -> None:
    """The gradient of the second pass is that of the losses, to all trained weights.

    Their value is computed as in the first pass; a loss that has both makes the
    differences of one comparable with the derivative of the other. The reference has
    other force constants, and two q-points.
    """
    record = _crystal(model)
    graph = build_graph(record.positions, record.cell, record.pbc, model.cutoff)
    data = to_data(record, graph)
    data[keys.COUNTED] = torch.tensor([True])
    batch = build_batch([data])
    n_atoms = record.n_atoms
    # The sum over unit vectors is the mean over signs.
    unit = np.eye(3 * n_atoms).reshape(n_atoms, 3, -1).transpose(0, 2, 1)

    def loss(engine: pft.types.Engine) -> torch.Tensor:
        found = compare_spectra(model, batch, ERRORS, WEIGHTS, engine)
        assert found is not None
        tangents, cotangents = found.directions(record.force_constants, unit)
        hvp = model.derivatives(
            batch, tangents=torch.from_numpy(tangents).contiguous(), engine=engine
        ).hvp
        sampled = (torch.from_numpy(cotangents) * hvp).sum()
        value = sum(WEIGHTS[name] * found.losses[name] for name in WEIGHTS)
        return value + (sampled - sampled.detach())

    assert parameter_gradient_error(model, loss) < 1e-6


def _crystal(model: pft.EnergyModel) -> StructureRecord:
    """Two cells of a rocksalt, with force constants unlike those of the potential."""
    atoms = bulk("NaCl", "rocksalt", a=5.4)
    first, second = (list(model.atomic_numbers) * 2)[:2]
    cell = PhonopyAtoms(
        numbers=[first, second],
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(),
    )
    # Symmetry would be that of one cell, which two in a row do not have.
    phonon = Phonopy(cell, np.diag([2, 1, 1]), np.eye(3), is_symmetry=False)
    phonon.force_constants = 0.8 * pft.force_constants(model, phonon)
    supercell = phonon.supercell
    constants, _ = from_phonopy(phonon)
    return StructureRecord(
        name="crystal",
        atomic_numbers=supercell.numbers,
        positions=supercell.positions,
        cell=supercell.cell,
        pbc=np.ones(3, dtype=bool),
        force_constants=constants,
    )
