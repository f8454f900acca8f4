"""Elastic constants of a batch, as a training takes their gradient."""

from __future__ import annotations

import numpy as np
import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.memory import in_passes
from pft_lightning.graphs import count_atoms
from pft_lightning.losses.elastic import to_stiffness
from pft_lightning.physics.elasticity import relax_ions, voigt_strains
from pft_lightning.types import Engine


# Modes softer than this share of the hardest do not move. Their response is the inverse
# of a small number, and its gradient that of the square: one crystal near a transition
# would drown all others.
SOFTEST = 1e-3

# Atoms of a pass without gradient, counted once per direction.
_ATOMS_PER_PASS = 256


def elastic_constants_of(
    model: EnergyModel, batch: Batch, engine: Engine | None = None
) -> torch.Tensor:
    """Elastic constants with the graph that a loss is differentiated through.

    Ions relax unless ``keys.CLAMPED`` says otherwise. The displacements u of ions that
    answer a strain come first, without a graph: ``H u = -Λ``. The product along
    (u, strain) then gives ``A + Λ^T u`` and the forces ``Λ + H u``, which vanish, and
    whose product with u carries what u is missing: as the energy is stationary in u,
    the gradient of::

        C_st = A_st + Λ_t · u_s + u_t · (Λ_s + H u_s)

    with u held is that of the relaxed constants (Hellmann and Feynman). The last term
    is zero in value, and makes an error of u one of second order. Where a mode is
    kept from moving (``SOFTEST``), it is so for the constants of ions that cannot move
    along it.

    Args:
        model: the potential.
        batch: neutral batch of crystals, with ``keys.CLAMPED``.
        engine: how products are differentiated; None is the faster way on the device.

    Returns:
        (n_structures, 6, 6), GPa, stress by strain as ``pft.elastic_constants`` has it.
    """
    strains = torch.from_numpy(voigt_strains()).to(model.device)
    strains = strains.expand(batch.num_graphs, 6, 3, 3)
    displacements = _relaxed_ions(model, batch, strains, engine)
    found = model.derivatives(
        batch, tangents=displacements, strain_tangents=strains, engine=engine
    )
    assert found.hvp is not None
    assert found.strain_hvp is not None
    assert found.stress is not None
    index = batch[keys.STRUCTURE_INDEX]
    moved = displacements.to(found.hvp.dtype)
    per_atom = torch.einsum("asi,ati->ast", found.hvp, moved)
    mixed = per_atom.new_zeros(batch.num_graphs, 6, 6).index_add(0, index, per_atom)
    volumes = torch.linalg.det(batch[keys.CELL]).abs()
    return to_stiffness(found.strain_hvp, mixed, found.stress, volumes)


def _relaxed_ions(
    model: EnergyModel, batch: Batch, strains: torch.Tensor, engine: Engine | None
) -> torch.Tensor:
    """Displacements (n_atoms, 6, 3), Å per strain, of ions that may move; no graph."""
    clamped = batch[keys.CLAMPED].tolist()
    n_atoms = count_atoms(batch[keys.STRUCTURE_INDEX], batch.num_graphs).tolist()
    moved = np.zeros((batch.num_nodes, 6, 3))
    free = [not fixed and n > 1 for fixed, n in zip(clamped, n_atoms, strict=True)]
    if any(free):
        with torch.no_grad():
            coupling = model.derivatives(
                batch, strain_tangents=strains, engine=engine
            ).hvp
            columns = _hessian_columns(model, batch, n_atoms, engine)
        assert coupling is not None
        pulled = coupling.double().cpu().numpy()
        start = 0
        for n, moves in zip(n_atoms, free, strict=True):
            atoms = slice(start, start + n)
            if moves:
                hessian = columns[atoms, : 3 * n].transpose(0, 2, 1).reshape(3 * n, -1)
                moved[atoms], _ = relax_ions(pulled[atoms], hessian, softest=SOFTEST)
            start += n
    return torch.from_numpy(moved).to(batch[keys.POSITIONS].device)


def _hessian_columns(
    model: EnergyModel, batch: Batch, n_atoms: list[int], engine: Engine | None
) -> np.ndarray:
    """Γ Hessians (n_atoms, 3 n_most, 3) of all structures, their columns side by side.

    Structures do not interact: a product moves one atom in each of them.
    """
    place = np.concatenate([np.arange(n) for n in n_atoms])
    one_hot = np.zeros((len(place), 3 * max(n_atoms), 3))
    for axis in range(3):
        one_hot[np.arange(len(place)), 3 * place + axis, axis] = 1.0
    tangents = torch.from_numpy(one_hot).to(model.device)

    def products(probes: range) -> np.ndarray:
        hvp = model.derivatives(
            batch,
            tangents=tangents[:, probes.start : probes.stop],
            forces=False,
            stress=False,
            engine=engine,
        ).hvp
        assert hvp is not None
        return hvp.double().cpu().numpy()

    most = max(1, _ATOMS_PER_PASS // len(place))
    parts = in_passes(products, range(tangents.shape[1]), most)
    return np.concatenate(list(parts), axis=1)
