"""Thermal expansion of a crystal: curves over temperature, and its modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pft_lightning.plots.style import (
    REFERENCE_COLOUR,
    colour,
    legend_outside,
    line_handles,
    line_style,
    marker,
    new_figure,
    plain,
)


# Quantity -> model -> temperatures (n,), K, and values (n,).
Curves = Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]

# Frequencies (n,), THz, and Grüneisen parameters (n,).
Modes = tuple[np.ndarray, np.ndarray]

_REACH: Final = 6.0  # γ beyond is drawn on the edge: soft modes have any


def plot_expansion(
    curves: Curves,
    reference: Mapping[str, tuple[np.ndarray, np.ndarray]],
    modes: Mapping[str, Modes],
    reference_modes: Modes | None,
    labels: Sequence[str],
    title: str,
) -> Figure:
    """Draw all quantities over temperature, and Grüneisen parameters over frequency.

    Args:
        curves: of models, by the name of the quantity with its unit.
        reference: curves to compare with, by the same names; may be empty.
        modes: by model.
        reference_modes: to compare with; None where there are none.
        labels: of all models, whose places give colours.
        title: of the figure.
    """
    figure = new_figure(11.0, 7.0)
    panels = list(figure.subplots(2, 2).flat)
    for axes, (name, models) in zip(panels, curves.items(), strict=False):
        if name in reference:
            axes.plot(*reference[name], color=REFERENCE_COLOUR, linewidth=3.0)
        for label, (temperatures, values) in models.items():
            index = labels.index(label)
            axes.plot(
                temperatures,
                values,
                color=colour(index),
                linestyle=line_style(index),
                linewidth=1.3,
            )
        axes.set_xlabel("Temperature (K)")
        axes.set_ylabel(name)
        axes.margins(x=0)
    _draw_modes(panels[-1], modes, reference_modes, labels)
    figure.suptitle(plain(title), fontsize="medium")
    compared = bool(reference) or reference_modes is not None
    legend_outside(figure, line_handles(labels, reference=compared))
    return figure


def _draw_modes(
    axes: Axes,
    modes: Mapping[str, Modes],
    reference: Modes | None,
    labels: Sequence[str],
) -> None:
    if reference is not None:
        frequencies, gruneisen = reference
        axes.scatter(
            frequencies,
            np.clip(gruneisen, -_REACH, _REACH),
            s=16,
            color=REFERENCE_COLOUR,
            linewidths=0,
        )
    for label, (frequencies, gruneisen) in modes.items():
        index = labels.index(label)
        axes.scatter(
            frequencies,
            np.clip(gruneisen, -_REACH, _REACH),
            s=4,
            marker=marker(index),
            color=colour(index),
            linewidths=0,
            alpha=0.6,
        )
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set_xlabel("Frequency (THz)")
    axes.set_ylabel(r"Grüneisen parameter $\gamma$")
    if not modes:
        axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes)
