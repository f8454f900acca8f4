"""Double wells: energies of models along the directions of soft modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pft_lightning.plots.style import (
    colour,
    legend_outside,
    line_handles,
    line_style,
    marker,
    new_figure,
    plain,
)


# Title -> model -> amplitudes (n,), Å AMU^(1/2), and energies (n,), meV.
Paths = Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]

_COLUMNS: Final = 3
# How far above zero a panel reaches, in depths of its deepest well.
_ABOVE: Final = 0.8


def plot_wells(paths: Paths, labels: Sequence[str]) -> Figure:
    """Draw the energy over the amplitude, one panel for each direction.

    Args:
        paths: at least one.
        labels: of all models, whose places give colours.
    """
    columns = min(_COLUMNS, len(paths))
    rows = -(-len(paths) // columns)
    figure = new_figure(1.0 + 3.8 * columns, 0.8 + 3.2 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(paths) :]:
        axes.set_visible(False)
    for axes, (title, models) in zip(grid.flat, paths.items(), strict=False):
        _draw(axes, models, labels)
        axes.set_title(plain(title), fontsize="medium")
        axes.set_xlabel(r"Amplitude (Å AMU$^{1/2}$)")
        axes.set_ylabel("Energy (meV / primitive cell)")
    legend_outside(figure, line_handles(labels))
    return figure


def _draw(
    axes: Axes,
    models: Mapping[str, tuple[np.ndarray, np.ndarray]],
    labels: Sequence[str],
) -> None:
    lowest = 0.0
    for label, (amplitudes, energies) in models.items():
        index = labels.index(label)
        axes.plot(
            amplitudes,
            energies,
            color=colour(index),
            linestyle=line_style(index),
            marker=marker(index),
            markersize=4,
        )
        lowest = min(lowest, float(np.nanmin(energies)))
    axes.axhline(0.0, color="black", linewidth=0.8)
    if lowest < 0:
        # Ends of paths, where atoms are near each other, would hide the wells.
        axes.set_ylim(1.15 * lowest, -_ABOVE * lowest)
