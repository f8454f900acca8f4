"""Errors of models over many materials: parity, histograms, softening."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pft_lightning.evaluation.folder import (
    FORCE_CONSTANTS_MAE,
    FREQUENCY_RATIO,
    MAX_FREQUENCY,
    MESH_FREQUENCY_MAE,
    THERMAL,
    error_of,
    reference_of,
)
from pft_lightning.plots.style import (
    QUANTITIES,
    colour,
    legend_outside,
    line_handles,
    line_style,
    marker_handles,
    new_figure,
    plain,
    scatter,
    with_unit,
)


# Model -> column of ``evaluation.folder`` -> (n_materials,), NaN where unknown.
Columns = Mapping[str, Mapping[str, np.ndarray]]

PARITY: Final = (MAX_FREQUENCY, *THERMAL)
HISTOGRAMS: Final = (
    MESH_FREQUENCY_MAE,
    FORCE_CONSTANTS_MAE,
    *map(error_of, PARITY),
)

# Smallest error that a histogram resolves, relative to the largest.
_FINEST = 1e-4
_MOST_BINS = 30

# Ratios outside this range are drawn on its edge.
_RATIOS = (0.0, 2.0)


def plot_parity(models: Columns, *, temperature: float = 300.0) -> Figure:
    """Draw the values of models against those of DFT.

    Values far outside the range of DFT are drawn on the edge, as hollow points.

    Args:
        models: per model the columns of ``PARITY``, and those of DFT.
        temperature: K, of the thermal properties.
    """
    figure = new_figure(9.0, 8.4)
    for axes, quantity in zip(figure.subplots(2, 2).flat, PARITY, strict=True):
        name, unit = QUANTITIES[quantity]
        at = "" if quantity == MAX_FREQUENCY else f" at {temperature:g} K"
        axes.set_title(name + at)
        axes.set_xlabel(f"DFT ({unit})")
        axes.set_ylabel(f"Model ({unit})")
        _draw_parity(axes, quantity, models)
    legend_outside(figure, marker_handles(list(models)))
    return figure


def plot_error_histograms(models: Columns) -> Figure:
    """Draw how the errors of each model are distributed over the materials.

    Bins are equal on a logarithmic axis. The dashed line is the median, the dotted one
    the mean.

    Args:
        models: per model the columns of ``HISTOGRAMS``.
    """
    figure = new_figure(9.0, 5.8)
    for axes, quantity in zip(figure.subplots(2, 3).flat, HISTOGRAMS, strict=True):
        axes.set_xlabel(with_unit(quantity))
        axes.set_ylabel("Materials")
        _draw_histogram(axes, {m: columns[quantity] for m, columns in models.items()})
    figure.suptitle("median dashed, mean dotted", fontsize="medium")
    legend_outside(figure, line_handles(list(models)))
    return figure


def plot_softening(models: Columns) -> Figure:
    """Draw the mean frequency of each material over that of DFT.

    Below 1 the model is softer than DFT.

    Args:
        models: per model the frequency ratio and the highest frequency of DFT.
    """
    figure = new_figure(9.0, 4.2)
    points, histogram = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    clipped = {
        label: np.clip(_finite(columns[FREQUENCY_RATIO]), *_RATIOS)
        for label, columns in models.items()
    }
    every = np.concatenate([*clipped.values(), np.array([0.95, 1.05])])
    edges = np.linspace(every.min(), every.max(), _bins(clipped.values()))
    for index, (label, columns) in enumerate(models.items()):
        ratio = columns[FREQUENCY_RATIO]
        inside = (ratio >= _RATIOS[0]) & (ratio <= _RATIOS[1])
        scatter(
            points,
            columns[reference_of(MAX_FREQUENCY)],
            np.clip(ratio, *_RATIOS),
            inside,
            index,
        )
        histogram.hist(
            clipped[label],
            bins=edges.tolist(),
            orientation="horizontal",
            histtype="step",
            color=colour(index),
            linestyle=line_style(index),
        )
        if len(clipped[label]):
            median = float(np.median(_finite(ratio)))
            histogram.axhline(median, color=colour(index), ls="--", lw=1.0)
    for axes in (points, histogram):
        axes.axhline(1.0, color="black", linewidth=0.8)
    points.set_xlabel(rf"DFT {with_unit(MAX_FREQUENCY)}")
    points.set_ylabel("Mean frequency, model / DFT")
    histogram.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    histogram.set_xlabel("Materials (median dashed)")
    legend_outside(figure, marker_handles(list(models)))
    return figure


class ForceConstantDensity:
    """Counts of force constants of a model against DFT, filled one material at a time.

    Bins follow the inverse hyperbolic sine: linear up to ``linear_width`` in eV/Å²,
    logarithmic beyond.
    """

    linear_width: Final = 0.05
    largest: Final = 300.0

    def __init__(self) -> None:
        reach = np.arcsinh(self.largest / self.linear_width)
        self.edges = self.linear_width * np.sinh(np.linspace(-reach, reach, 202))
        self.counts = np.zeros((201, 201))

    def add(self, reference: np.ndarray, model: np.ndarray) -> None:
        """Count the entries of one material, both of the same shape, eV/Å²."""
        pair = [
            np.clip(values.ravel(), -self.largest, self.largest)
            for values in (reference, model)
        ]
        known = np.isfinite(pair[0]) & np.isfinite(pair[1])
        self.counts += np.histogram2d(
            pair[0][known], pair[1][known], bins=[self.edges, self.edges]
        )[0]


def plot_force_constants(densities: Mapping[str, ForceConstantDensity]) -> Figure:
    """Draw the force constants of each model against those of DFT, as densities.

    Args:
        densities: by model.
    """
    n_columns = min(len(densities), 3)
    n_rows = -(-len(densities) // n_columns)
    figure = new_figure(3.6 * n_columns + 1.2, 3.7 * n_rows)
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    largest = max(density.counts.max() for density in densities.values())
    reach = max(_reach(density) for density in densities.values())
    ticks = [sign * 10.0**n for n in range(-1, 3) for sign in (-1, 1)]
    mesh = None
    for axes, (label, density) in zip(grid.flat, densities.items(), strict=False):
        mesh = axes.pcolormesh(
            density.edges,
            density.edges,
            np.ma.masked_equal(density.counts.T, 0),
            norm="log",
            vmin=1,
            vmax=max(largest, 10),
            cmap="viridis",
            rasterized=True,
        )
        axes.axline((0, 0), slope=1, color="black", linewidth=0.6)
        axes.set_xscale("asinh", linear_width=density.linear_width)
        axes.set_yscale("asinh", linear_width=density.linear_width)
        shown = sorted([0.0, *(t for t in ticks if abs(t) <= reach)])
        texts = [f"{tick:g}".replace("-", "−") for tick in shown]
        axes.set_xticks(shown, texts)
        axes.set_yticks(shown, texts)
        axes.minorticks_off()
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
        axes.set_box_aspect(1)
        axes.set_title(plain(label))
        axes.set_xlabel("DFT force constants (eV/Å²)")
        axes.set_ylabel("Model force constants (eV/Å²)")
    for axes in grid.flat[len(densities) :]:
        axes.set_axis_off()
    assert mesh is not None
    figure.colorbar(mesh, ax=grid, label="Entries of the force constants")
    return figure


def _draw_parity(axes: Axes, quantity: str, models: Columns) -> None:
    axes.set_box_aspect(1)
    theirs = [columns[reference_of(quantity)] for columns in models.values()]
    known = _finite(np.concatenate([np.array([]), *theirs]))
    if not len(known):
        _say_empty(axes)
        return
    low, high = float(known.min()), float(known.max())
    # Models may leave the range of DFT by half of it, or by a fifth of the values.
    slack = max(0.5 * (high - low), 0.2 * max(abs(low), abs(high)), 1e-6)
    ours = _finite(np.concatenate([columns[quantity] for columns in models.values()]))
    near = ours[(ours > low - slack) & (ours < high + slack)]
    low, high = min([low, *near]), max([high, *near])
    pad = 0.04 * (high - low) or 0.5 * slack
    low, high = low - pad, high + pad
    axes.axline((low, low), slope=1, color="black", linewidth=0.8)
    n_outside = 0
    for index, columns in enumerate(models.values()):
        values = columns[quantity]
        inside = (values >= low) & (values <= high)
        n_outside += int((np.isfinite(values) & ~inside).sum())
        x = columns[reference_of(quantity)]
        scatter(axes, x, np.clip(values, low, high), inside, index)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    if n_outside:
        axes.set_title(f"{axes.get_title()}, {n_outside} beyond the axis (hollow)")


def _draw_histogram(axes: Axes, errors: Mapping[str, np.ndarray]) -> None:
    finite = [_finite(values) for values in errors.values()]
    every = np.concatenate([np.array([]), *finite])
    if not len(every):
        _say_empty(axes)
        return
    largest = float(every.max()) or 1.0
    positive = every[every > 0]
    smallest = float(positive.min()) if len(positive) else largest
    smallest = max(min(smallest, 0.5 * largest), _FINEST * largest)
    edges = np.geomspace(smallest, largest, _bins(finite))
    for index, values in enumerate(finite):
        if not len(values):
            continue
        # Zero has no place on the axis: it counts in the first bin.
        clipped = np.clip(values, edges[0], edges[-1])
        axes.hist(
            clipped,
            bins=edges.tolist(),
            histtype="stepfilled",
            facecolor=(colour(index), 0.18),
            edgecolor=colour(index),
            linestyle=line_style(index),
        )
        for value, style in ((np.median(values), "--"), (np.mean(values), ":")):
            if value > 0:
                axes.axvline(value, color=colour(index), linestyle=style, lw=1.2)
    axes.set_xscale("log")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _bins(samples: Iterable[np.ndarray]) -> int:
    """Number of edges of bins that hold a few materials each, where there are many."""
    most = max((len(values) for values in samples), default=0)
    return int(np.clip(2 * most**0.5, 10, _MOST_BINS)) + 1


def _say_empty(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes)


def _reach(density: ForceConstantDensity) -> float:
    """Largest force constant that was counted, eV/Å², with a margin."""
    filled = np.flatnonzero(density.counts.any(axis=0) | density.counts.any(axis=1))
    if not len(filled):
        return 1.0
    return 1.3 * float(np.abs(density.edges[[filled[0], filled[-1] + 1]]).max())


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]
