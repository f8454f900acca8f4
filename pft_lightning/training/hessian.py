"""Tangents and their reference products for a batch of phonon structures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch_geometric.data import Batch

from pft_lightning import keys
from pft_lightning.physics.force_constants import ForceConstants


def probe_batch(
    batch: Batch, sample: Callable[[ForceConstants, str], np.ndarray]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw tangents for each structure and multiply them with its force constants.

    Args:
        batch: Neutral batch with force constants.
        sample: (force constants, name of the structure) -> (n_atoms, n_probes, 3);
            the same number of probes for every structure.

    Returns:
        Tangents and Φ v, both (n_atoms, n_probes, 3), in float64 on the device of
        the batch. The product is taken in float64 whatever the model's dtype.
    """
    tangents, targets = [], []
    for force_constants, name in zip(
        batch[keys.FORCE_CONSTANTS], batch[keys.NAME], strict=True
    ):
        tangents.append(sample(force_constants, name))
        targets.append(force_constants.multiply(tangents[-1]))
    device = batch[keys.POSITIONS].device
    return (
        torch.from_numpy(np.concatenate(tangents)).to(device),
        torch.from_numpy(np.concatenate(targets)).to(device),
    )
