"""``pft-export``: the potential of a run as one file of its framework, checked."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pft_lightning.cli.command import command
from pft_lightning.runs.checks import check_trust
from pft_lightning.runs.export import export


@command("export", after_stop="nothing was written; give the command again.")
def main(config: DictConfig) -> None:
    """Entry point of ``pft-export``."""
    check_trust(config, HydraConfig.get().overrides.task)
    export(config)
