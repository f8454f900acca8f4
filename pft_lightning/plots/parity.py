"""Positive values of models against those of DFT, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pft_lightning.plots.style import REFERENCE_COLOUR, mark_plainly, scatter


# Values of models this many times outside the range of DFT are drawn on the edge.
_SLACK: Final = 10.0
# The axes span at least this ratio, so that they have marks.
_LEAST_SPAN: Final = 30.0

_GUIDE: Final = {"color": REFERENCE_COLOUR, "lw": 0.8, "ls": "--"}


def draw_log_parity(
    axes: Axes,
    models: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    guides: tuple[float, float],
) -> int:
    """Draw values of models against those of DFT.

    Values far outside the range of DFT are drawn on the edge, as hollow points.

    Args:
        axes: to draw into.
        models: of DFT and of the model, (n_materials,) each, all positive; by model,
            of which one has a material at least.
        guides: of the model over DFT, of two dashed lines beside the diagonal.

    Returns:
        How many values are drawn on the edge.
    """
    theirs = np.concatenate([pair[0] for pair in models.values()])
    ours = np.concatenate([pair[1] for pair in models.values()])
    low, high = theirs.min(), theirs.max()
    near = ours[(ours > low / _SLACK) & (ours < high * _SLACK)]
    low, high = min([low, *near]), max([high, *near])
    pad = max(1.3, (_LEAST_SPAN * low / high) ** 0.5)
    low, high = low / pad, high * pad
    axes.axline((low, low), (high, high), color="black", linewidth=0.8)
    for factor in guides:
        axes.axline((low, factor * low), (high, factor * high), **_GUIDE)  # type: ignore[arg-type]
    n_outside = 0
    for index, (x, y) in enumerate(models.values()):
        inside = (y >= low) & (y <= high)
        n_outside += int((~inside).sum())
        scatter(axes, x, np.clip(y, low, high), inside, index)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    for axis in (axes.xaxis, axes.yaxis):
        mark_plainly(axis)
    axes.set_box_aspect(1)
    return n_outside


def guide_handle(label: str) -> Line2D:
    """Legend entry of the dashed lines."""
    return Line2D([], [], label=label, **_GUIDE)  # type: ignore[arg-type]
