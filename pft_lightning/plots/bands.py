"""Band structures and densities of states, models over DFT."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pft_lightning.plots.style import (
    REFERENCE_COLOUR,
    colour,
    legend_outside,
    line_handles,
    line_style,
    new_figure,
    plain,
)
from pft_lightning.types import BandStructure, PhononProperties


# A model that explodes must not squeeze the reference into a line: the axis ends at
# this many times the reference's highest frequency, up and down.
_LARGEST_STRETCH = 1.6


def plot_bands(
    reference: PhononProperties | None,
    models: Mapping[str, PhononProperties],
    *,
    title: str = "",
) -> Figure:
    """Draw band structure and density of states side by side.

    Imaginary frequencies are negative. A model whose primitive cell was relaxed has
    path segments of other lengths; they are stretched to the reference's. Without any
    band structure only the density of states is drawn.

    Args:
        reference: of DFT, drawn beneath; None where unknown.
        models: by label.
        title: above the axes.
    """
    drawn = [p for p in (reference, *models.values()) if p is not None]
    path = next((p.bands for p in drawn if p.bands is not None), None)
    figure = new_figure(9.0 if path else 4.0, 4.8)
    elsewhere: list[str] = []
    if path is None:
        dos_axes = figure.subplots()
        dos_axes.set_ylabel("Frequency (THz, imaginary < 0)")
    else:
        band_axes, dos_axes = figure.subplots(
            1, 2, sharey=True, width_ratios=[3.4, 1.0]
        )
        elsewhere = _draw_band_panel(band_axes, reference, models, path)
    _draw_dos_panel(dos_axes, reference, models)
    low, high, cut = frequency_limits(reference, models)
    dos_axes.set_ylim(low, high)
    dos_axes.set_xlim(left=0.0)
    dos_axes.set_xlabel("DOS (1/THz per\nprimitive cell)")
    for axes in figure.axes:
        axes.axhline(0.0, color="black", linewidth=0.6)
        if low < 0:
            axes.axhspan(low, 0.0, color="#F5E6C8", alpha=0.6, linewidth=0, zorder=0)
    notes = [f"{plain(label)} reaches beyond the axis" for label in cut]
    notes += [f"{plain(label)} has another path, not drawn" for label in elsewhere]
    figure.suptitle("\n".join([plain(title), *notes]), fontsize="medium")
    legend_outside(figure, line_handles(list(models), reference=reference is not None))
    if path is not None:
        _part_labels(figure, band_axes)
    return figure


def _draw_band_panel(
    axes: Axes,
    reference: PhononProperties | None,
    models: Mapping[str, PhononProperties],
    path: BandStructure,
) -> list[str]:
    """Draw all bands along a path; give the models that have another one."""
    axes.set_ylabel("Frequency (THz, imaginary < 0)")
    _draw_path(axes, path)
    if reference is not None and reference.bands is not None:
        _draw_bands(axes, reference.bands, path, REFERENCE_COLOUR, "-", 2.6)
    elsewhere = []
    for index, (label, properties) in enumerate(models.items()):
        bands = properties.bands
        if bands is not None and bands.labels == path.labels:
            _draw_bands(axes, bands, path, colour(index), line_style(index), 1.1)
        elif bands is not None:
            elsewhere.append(label)
    return elsewhere


def _draw_dos_panel(
    axes: Axes,
    reference: PhononProperties | None,
    models: Mapping[str, PhononProperties],
) -> None:
    """Draw all densities of states, that of the reference filled."""
    if reference is not None:
        axes.fill_betweenx(
            reference.dos_frequencies,
            reference.dos,
            color=REFERENCE_COLOUR,
            alpha=0.35,
            linewidth=0,
        )
        _draw_dos(axes, reference, REFERENCE_COLOUR, "-", 2.0)
    for index, properties in enumerate(models.values()):
        _draw_dos(axes, properties, colour(index), line_style(index), 1.1)


def path_ticks(bands: BandStructure) -> tuple[list[float], list[str]]:
    """Where segments begin and end, and what stands there.

    Where the path jumps, both labels stand side by side.
    """
    positions = [float(bands.distances[0][0])]
    texts = [bands.labels[0][0]]
    for n, distances in enumerate(bands.distances):
        end = bands.labels[n][1]
        if n + 1 < len(bands.labels) and bands.labels[n + 1][0] != end:
            end = f"{end}|{bands.labels[n + 1][0]}"
        positions.append(float(distances[-1]))
        texts.append(end)
    return positions, texts


def _draw_path(axes: Axes, path: BandStructure) -> None:
    positions, texts = path_ticks(path)
    axes.set_xticks(positions, texts)
    axes.set_xlim(positions[0], positions[-1])
    axes.set_xlabel("Wave vector")
    for position in positions[1:-1]:
        axes.axvline(position, color="0.4", linewidth=0.6)


def positions_along(path: BandStructure, bands: BandStructure) -> list[np.ndarray]:
    """Distances per segment (n_q,), Å⁻¹, of bands whose segments have other lengths.

    They are stretched to those of the path.
    """
    return [
        np.interp(own, own[[0, -1]], goal[[0, -1]])
        for own, goal in zip(bands.distances, path.distances, strict=True)
    ]


def _draw_bands(
    axes: Axes,
    bands: BandStructure,
    path: BandStructure,
    shade: str,
    style: str,
    width: float,
) -> None:
    """Draw one line per band, interrupted between segments."""
    gap = np.full((1, bands.frequencies[0].shape[1]), np.nan)
    x: list[np.ndarray] = []
    y: list[np.ndarray] = []
    for places, frequencies in zip(
        positions_along(path, bands), bands.frequencies, strict=True
    ):
        x += [places, np.array([np.nan])]
        y += [frequencies, gap]
    axes.plot(
        np.concatenate(x),
        np.concatenate(y),
        color=shade,
        linestyle=style,
        linewidth=width,
        solid_capstyle="butt",
    )


def _draw_dos(
    axes: Axes, properties: PhononProperties, shade: str, style: str, width: float
) -> None:
    axes.plot(
        properties.dos,
        properties.dos_frequencies,
        color=shade,
        linestyle=style,
        linewidth=width,
    )


def frequency_limits(
    reference: PhononProperties | None, models: Mapping[str, PhononProperties]
) -> tuple[float, float, list[str]]:
    """Limits of the frequency axis, THz, and the models that reach beyond them.

    Args:
        reference: of DFT, which is drawn whole; None where unknown.
        models: by label.
    """
    ranges = {label: _range(p) for label, p in models.items()}
    if reference is None:
        low = min((r[0] for r in ranges.values()), default=0.0)
        high = max((r[1] for r in ranges.values()), default=1.0)
    else:
        low, high = _range(reference)
        reach = _LARGEST_STRETCH * max(high, -low)
        low = max(min([low, *(r[0] for r in ranges.values())]), -reach)
        high = min(max([high, *(r[1] for r in ranges.values())]), reach)
    pad = 0.04 * (high - low) or 1.0
    low, high = low - pad, high + pad
    cut = [label for label, (a, b) in ranges.items() if a < low or b > high]
    return low, high, cut


def _range(properties: PhononProperties) -> tuple[float, float]:
    every = [properties.mesh_frequencies.ravel()]
    if properties.bands is not None:
        every += [f.ravel() for f in properties.bands.frequencies]
    values = np.concatenate(every)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    return float(values.min()), float(values.max())


def _part_labels(figure: Figure, axes: Axes) -> None:
    """Move labels that would overlap their neighbour to another row."""
    figure.draw_without_rendering()
    ends: list[float] = []
    texts = []
    for tick in axes.get_xticklabels():
        box = tick.get_window_extent()
        space = 0.25 * box.height
        row = next((n for n, end in enumerate(ends) if box.x0 > end), len(ends))
        ends[row : row + 1] = [box.x1 + space]
        texts.append("\n" * row + tick.get_text())
    axes.set_xticks(axes.get_xticks(), texts)
