"""``pft-train``: fine-tune a potential on force constants."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pft_lightning.cli.command import command
from pft_lightning.runs.checks import check_trust
from pft_lightning.runs.folder import RunFolder
from pft_lightning.runs.memory import keep_freed_memory
from pft_lightning.runs.next_steps import next_commands
from pft_lightning.runs.tables import print_before_after
from pft_lightning.runs.train import train


def _after_stop(config: DictConfig | None) -> str:
    """What to do after a stop, which may have come before there was a checkpoint."""
    if config is None or RunFolder(config.paths.run).resume_checkpoint() is None:
        return "no step is saved; the same command with resume=true begins anew."
    return "the same command with resume=true goes on from the last checkpoint."


@command("train", after_stop=_after_stop)
def main(config: DictConfig) -> None:
    """Entry point of ``pft-train``."""
    overrides = HydraConfig.get().overrides.task
    check_trust(config, overrides)
    keep_freed_memory()
    summary = train(config, overrides)
    if "model" in summary:  # in the first process
        folder = RunFolder(config.paths.run)
        result = folder.path / summary["model"]
        # The folder knows the frames that the run made.
        told = folder.read_config() if config.replay.n_frames else config
        print_before_after(summary, result, next_commands(told, result))
