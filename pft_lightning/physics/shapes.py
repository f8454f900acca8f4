"""Shapes of what derivatives are taken of, and along."""

from __future__ import annotations

import torch

from pft_lightning.errors import ShapeError


def check_shapes(
    positions: torch.Tensor,
    volumes: torch.Tensor,
    tangents: torch.Tensor | None,
    pairs: torch.Tensor | None,
) -> None:
    """Refuse tensors that ``physics.hvp.compute_derivatives`` cannot take.

    Args:
        positions: (n_atoms, 3) is expected.
        volumes: (n_structures,).
        tangents: (n_atoms, n_probes, 3), at least one probe.
        pairs: (n_atoms, n_pairs, 2, 3).

    Raises:
        ShapeError: one of them has another shape.
    """
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ShapeError(
            f"positions has shape {tuple(positions.shape)}; expected (n_atoms, 3)."
        )
    if volumes.ndim != 1:
        raise ShapeError(
            f"volumes has shape {tuple(volumes.shape)}; expected (n_structures,)."
        )
    n_atoms = positions.shape[0]
    if pairs is not None and (
        pairs.ndim != 4 or pairs.shape[::2] != (n_atoms, 2) or pairs.shape[3] != 3
    ):
        raise ShapeError(
            f"pairs has shape {tuple(pairs.shape)}; expected (n_atoms, n_pairs, 2, 3) "
            f"with n_atoms={n_atoms}."
        )
    if tangents is None:
        return
    if tangents.ndim != 3 or tangents.shape[::2] != (n_atoms, 3):
        hint = " Use tangents[:, None, :]?" if tangents.ndim == 2 else ""
        raise ShapeError(
            f"tangents has shape {tuple(tangents.shape)}; expected (n_atoms, "
            f"n_probes, 3) with n_atoms={n_atoms}.{hint}"
        )
    if tangents.shape[1] == 0:
        raise ShapeError(
            "tangents holds no probe: n_probes must be at least 1. Pass "
            "tangents=None for energy, forces and stress only."
        )
