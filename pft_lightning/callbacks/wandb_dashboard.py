"""What a run sends to Weights & Biases beyond Lightning's own logging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger


def log_before_after(logger: Logger, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Add the final table, and each change, to a W&B run; others are left alone.

    Args:
        logger: Of the trainer.
        metrics: Per metric its value ``before`` and ``after``.
    """
    if not isinstance(logger, WandbLogger):
        return
    rows = [
        [name, values.get("before"), values.get("after")]
        for name, values in metrics.items()
    ]
    logger.log_table(
        "summary/before_after", columns=["metric", "before", "after"], data=rows
    )
    for name, before, after in rows:
        logger.experiment.summary[f"before/{name}"] = before
        logger.experiment.summary[f"after/{name}"] = after
