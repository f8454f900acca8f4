"""``pft-export``: the potential of a run as one file of its framework."""

from __future__ import annotations

from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig

from pft_lightning.backends.base import EnergyModel
from pft_lightning.cli.common import report_errors
from pft_lightning.cli.run_folder import RunFolder
from pft_lightning.cli.train import build_module
from pft_lightning.errors import CheckpointError


def export(config: DictConfig) -> EnergyModel:
    """Write the weights of a checkpoint, merged with those of the base model.

    Args:
        config: As composed from ``conf/export.yaml``.

    Returns:
        The model that was written.

    Raises:
        CheckpointError: There is no such run or checkpoint, or the base model is not
            the one that the run started from.
    """
    folder = RunFolder.existing(config.run)
    checkpoints = {"best": folder.best_checkpoint, "last": folder.last_checkpoint}
    path = checkpoints.get(config.checkpoint, Path(config.checkpoint))
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint; expected checkpoint=best, last, or a file."
        )
    module = build_module(folder.read_config())
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"])
    module.model.save(config.out)
    print(f"{config.out}: the potential of {path}")
    return module.model


@hydra.main(
    version_base="1.3", config_path="pkg://pft_lightning.conf", config_name="export"
)
@report_errors
def main(config: DictConfig) -> None:
    """Entry point of ``pft-export``."""
    export(config)
