"""Whether a written file predicts what the potential in memory does."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass

import ase
import numpy as np
import torch
from omegaconf import DictConfig

from pft_lightning import keys
from pft_lightning.backends.base import EnergyModel
from pft_lightning.errors import CheckpointError, PFTError
from pft_lightning.graphs import build_crystal_batch
from pft_lightning.training.instantiation import instantiate


QUANTITIES = ("energy", "forces", "stress", "hvp")
# Relative, of results in float64. A file in float32 may have rounded constants that the
# potential in memory has from a base model in float64.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}

_SPACING = 2.7  # Å, between neighbours of the crystal that holds all elements
_RATTLE = 0.05  # Å; without it symmetry would make forces zero, and any two zeros agree
_STRAIN = 0.01
_MOST_ATOMS = 200  # of a structure from the validation set
_LOOKED_AT = 50  # structures of the validation set, before giving up


@dataclass(frozen=True, slots=True)
class Agreement:
    """Result of a comparison.

    Attributes:
        structures: what was compared.
        tolerance: relative.
        errors: largest relative difference of each of ``QUANTITIES``.
    """

    structures: tuple[str, ...]
    tolerance: float
    errors: dict[str, float]


def element_crystal(model: EnergyModel) -> ase.Atoms:
    """Simple cubic crystal with every element of a model, rattled and strained."""
    numbers = model.atomic_numbers
    edge = max(2, math.ceil(len(numbers) ** (1 / 3)))
    height = max(2, math.ceil(len(numbers) / edge**2))
    sites = np.indices((edge, edge, height)).reshape(3, -1).T
    atoms = ase.Atoms(
        np.resize(numbers, len(sites)),
        positions=sites * _SPACING,
        cell=np.array([edge, edge, height]) * _SPACING,
        pbc=True,
    )
    return _disturb(atoms)


def validation_structures(
    config: DictConfig, model: EnergyModel, n: int = 2
) -> dict[str, ase.Atoms]:
    """Some phonon structures of a run's validation set, rattled and strained.

    Args:
        config: of the run.
        model: its potential.
        n: structures, at most; large ones are passed over.

    Returns:
        By name.

    Raises:
        PFTError: the data are gone, or cannot be read any more.
    """
    data = copy.deepcopy(config.data)
    data.upstream, data.num_workers = None, 0
    if data.phonons.val is not None:
        data.phonons.train = None  # otherwise needed, to hold out the same share
    found: dict[str, ase.Atoms] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run has said them
        module = instantiate(
            data,
            where="data",
            trust=config.trust_config,
            cutoff=model.cutoff,
            atomic_numbers=model.atomic_numbers,
        )
        module.prepare_data()
        module.setup("validate")
        for i, batch in enumerate(module.val_dataloader()[0]):
            structure = batch[keys.PHONON]
            if structure.num_nodes <= _MOST_ATOMS:
                atoms = ase.Atoms(
                    structure[keys.ATOMIC_NUMBERS].numpy(),
                    positions=structure[keys.POSITIONS].numpy(),
                    cell=structure[keys.CELL][0].numpy(),
                    pbc=structure[keys.PBC][0].numpy(),
                )
                found[str(structure[keys.NAME][0])] = _disturb(atoms)
            if len(found) == n or i + 1 == _LOOKED_AT:
                break
    return found


def choose_structures(
    config: DictConfig | None, model: EnergyModel
) -> tuple[dict[str, ase.Atoms], str | None]:
    """Structures to compare on: all elements, and the validation data if there.

    Args:
        config: of the run; None where there is none.
        model: the potential.

    Returns:
        Structures by name, and why there is none of the validation data.
    """
    structures = {"crystal of all elements": element_crystal(model)}
    if config is None:
        return structures, None
    try:
        return {**validation_structures(config, model), **structures}, None
    except (PFTError, OSError) as error:
        return structures, str(error)


def compare(
    model: EnergyModel, written: EnergyModel, structures: dict[str, ase.Atoms]
) -> Agreement:
    """Compare predictions in float64.

    Args:
        model: as it should be; adapters may be attached.
        written: as loaded from the file, in the dtype of the file.
        structures: by name.

    Raises:
        CheckpointError: they differ, or are not finite.
    """
    tolerance = max(TOLERANCES[model.dtype], TOLERANCES[written.dtype])
    pair = [copy.deepcopy(m).cpu().to(torch.float64) for m in (model, written)]
    worst = dict.fromkeys(QUANTITIES, 0.0)
    generator = torch.Generator().manual_seed(0)
    for name, atoms in structures.items():
        batch = build_crystal_batch([atoms], model.cutoff)
        shape = (len(atoms), 1, 3)
        tangents = torch.randn(shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            expected, found = (m.derivatives(batch, tangents=tangents) for m in pair)
        for quantity in QUANTITIES:
            reference = getattr(expected, quantity)
            difference = (getattr(found, quantity) - reference).norm()
            error = float(difference / reference.norm()) if difference != 0 else 0.0
            # Written so that NaN, of a diverged potential, does not pass.
            if not error <= tolerance:
                raise CheckpointError(
                    f"the file does not predict what the potential does: {quantity} of "
                    f"{name} differ by {error:.1e} (relative; at most {tolerance:.0e} "
                    "is rounding). The file was not kept. If the potential is finite, "
                    "this is a fault of pft_lightning: please report it."
                )
            worst[quantity] = max(worst[quantity], error)
    return Agreement(tuple(structures), tolerance, worst)


def _disturb(atoms: ase.Atoms) -> ase.Atoms:
    rng = np.random.default_rng(0)
    atoms.positions += rng.normal(scale=_RATTLE, size=atoms.positions.shape)
    deformation = np.eye(3) + rng.normal(scale=_STRAIN, size=(3, 3))
    atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    return atoms
