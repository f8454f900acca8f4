"""Thermal conductivities of models against DFT: parity, scores, spectra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pft_lightning.evaluation.conductivity.score import FAILED_SCORE
from pft_lightning.evaluation.conductivity.summary import Spectrum
from pft_lightning.plots.parity import draw_log_parity, guide_handle
from pft_lightning.plots.style import (
    REFERENCE_COLOUR,
    REFERENCE_NAME,
    colour,
    hollow_handle,
    legend_outside,
    line_handles,
    line_style,
    marker_handles,
    new_figure,
    plain,
    scatter,
    spread,
)


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """SRME of a model.

    Attributes:
        srme: (n_materials,) of those with a reference.
        failed: (n_materials,), whether it is the score of a failure.
    """

    srme: np.ndarray
    failed: np.ndarray


def plot_kappa_parity(
    models: Mapping[str, tuple[np.ndarray, np.ndarray]], *, temperature: float
) -> Figure:
    """Draw the conductivities of models against those of DFT, on logarithmic axes.

    Values far outside the range of DFT are drawn on the edge, as hollow points.

    Args:
        models: of DFT and of the model, (n_materials,) each, W/m/K, all positive; by
            model, of which one has a material at least.
        temperature: K.
    """
    figure = new_figure(6.2, 6.2)
    axes = figure.subplots()
    n_outside = draw_log_parity(axes, models, guides=(0.5, 2.0))
    beyond = f", {n_outside} beyond the axis (hollow)" if n_outside else ""
    axes.set_title(f"κ at {temperature:g} K{beyond}")
    axes.set_xlabel(f"{REFERENCE_NAME} (W/m/K)")
    axes.set_ylabel("Model (W/m/K)")
    handles = [*marker_handles(list(models)), guide_handle("factor of 2")]
    legend_outside(figure, handles)
    return figure


def plot_srme(models: Mapping[str, Scores]) -> Figure:
    """Draw the SRME of all materials by model, with the means.

    Args:
        models: scores by model, of which one has a material at least.
    """
    figure = new_figure(max(5.0, 2.2 + 1.3 * len(models)), 4.8)
    axes = figure.subplots()
    for index, scores in enumerate(models.values()):
        n = len(scores.srme)
        if not n:
            continue
        mean = float(scores.srme.mean())
        bars = axes.bar(index, mean, width=0.75, color=(colour(index), 0.25))
        axes.bar_label(bars, fmt="%.3f", padding=2, label_type="center")
        axes.hlines(mean, index - 0.375, index + 0.375, color=colour(index), lw=2)
        scatter(axes, spread(index, n), scores.srme, ~scores.failed, index)
    axes.axhline(FAILED_SCORE.srme, color="black", linewidth=0.6, linestyle=":")
    axes.set_xlim(-0.6, len(models) - 0.4)
    axes.set_ylim(0, 1.05 * FAILED_SCORE.srme)
    axes.set_xticks([])
    axes.set_ylabel("SRME")
    axes.set_title("SRME by model: materials, and their mean")
    handles = marker_handles(list(models))
    if any(scores.failed.any() for scores in models.values()):
        handles.append(hollow_handle("failed, counts 2"))
    legend_outside(figure, handles)
    return figure


def plot_spectra(spectra: Sequence[Spectrum], labels: Sequence[str]) -> Figure:
    """Draw the conductivities of materials by frequency, and summed up to it.

    Args:
        spectra: one per material, one at least.
        labels: of all models, whose places give them their colours.
    """
    figure = new_figure(9.4, 2.9 * len(spectra) + 0.5)
    grid = figure.subplots(len(spectra), 2, squeeze=False)
    for (left, right), spectrum in zip(grid, spectra, strict=True):
        _draw_spectrum(left, right, spectrum, labels)
    for axes in grid[-1]:
        axes.set_xlabel("Frequency (THz)")
    legend_outside(figure, line_handles(labels, reference=True))
    return figure


def _draw_spectrum(
    left: Axes, right: Axes, spectrum: Spectrum, labels: Sequence[str]
) -> None:
    centres = np.array(spectrum["frequencies"])
    width = centres[1] - centres[0]
    edges = np.append(centres - width / 2, centres[-1] + width / 2)
    dft = np.array(spectrum["reference"])
    left.stairs(dft, edges, fill=True, color=REFERENCE_COLOUR)
    right.plot(edges, _sum_up(dft, width), color=REFERENCE_COLOUR, linewidth=3)
    for index, label in enumerate(labels):
        if label not in spectrum["models"]:
            continue
        density = np.array(spectrum["models"][label])
        shade, style = colour(index), line_style(index)
        left.stairs(density, edges, color=shade, linestyle=style, linewidth=1.3)
        right.plot(edges, _sum_up(density, width), color=shade, linestyle=style)
    name = " ".join(dict.fromkeys([spectrum["formula"], spectrum["name"]]))
    left.set_title(plain(name), loc="left", fontsize="medium")
    left.set_ylabel("κ(ω) (W/m/K/THz)")
    right.set_title(f"SRME {spectrum['srme']:.3f}", loc="right", fontsize="medium")
    right.set_ylabel("κ up to ω (W/m/K)")
    for axes in (left, right):
        axes.set_xlim(0, edges[-1])
        axes.set_ylim(bottom=0)


def _sum_up(density: np.ndarray, width: float) -> np.ndarray:
    """Conductivity of all modes up to each edge of the bins, W/m/K."""
    return np.append(0.0, np.cumsum(density) * width)
