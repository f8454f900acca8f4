"""What a run sends to Weights & Biases beyond Lightning's own logging."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pft_lightning.evaluation.folder import COLUMNS, REFERENCE
from pft_lightning.plots.bands import plot_bands
from pft_lightning.types import PhononProperties


_DPI = 110


def wants_figures(loggers: Iterable[Logger]) -> bool:
    """Tell whether one of the loggers shows tables and images."""
    return any(isinstance(logger, WandbLogger) for logger in loggers)


def log_phonons(
    logger: Logger,
    rows: Sequence[Mapping[str, Any]],
    properties: Mapping[str, Mapping[str, PhononProperties]],
    step: int,
) -> None:
    """Add a table of materials and band structures to a W&B run.

    Args:
        logger: Of the trainer; one that is not of W&B is left alone.
        rows: One per material, with ``COLUMNS``.
        properties: Per material to be drawn, those of the reference and the model.
        step: Optimiser steps taken.
    """
    if not isinstance(logger, WandbLogger):
        return
    data = [[row.get(column) for column in COLUMNS] for row in rows]
    logger.log_table("phonon/materials", columns=list(COLUMNS), data=data, step=step)
    images = []
    for name, by_label in properties.items():
        models = {k: v for k, v in by_label.items() if k != REFERENCE}
        title = f"{name}, step {step}"
        images.append(_render(plot_bands(by_label[REFERENCE], models, title=title)))
    if images:
        logger.log_image(
            "phonon/bands", images=images, step=step, caption=list(properties)
        )


def _render(figure: Figure) -> np.ndarray:
    """Draw a figure as an image (height, width, 4)."""
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())
