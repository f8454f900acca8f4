"""Figures of measured values beside those of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pft_lightning.plots.style import (
    REFERENCE_COLOUR,
    colour,
    legend_outside,
    line_handles,
    line_style,
    marker_handles,
    new_figure,
    plain,
    scatter,
)


# (n,) each: places on the first axis and values.
Curve = tuple[np.ndarray, np.ndarray]

_MEASURED: Final = "measured"
# Frequencies of models beyond the measured ones by more than this share of the highest
# one are drawn on the edge.
_SLACK: Final = 0.4


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredPanel:
    """One quantity of a crystal.

    Attributes:
        name: of it with its unit, as matplotlib text.
        points: measured temperatures and values; for densities a curve over THz.
        uncertainties: (n,), NaN where unknown; None for curves.
        curves: of the models, by label.
        axis: name of the first axis.
    """

    name: str
    points: Curve
    uncertainties: np.ndarray | None
    curves: Mapping[str, Curve]
    axis: str


def plot_frequencies(
    models: Mapping[str, Curve], uncertainties: Mapping[str, np.ndarray]
) -> Figure:
    """Draw frequencies of models against measured ones, and the differences.

    Args:
        models: measured frequencies and those of the model, (n,) each, THz; by label,
            one of them not empty.
        uncertainties: (n,), THz, NaN where unknown, by label.
    """
    figure = new_figure(9.6, 5.0)
    parity, beside = figure.subplots(1, 2)
    measured = np.concatenate([pair[0] for pair in models.values()])
    computed = np.concatenate([pair[1] for pair in models.values()])
    room = _SLACK * measured.max()
    shown = computed[(computed > -room) & (computed < measured.max() + room)]
    # A little wider than the points, but that zero may be at the edge.
    low = 1.05 * min([0.0, *shown])
    high = 1.05 * max([measured.max(), *shown])
    parity.axline((low, low), (high, high), color="black", linewidth=0.8)
    beside.axhline(0.0, color="black", linewidth=0.8)
    near = np.abs(computed - measured)[(computed >= low) & (computed <= high)]
    reach = max([0.01 * high, *near])
    n_outside = 0
    for index, (label, (theirs, ours)) in enumerate(models.items()):
        inside = (ours >= low) & (ours <= high)
        n_outside += int((~inside).sum())
        scatter(parity, theirs, np.clip(ours, low, high), inside, index)
        shown = np.clip(ours - theirs, -reach, reach)
        _draw_uncertainties(beside, theirs, shown, uncertainties[label], index)
        scatter(beside, theirs, shown, inside, index)
    parity.set(xlim=(low, high), ylim=(low, high))
    parity.set_box_aspect(1)
    parity.set_xlabel("Measured frequency (THz)")
    edge = f", {n_outside} beyond the axis (hollow)" if n_outside else ""
    parity.set_ylabel(f"Model (THz, imaginary < 0){edge}")
    beside.set_xlabel("Measured frequency (THz)")
    beside.set_ylabel("Model − measured (THz)")
    beside.set_xlim(0.0, None)
    legend_outside(figure, marker_handles(list(models)))
    return figure


def _draw_uncertainties(
    axes: Axes, x: np.ndarray, y: np.ndarray, sizes: np.ndarray, index: int
) -> None:
    known = np.isfinite(sizes)
    if known.any():
        axes.errorbar(
            x[known],
            y[known],
            sizes[known],
            fmt="none",
            ecolor=colour(index),
            elinewidth=0.8,
            alpha=0.6,
        )


def plot_crystal(
    panels: Sequence[MeasuredPanel], labels: Sequence[str], title: str
) -> Figure:
    """Draw all thermal properties and the density of states of a crystal.

    Args:
        panels: at least one.
        labels: of all models, whose places give colours.
        title: of the figure.
    """
    figure = new_figure(max(5.2, 4.4 * len(panels)), 4.2)
    grid: Any = figure.subplots(1, len(panels), squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=True):
        _draw_panel(axes, panel, labels)
    figure.suptitle(plain(title), fontsize="medium")
    legend_outside(figure, [_handle(panels), *line_handles(labels)])
    return figure


def _draw_panel(axes: Axes, panel: MeasuredPanel, labels: Sequence[str]) -> None:
    places, values = panel.points
    if panel.uncertainties is None:
        axes.fill_between(places, values, color=REFERENCE_COLOUR, linewidth=0)
    else:
        sizes = np.nan_to_num(panel.uncertainties)
        style = {"color": "black", "markersize": 4, "elinewidth": 0.8, "zorder": 3}
        axes.errorbar(places, values, sizes, fmt="o", **style)  # type: ignore[arg-type]
    for label, (x, y) in panel.curves.items():
        index = labels.index(label)
        axes.plot(x, y, color=colour(index), linestyle=line_style(index), linewidth=1.3)
    axes.set_xlabel(panel.axis)
    axes.set_ylabel(panel.name)
    axes.margins(x=0.02)
    if panel.uncertainties is None:
        axes.set_ylim(0.0, None)


def _handle(panels: Sequence[MeasuredPanel]) -> Artist:
    """Legend entry of what was measured."""
    if all(panel.uncertainties is None for panel in panels):
        return Line2D([], [], color=REFERENCE_COLOUR, linewidth=5, label=_MEASURED)
    return Line2D([], [], color="black", marker="o", ls="", ms=4, label=_MEASURED)
