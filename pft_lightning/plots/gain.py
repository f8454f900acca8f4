"""What fine-tuning gained on phonons, beside what it forgot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pft_lightning.evaluation.folder import FORGETTING
from pft_lightning.evaluation.trade_off import GAIN
from pft_lightning.plots.style import (
    colour,
    legend_outside,
    new_figure,
    plain,
    with_unit,
)


def plot_gain_and_forgetting(
    models: Mapping[str, Mapping[str, Any]],
    forgetting: Mapping[str, Mapping[str, Any]] | None = None,
) -> Figure:
    """Draw errors against DFT phonons beside errors on upstream data.

    Bars are means, diamonds medians over the materials; lower is better everywhere.

    Args:
        models: per model and metric of ``GAIN`` its ``mean`` and ``median``.
        forgetting: per model the errors of ``FORGETTING``; None or empty where there
            was no upstream data.
    """
    forgetting = forgetting or {}
    known = [name for name in FORGETTING if any(name in e for e in forgetting.values())]
    figure = new_figure(10.0 if known else 7.4, 6.4)
    left: Figure | SubFigure = figure
    if known:
        left, right = np.asarray(figure.subfigures(1, 2, width_ratios=[2.1, 1]))
        right.suptitle("Forgetting: errors on upstream data")
        for axes, name in zip(right.subplots(3, 1), FORGETTING, strict=True):
            errors = [forgetting.get(label, {}) for label in models]
            _draw_bars(axes, name, [_number(e.get(name)) for e in errors])
    left.suptitle("Gain: errors of phonons against DFT")
    for axes, name in zip(left.subplots(3, 2).flat, GAIN, strict=True):
        totals = [models[label].get(name) or {} for label in models]
        means = [_number(total.get("mean")) for total in totals]
        _draw_bars(axes, name, means, [_number(t.get("median")) for t in totals])
    handles = [
        Patch(color=colour(i), label=plain(label)) for i, label in enumerate(models)
    ]
    median = Line2D([], [], color="black", marker="D", ms=5, ls="", label="median")
    legend_outside(figure, [*handles, median])
    return figure


def _draw_bars(
    axes: Axes, name: str, means: list[float], medians: list[float] | None = None
) -> None:
    for index, mean in enumerate(means):
        if not math.isfinite(mean):
            continue
        bars = axes.bar(index, mean, color=colour(index), width=0.75)
        axes.bar_label(bars, fmt="%.3g", padding=2, fontsize="small")
        if medians is not None and math.isfinite(medians[index]):
            axes.plot(
                index - 0.26,
                medians[index],
                color="black",
                marker="D",
                markersize=5,
                markeredgecolor="white",
                clip_on=False,
            )
    axes.set_xticks([])
    axes.set_xlim(-0.6, len(means) - 0.4)
    # Room for the number above the highest bar.
    axes.margins(y=0.22)
    axes.set_ylim(bottom=0.0)
    axes.set_title(with_unit(name), fontsize="medium")


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
