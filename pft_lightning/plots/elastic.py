"""Moduli of models against those of DFT: parity, and errors by model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pft_lightning.plots.parity import draw_log_parity, guide_handle
from pft_lightning.plots.style import (
    REFERENCE_NAME,
    colour,
    hollow_handle,
    legend_outside,
    marker_handles,
    new_figure,
    scatter,
    spread,
)


# Modulus -> model -> moduli of DFT and of the model, (n_materials,) each, GPa, all
# positive. One model has a material at least, of each modulus.
Moduli = Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]

# Relative errors beyond are drawn on the edge.
_LARGEST: Final = 1.0
# Per cent; what the axis shows at least.
_LEAST: Final = 12.0


def plot_moduli_parity(moduli: Moduli) -> Figure:
    """Draw the moduli of models against those of DFT, on logarithmic axes.

    Args:
        moduli: GPa.
    """
    figure = new_figure(5.2 * len(moduli), 5.6)
    grid = figure.subplots(1, len(moduli), squeeze=False)
    labels: list[str] = []
    for axes, (name, models) in zip(grid.flat, moduli.items(), strict=True):
        n_outside = draw_log_parity(axes, models, guides=(0.9, 1.1))
        beyond = f", {n_outside} beyond the axis (hollow)" if n_outside else ""
        axes.set_title(f"{name}{beyond}")
        axes.set_xlabel(f"{REFERENCE_NAME} (GPa)")
        axes.set_ylabel("Model (GPa)")
        labels = list(models)
    legend_outside(figure, [*marker_handles(labels), guide_handle("±10 %")])
    return figure


def plot_moduli_errors(moduli: Moduli) -> Figure:
    """Draw the relative errors of all materials by model, with their medians.

    Args:
        moduli: GPa.
    """
    n_models = max(len(models) for models in moduli.values())
    width = max(3.8, 1.6 + 1.5 * n_models)
    figure = new_figure(width * len(moduli), 4.6)
    grid = figure.subplots(1, len(moduli), squeeze=False)
    labels: list[str] = []
    n_outside = 0
    for axes, (name, models) in zip(grid.flat, moduli.items(), strict=True):
        errors = {label: ours / theirs - 1 for label, (theirs, ours) in models.items()}
        n_outside += _draw_errors(axes, errors)
        axes.set_title(name)
        axes.set_ylabel(f"Model / {REFERENCE_NAME} − 1 (%)")
        labels = list(models)
    handles = marker_handles(labels)
    if n_outside:
        handles.append(hollow_handle("beyond 100 %"))
    legend_outside(figure, handles)
    return figure


def _draw_errors(axes: Axes, errors: Mapping[str, np.ndarray]) -> int:
    """Draw errors as fractions by model; give how many are drawn on the edge."""
    reach, n_outside, texts = _LEAST, 0, []
    for index, error in enumerate(errors.values()):
        if not len(error):
            texts.append("no material")
            continue
        inside = np.abs(error) <= _LARGEST
        n_outside += int((~inside).sum())
        shown = 100 * np.clip(error, -_LARGEST, _LARGEST)
        scatter(axes, spread(index, len(error)), shown, inside, index)
        median = 100 * float(np.median(error))
        axes.hlines(median, index - 0.4, index + 0.4, color=colour(index), lw=2.5)
        text = (
            f"median {median:+.1f} %\nmean |error| {100 * np.abs(error).mean():.1f} %"
        )
        texts.append(text.replace("-", "−"))
        reach = max(reach, float(np.abs(shown).max()))
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set_xlim(-0.6, len(errors) - 0.4)
    axes.set_ylim(-1.05 * reach, 1.05 * reach)
    axes.set_xticks(range(len(errors)), texts)
    axes.tick_params(axis="x", length=0)
    return n_outside
