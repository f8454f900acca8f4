"""What all figures share: colours, names with units, legends beside the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from pft_lightning.evaluation import folder as schema


REFERENCE_COLOUR: Final = "0.62"
REFERENCE_NAME: Final = "DFT"

# Okabe and Ito: told apart with any colour vision.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# After all colours, the next models get another line.
LineStyle = Literal["-", "--", ":", "-."]
_LINES: Final[tuple[LineStyle, ...]] = ("-", "--", ":", "-.")
_MARKERS: Final = ("o", "^", "s", "D", "v", "P")

# Half of the width over which the points of a model are spread.
_SPREAD: Final = 0.28

_LONGEST_NAME: Final = 36

OMEGA_MAX: Final = r"$\omega_\mathrm{max}$"
OMEGA_AVG: Final = r"$\omega_\mathrm{avg}$"
OMEGA_MIN: Final = r"$\omega_\mathrm{min}$"

_NAMES: Final = {
    schema.MESH_FREQUENCY_MAE: "frequency MAE",
    schema.COMMENSURATE_FREQUENCY_MAE: "frequency MAE, commensurate q",
    schema.FORCE_CONSTANTS_MAE: "force constants MAE",
    schema.MAX_FREQUENCY_ERROR: f"{OMEGA_MAX} error",
    schema.MAX_FREQUENCY_ERROR_K: f"{OMEGA_MAX} error",
    schema.ENTROPY_ERROR: "$S$ error",
    schema.FREE_ENERGY_ERROR: "$F$ error",
    schema.HEAT_CAPACITY_ERROR: "$C_V$ error",
    schema.curve_mae_of(schema.ENTROPY): "$S(T)$ MAE",
    schema.curve_mae_of(schema.FREE_ENERGY): "$F(T)$ MAE",
    schema.curve_mae_of(schema.HEAT_CAPACITY): "$C_V(T)$ MAE",
    schema.DOS_ERROR: "DOS error",
    schema.SPECTRUM_W1: "spectrum distance $W_1$",
    **{
        name: f"{text} along the path"
        for name, text in zip(
            schema.BANDS,
            (
                f"{OMEGA_MAX} error",
                f"{OMEGA_AVG} error",
                f"{OMEGA_MIN} error",
                "frequency MAE",
            ),
            strict=True,
        )
    },
    schema.FREQUENCY_RATIO: "frequency ratio",
    schema.VOLUME_RATIO: "volume ratio",
    schema.MAX_FREQUENCY: OMEGA_MAX,
    schema.ENTROPY: "$S$",
    schema.FREE_ENERGY: "$F$",
    schema.HEAT_CAPACITY: "$C_V$",
    **dict(
        zip(schema.FORGETTING, ("energy MAE", "forces MAE", "stress MAE"), strict=True)
    ),
}

# Quantity -> name as matplotlib text, unit.
QUANTITIES: Final = {
    column: (name, schema.UNITS[column]) for column, name in _NAMES.items()
}


def with_unit(quantity: str) -> str:
    """Name of a quantity with its unit, as matplotlib text."""
    name, unit = QUANTITIES[quantity]
    return f"{name} ({unit})" if unit else name


def colour(index: int) -> str:
    """Colour of the model with this index."""
    return _COLOURS[index % len(_COLOURS)]


def line_style(index: int) -> LineStyle:
    """Line of the model with this index."""
    return _LINES[index // len(_COLOURS) % len(_LINES)]


def line_class(index: int) -> str:
    """Classes of the lines of the model with this index in a page."""
    n_colours = len(_COLOURS)
    return f"c{index % n_colours} d{index // n_colours % len(_LINES)}"


def marker(index: int) -> str:
    """Marker of the model with this index."""
    return _MARKERS[index % len(_MARKERS)]


def plain(text: str) -> str:
    """Text that matplotlib draws as it is, shortened where it is long.

    Names of files and models may hold "$", which would start a formula, or begin with
    "_", which would hide them from legends.
    """
    if len(text) > _LONGEST_NAME:
        text = f"{text[: _LONGEST_NAME - 1]}…"
    text = text.replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure that belongs to no window; sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def reference_handle() -> Line2D:
    """Legend entry of the DFT reference."""
    return Line2D([], [], color=REFERENCE_COLOUR, linewidth=3, label=REFERENCE_NAME)


def line_handles(names: Sequence[str], *, reference: bool = False) -> list[Artist]:
    """Legend entries of models drawn as lines."""
    lines: list[Artist] = [
        Line2D([], [], color=colour(i), linestyle=line_style(i), label=plain(name))
        for i, name in enumerate(names)
    ]
    return [reference_handle(), *lines] if reference else lines


def marker_handles(names: Sequence[str]) -> list[Artist]:
    """Legend entries of models drawn as points."""
    return [
        Line2D([], [], color=colour(i), marker=marker(i), ls="", label=plain(name))
        for i, name in enumerate(names)
    ]


def scatter(
    axes: Axes, x: np.ndarray, y: np.ndarray, inside: np.ndarray, index: int
) -> None:
    """Draw points of a model, hollow where they lie on the edge in place of beyond it.

    Args:
        axes: to draw into.
        x: (n_points,).
        y: (n_points,), NaN where unknown.
        inside: (n_points,), whether the value is not beyond the edge.
        index: of the model.
    """
    size = float(np.clip(2000 / max(len(x), 1), 8, 30))
    shade, form = colour(index), marker(index)
    axes.scatter(
        x[inside],
        y[inside],
        s=size,
        marker=form,
        color=shade,
        alpha=0.65,
        linewidths=0,
    )
    outside = np.isfinite(y) & ~inside
    if outside.any():
        axes.scatter(
            x[outside],
            y[outside],
            s=2 * size,
            marker=form,
            facecolors="none",
            edgecolors=shade,
            clip_on=False,
        )


def spread(index: int, n_points: int) -> np.ndarray:
    """Places (n_points,) of points of a model in its column, left to right.

    In the order of the materials, so that equal values stay readable.
    """
    if n_points < 2:
        return np.full(n_points, float(index))
    return index + _SPREAD * np.linspace(-1, 1, n_points)


def hollow_handle(label: str) -> Line2D:
    """Legend entry of points that are drawn hollow."""
    return Line2D(
        [], [], marker="o", ls="", markerfacecolor="none", color="black", label=label
    )


def mark_plainly(axis: Axis) -> None:
    """Mark a logarithmic axis whose limits are set at 1, 2, 5, 10, ... in digits.

    Of more than three powers of ten only these are marked.
    """
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e3 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def legend_outside(
    figure: Figure | SubFigure, handles: Sequence[Artist], columns: int = 4
) -> None:
    """Put the legend below the axes, where it covers no data."""
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=min(len(handles), columns),
        frameon=False,
    )
