"""``pft-prepare``: stores of phonon calculations, and structures to be labelled."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from pft_lightning.cli.command import command
from pft_lightning.data.store import PrepareReport
from pft_lightning.errors import ConfigError
from pft_lightning.options.check import check_options
from pft_lightning.options.schema import Prepare
from pft_lightning.preparation.tasks import TASKS


def prepare(config: DictConfig) -> PrepareReport | None:
    """Run the task of a composed configuration.

    Returns:
        The report of ``task=store``.

    Raises:
        ConfigError: Unknown task, or an option of another type or range.
        DataFormatError: No source was found, or none could be read.
    """
    config = _check(config)
    return TASKS[config.task](config)


def _check(config: DictConfig) -> DictConfig:
    not_needed = () if config.task == "store" else ("phonons",)
    config = check_options(config, Prepare, not_needed=not_needed)
    out = Path(config.out)
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise ConfigError(f"out={out}: {above} is a file; expected a folder.")
    return config


@command(
    "prepare",
    after_stop="the same command goes on where this one has finished a part, and "
    "begins again otherwise.",
)
def main(config: DictConfig) -> None:
    """Entry point of ``pft-prepare``."""
    prepare(config)
