"""``pft-train``: fine-tune a potential on force constants."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pft_lightning.cli.command import command
from pft_lightning.runs.checks import check_trust
from pft_lightning.runs.memory import keep_freed_memory
from pft_lightning.runs.train import train


@command(
    "train",
    after_stop="the same command with resume=true goes on from the last checkpoint.",
)
def main(config: DictConfig) -> None:
    """Entry point of ``pft-train``."""
    overrides = HydraConfig.get().overrides.task
    check_trust(config, overrides)
    keep_freed_memory()
    train(config, overrides)
