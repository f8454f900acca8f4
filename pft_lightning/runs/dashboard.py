"""What an evaluation sends to a logger of Lightning, as W&B's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from pft_lightning.errors import ConfigError
from pft_lightning.evaluation.folder import REPORT_FILE, Row, Summary
from pft_lightning.training.instantiation import instantiate


# Parts of a summary that are numbers of potentials; ``trade_off`` of its own task.
_PARTS = ("models", "forgetting", "trade_off")


@contextmanager
def dashboard(config: DictConfig, *, is_first: bool) -> Iterator[Logger | None]:
    """Open the logger before anything is computed, and end it in any case.

    Args:
        config: of ``pft-evaluate``, as checked.
        is_first: of the processes that share the materials; the others log nothing.

    Yields:
        None where nothing is logged.

    Raises:
        ConfigError: the logger cannot be made, or W&B not be reached.
    """
    wanted = is_first and config.logger
    logger = instantiate(config.logger, where="logger") if wanted else None
    if logger is None:
        yield None
        return
    open_experiment(logger)
    status = "failed"
    try:
        logger.log_hyperparams(OmegaConf.to_container(config, resolve=True))
        yield logger
        status = "success"
    finally:
        logger.finalize(status)
        if isinstance(logger, WandbLogger):
            # The next evaluation of this process would be taken for the same run.
            logger.experiment.finish(exit_code=int(status != "success"))


def open_experiment(logger: Logger) -> None:
    """Reach what a logger writes to, before anything is computed.

    Raises:
        ConfigError: W&B is not to be reached, or refuses.
    """
    if not isinstance(logger, WandbLogger):
        return
    try:
        _ = logger.experiment
    except Exception as error:
        if not type(error).__module__.startswith("wandb"):
            raise
        raise ConfigError(
            f"logger=wandb: {error} Log in (wandb login, or WANDB_API_KEY), keep the "
            "run here with logger.offline=true, or take logger=csv or none."
        ) from error


def send(logger: Logger, summary: Summary, rows: list[Row], folder: Path) -> None:
    """Send means, materials and the report of an evaluation.

    Args:
        logger: of Lightning; W&B's gets the table and the page too.
        summary: as in ``metrics.json``.
        rows: one per material and model.
        folder: of the evaluation.
    """
    numbers: dict[str, float] = {}
    for part in _PARTS:
        prefix = "" if part == "models" else f"{part}/"
        numbers |= dict(_flatten(summary.get(part), prefix))
    logger.log_metrics(numbers)
    if not isinstance(logger, WandbLogger):
        return
    columns = list(dict.fromkeys(column for row in rows for column in row))
    columns = [c for c in columns if all(_is_plain(row.get(c)) for row in rows)]
    data = [[row.get(column) for column in columns] for row in rows]
    logger.log_table("materials", columns=columns, data=data)
    if (folder / REPORT_FILE).is_file():
        logger.experiment.save(
            str(folder / REPORT_FILE), base_path=str(folder), policy="now"
        )


def _flatten(value: Any, prefix: str) -> Iterator[tuple[str, float]]:
    """Numbers within blocks, by their path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}{key}/")
    elif isinstance(value, (int, float)) and math.isfinite(value):
        yield prefix.rstrip("/"), float(value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))
