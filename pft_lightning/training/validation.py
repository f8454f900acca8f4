"""Validation errors per structure: forces of every source, curvature of phonons."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import get_args

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.backends.base import EnergyModel
from pft_lightning.backends.memory import in_passes, is_out_of_memory
from pft_lightning.graphs import build_batch
from pft_lightning.losses import absolute_errors, doubtful_labels, elastic_errors
from pft_lightning.losses.elastic import CONSTANTS, MODULI
from pft_lightning.losses.properties import MEASURABLE, Property, metric_of
from pft_lightning.physics.pair_probes import PairProbe
from pft_lightning.physics.probes import validation_tangents
from pft_lightning.training.elastic import elastic_constants_of
from pft_lightning.types import Engine


# The metric that checkpoints and early stopping watch.
MONITOR = "phonon/hvp_mae"
METRICS = (
    MONITOR,
    "phonon/forces_mae",
    "phonon/stress_mae",
    "phonon/third_order_mae",
    *(f"phonon/{metric_of(name)}" for name in get_args(Property)),
    "upstream/energy_mae",
    "upstream/forces_mae",
    "upstream/stress_mae",
    "elastic/constants_mae",
    "elastic/bulk_modulus_mae",
    "elastic/shear_modulus_mae",
    *(f"measured/{metric_of(name, '')}" for name in MEASURABLE),
)

# Tangents of one pass; more need more memory and are not faster.
_PROBES_PER_PASS = 4

# Pairs of a structure that a validation looks at.
_VALIDATION_PAIRS = 8

# Structures that tell whether labels are in other units.
_STRUCTURES_LOOKED_AT = 16


def find_errors(
    model: EnergyModel,
    source: str,
    batch: Batch,
    seed: int,
    engine: Engine | None = None,
) -> dict[str, torch.Tensor]:
    """All errors of the structures of one source, by the end of their ``METRICS``.

    Args:
        model: The potential.
        source: ``keys.PHONON``, ``keys.UPSTREAM``, ``keys.ELASTIC`` or
            ``keys.MEASURED``, which has none here.
        batch: Neutral batch of that source.
        seed: Of tangents and pairs.
        engine: How products are differentiated.
    """
    if source == keys.ELASTIC:
        return elastic_constant_errors(model, batch, engine)
    if source == keys.MEASURED:
        return {}
    errors = efs_errors(model, batch)
    if source == keys.PHONON:
        errors["hvp_mae"] = hvp_errors(model, batch, seed, engine)
        errors["third_order_mae"] = third_order_errors(model, batch, seed)
    return errors


def efs_errors(model: EnergyModel, batch: Batch) -> dict[str, torch.Tensor]:
    """Mean absolute errors of each structure that has the reference.

    Returns:
        ``energy_mae`` (eV/atom), ``forces_mae`` (eV/Å), ``stress_mae`` (eV/Å³), each
        one value per structure with that reference.
    """

    def errors_of(part: range) -> dict[str, torch.Tensor]:
        whole = len(part) == batch.num_graphs
        some = batch if whole else build_batch([batch[i] for i in part])
        with torch.no_grad():
            found = absolute_errors(model.derivatives(some), some)
        return {name: rows[mask] for name, (rows, mask) in found.items()}

    found = list(in_passes(errors_of, range(batch.num_graphs), batch.num_graphs))
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def warn_of_doubtful_labels(
    model: EnergyModel, batch: Batch, quantities: Container[str], name: str
) -> None:
    """Warn where labels are absurd in the eyes of a model that is not trained yet.

    Args:
        model: The potential.
        batch: Neutral batch; its first structures are enough.
        quantities: That are trained on.
        name: Of the data, for the message.
    """
    some = build_batch(batch.to_data_list()[:_STRUCTURES_LOOKED_AT])
    try:
        with torch.no_grad():
            found = model.derivatives(some)
            reasons = doubtful_labels(
                found, some, quantities, weight="loss.upstream.{}"
            )
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return  # The step itself knows how to go on.
        raise
    tell_doubts(reasons, name, some.num_graphs)


def tell_doubts(reasons: Iterable[str], name: str, n_structures: int) -> None:
    """Warn of what ``doubtful_labels`` found.

    Args:
        reasons: That it gave.
        name: Of the data.
        n_structures: That were looked at.
    """
    for reason in reasons:
        rank_zero_warn(
            f"{name} against the base model, first {n_structures} structures: {reason}"
        )


def hvp_errors(
    model: EnergyModel,
    batch: Batch,
    seed: int,
    engine: Engine | None = None,
) -> torch.Tensor:
    """Mean absolute error of H v of each structure over all inequivalent atoms.

    The tangents depend on the seed and the name of a structure alone, so the
    numbers of two models, or of one model before and after, compare directly.

    Args:
        model: The potential.
        batch: Neutral batch with force constants.
        seed: Of the tangents.
        engine: How the products are differentiated; None is the faster way on the
            device.

    Returns:
        One value per structure that counts, eV/Å²: the mean over components, weighted
        over the inequivalent atoms with the share of atoms that each stands for.
    """
    errors = []
    for structure in batch.to_data_list():
        if not structure[keys.COUNTED]:
            continue
        tangents, weights = validation_tangents(
            structure[keys.FORCE_CONSTANTS], seed, structure[keys.NAME]
        )
        per_probe = _product_errors(
            model, type(batch).from_data_list([structure]), tangents, engine
        )
        weight = torch.from_numpy(weights).to(model.device)
        errors.append((per_probe * weight).sum())
    return torch.stack(errors) if errors else torch.empty(0, device=model.device)


def third_order_errors(model: EnergyModel, batch: Batch, seed: int) -> torch.Tensor:
    """Mean absolute error of third derivatives along fixed pairs of atoms.

    The pairs depend on the seed and the name of a structure alone; they are drawn by
    size and weighted as in the loss, so the number stands for uniform pairs.

    Args:
        model: The potential.
        batch: Neutral batch.
        seed: Of the pairs.

    Returns:
        One value per structure that counts and has third-order force constants, eV/Å³.
    """
    errors = []
    probe = PairProbe("atoms", _VALIDATION_PAIRS, seed)
    for structure in batch.to_data_list():
        constants = getattr(structure[keys.FORCE_CONSTANTS], "third_order", None)
        if constants is None or not structure[keys.COUNTED]:
            continue
        drawn = probe.draw(constants, structure[keys.NAME], 0)
        targets = constants.multiply(*np.moveaxis(drawn.pairs, 2, 0))
        with torch.no_grad():
            third = model.derivatives(
                type(batch).from_data_list([structure]),
                pairs=torch.from_numpy(drawn.pairs).to(model.device),
                forces=False,
                stress=False,
            ).third
        assert third is not None
        per_pair = (third - torch.from_numpy(targets).to(third)).abs().mean(dim=(0, 2))
        errors.append((per_pair * torch.from_numpy(drawn.weights).to(third)).mean())
    return torch.stack(errors) if errors else torch.empty(0, device=model.device)


def elastic_constant_errors(
    model: EnergyModel, batch: Batch, engine: Engine | None = None
) -> dict[str, torch.Tensor]:
    """Mean absolute errors of each crystal that has the reference.

    Args:
        model: The potential.
        batch: Neutral batch of elastic crystals.
        engine: How the products are differentiated.

    Returns:
        ``constants_mae`` over all 36, ``bulk_modulus_mae`` and ``shear_modulus_mae``,
        GPa, each one value per crystal with that reference.
    """
    with torch.no_grad():
        stiffness = elastic_constants_of(model, batch, engine)
        found = elastic_errors(stiffness, batch)
    constants, known = found[CONSTANTS]
    moduli, has_moduli = found[MODULI]
    bulk, shear = moduli[has_moduli].abs().unbind(dim=1)
    return {
        "constants_mae": constants[known].abs().mean(dim=(1, 2)),
        "bulk_modulus_mae": bulk,
        "shear_modulus_mae": shear,
    }


def _product_errors(
    model: EnergyModel, structure: Batch, tangents: np.ndarray, engine: Engine | None
) -> torch.Tensor:
    """(n_probes,), mean over atoms and components of the error of H v, eV/Å²."""
    (force_constants,) = structure[keys.FORCE_CONSTANTS]
    targets = force_constants.multiply(tangents)

    def errors_of(probes: range) -> torch.Tensor:
        chunk = slice(probes.start, probes.stop)
        with torch.no_grad():
            hvp = model.derivatives(
                structure,
                tangents=torch.from_numpy(tangents[:, chunk]).to(model.device),
                forces=False,
                stress=False,
                engine=engine,
            ).hvp
        assert hvp is not None
        target = torch.from_numpy(targets[:, chunk]).to(hvp.device)
        return (hvp - target).abs().mean(dim=(0, 2))

    probes = range(tangents.shape[1])
    return torch.cat(list(in_passes(errors_of, probes, _PROBES_PER_PASS)))
