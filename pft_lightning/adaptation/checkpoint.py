"""Checkpoints that hold what is trained; the base model fills in the rest."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from pft_lightning.errors import CheckpointError


_ENTRY = "adaptation"
# Weights of a Lightning checkpoint: what is validated, and the present ones where an
# average is validated.
_STATES = ("state_dict", "current_model_state")


def reduce_checkpoint(
    checkpoint: dict[str, Any], module: torch.nn.Module, description: str
) -> None:
    """Leave out of a checkpoint, in place, all that training cannot change.

    Args:
        checkpoint: of Lightning.
        module: whose checkpoint it is.
        description: of the adaptation, to recognise it again.
    """
    frozen = _frozen_state(module)
    for key in _STATES:
        if key in checkpoint:
            state = checkpoint[key]
            checkpoint[key] = {n: v for n, v in state.items() if n not in frozen}
    checkpoint[_ENTRY] = {
        "description": description,
        "frozen": _fingerprint(frozen),
    }


def complete_checkpoint(
    checkpoint: dict[str, Any], module: torch.nn.Module, description: str
) -> None:
    """Add, in place, what ``reduce_checkpoint`` left out.

    Args:
        checkpoint: of Lightning; one that holds everything stays as it is.
        module: with the weights of the base model.
        description: of the adaptation.

    Raises:
        CheckpointError: another adaptation, or another base model.
    """
    entry = checkpoint.get(_ENTRY)
    if entry is None:
        return
    if entry["description"] != description:
        raise CheckpointError(
            f"the checkpoint was trained with {entry['description']}, this run has "
            f"{description}. Use the original setting, or start a new run."
        )
    frozen = _frozen_state(module)
    if entry["frozen"] != _fingerprint(frozen):
        raise CheckpointError(
            "the checkpoint holds only what was trained, and the other weights of "
            "model.checkpoint are not those that it was trained with. Give the "
            "original base model, in the original dtype."
        )
    for key in _STATES:
        if key in checkpoint:
            checkpoint[key] = {**frozen, **checkpoint[key]}


def _frozen_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    trained = {n for n, p in module.named_parameters() if p.requires_grad}
    return {n: v for n, v in module.state_dict().items() if n not in trained}


def _fingerprint(state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        flat = state[name].detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
