"""Third-order force constants of models against DFT: errors, and parity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pft_lightning.plots.style import (
    REFERENCE_COLOUR,
    REFERENCE_NAME,
    legend_outside,
    mark_plainly,
    marker_handles,
    new_figure,
    plain,
    scatter,
)


# Size of DFT and errors of models by label, (n_materials,) each, meV/Å³; NaN where
# unknown.
Errors = tuple[np.ndarray, Mapping[str, np.ndarray]]

# eV/Å³, up to which the axes of the parity are linear.
_LINEAR: Final = 0.1

_SIZE: Final = {"color": REFERENCE_COLOUR, "marker": "|", "ls": "", "ms": 16, "mew": 3}


def plot_third_order_errors(
    materials: Sequence[str], panels: Mapping[str, Errors]
) -> Figure:
    """Draw the errors of models by material, beside the size of what they are of.

    Args:
        materials: names, (n_materials,), the first at the top.
        panels: errors by what they are means over, one at least.
    """
    figure = new_figure(4.2 * len(panels) + 1.6, 0.34 * len(materials) + 1.9)
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)
    places = np.arange(len(materials), dtype=np.float64)
    labels: list[str] = []
    for axes, (name, (size, models)) in zip(grid.flat, panels.items(), strict=True):
        axes.plot(size, places, **_SIZE)
        for index, errors in enumerate(models.values()):
            known = errors > 0  # zero has no place on the axis
            x, y = errors[known], places[known]
            scatter(axes, x, y, np.ones(len(x), dtype=bool), index)
        axes.set_xscale("log")
        mark_plainly(axes.xaxis)
        axes.set_title(name)
        axes.set_xlabel("Mean absolute error (meV/Å³)")
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        labels = list(models)
    grid[0, 0].set_yticks(places, [plain(name) for name in materials])
    grid[0, 0].set_ylim(len(materials) - 0.5, -0.5)
    size_of = f"mean absolute value of {REFERENCE_NAME}"
    handle = Line2D([], [], label=size_of, **_SIZE)  # type: ignore[arg-type]
    legend_outside(figure, [*marker_handles(labels), handle])
    return figure


def plot_third_order_parity(
    models: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Figure:
    """Draw third-order force constants of each model against those of DFT.

    Args:
        models: of DFT and of the model, (n_elements,) each, eV/Å³; by model, of which
            one has an element at least.
    """
    n_columns = min(len(models), 3)
    n_rows = -(-len(models) // n_columns)
    figure = new_figure(4.0 * n_columns + 0.4, 4.3 * n_rows)
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    reach = 1.3 * max(
        float(np.abs(values).max())
        for pair in models.values()
        for values in pair
        if len(values)
    )
    for index, (axes, label) in enumerate(zip(grid.flat, models, strict=False)):
        theirs, ours = models[label]
        scatter(axes, theirs, ours, np.ones(len(theirs), dtype=bool), index)
        axes.axline((0, 0), slope=1, color="black", linewidth=0.8)
        axes.set_title(plain(label))
        axes.set_xlabel(f"{REFERENCE_NAME} (eV/Å³)")
        axes.set_ylabel("Model (eV/Å³)")
        _scale(axes, reach)
    for axes in grid.flat[len(models) :]:
        axes.set_axis_off()
    return figure


def _scale(axes: Axes, reach: float) -> None:
    """Make both axes linear near zero and logarithmic beyond, with plain numbers."""
    # Those near zero would be drawn over each other.
    sizes = [10.0**n for n in range(-1, 4) if reach / 50 < 10.0**n <= reach]
    ticks = sorted([0.0, *sizes, *(-size for size in sizes)])
    texts = [f"{tick:g}".replace("-", "−") for tick in ticks]
    axes.set_xscale("asinh", linear_width=_LINEAR)
    axes.set_yscale("asinh", linear_width=_LINEAR)
    axes.set_xticks(ticks, texts)
    axes.set_yticks(ticks, texts)
    axes.minorticks_off()
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
    axes.set_box_aspect(1)
