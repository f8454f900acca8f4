"""``pft-evaluate``: phonons, thermal properties and forgetting against DFT."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pft_lightning.cli.command import command
from pft_lightning.runs.checks import check_trust
from pft_lightning.runs.evaluate import check_evaluation, evaluate
from pft_lightning.runs.memory import keep_freed_memory


@command(
    "evaluate",
    after_stop="what is finished lies in the folder of the evaluation; the same "
    "command goes on from there.",
)
def main(config: DictConfig) -> None:
    """Entry point of ``pft-evaluate``."""
    check_trust(config, HydraConfig.get().overrides.task)
    keep_freed_memory()
    check_evaluation(evaluate(config).summary)
